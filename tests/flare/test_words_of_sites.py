"""Whatever a site writes into its message, the server's log keeps its lines and a terminal obeys nothing."""

import unicodedata

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey
from nvflare.app_common.app_constant import AppConstants

from fedmr.flare.aggregators import EqualAggregator, WeightedAggregator
from fedmr.flare.he import PackedAggregator
from fedmr.flare.robust import RobustAggregator

HOSTILE = "x\n2026-01-01 00:00:00,000 - ScatterAndGather - INFO - Round 99 finished.\x1b[2J\u202e\x9b31m"


def message(kind=DataKind.WEIGHT_DIFF, number=0):
    shareable = DXO(kind, data={"w": np.zeros(3, np.float32)}).to_shareable()
    shareable.add_cookie(AppConstants.CONTRIBUTION_ROUND, number)
    shareable.set_header(ReservedHeaderKey.PEER_PROPS, {ReservedKey.IDENTITY_NAME: "site-1"})
    return shareable


@pytest.mark.parametrize("made", [WeightedAggregator, EqualAggregator, RobustAggregator, PackedAggregator])
@pytest.mark.parametrize("words", [{"kind": HOSTILE}, {"number": HOSTILE}, {"kind": HOSTILE * 1000}])
def test_a_message_adds_no_line_to_the_log_and_commands_no_terminal(made, words, caplog):
    fl_ctx = FLContext()
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 0)
    assert not made().accept(message(**words), fl_ctx)
    assert "site-1" in caplog.text
    for record in caplog.records:
        said = record.getMessage()
        assert len(said) < 1000
        assert not [character for character in said if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")]
