"""A site that does as it should until it sends its update. `simulate` takes this folder as `modules`."""

from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants

from fedmr.flare.learner import SiteLearner


def not_finite(dxo: DXO) -> None:
    """One value of one variable."""
    values = next(iter(dxo.data.values()))
    values.flat[values.size // 2] = np.nan


def wrong_shape(dxo: DXO) -> None:
    """One variable lacks its last column."""
    name = next(iter(dxo.data))
    dxo.data[name] = dxo.data[name][..., :-1]


def scaled(dxo: DXO) -> None:
    """A million times too far."""
    dxo.data = {name: value * np.float32(1e6) for name, value in dxo.data.items()}


def many_steps(dxo: DXO) -> None:
    """The claimed steps let this site alone decide; it goes backwards."""
    dxo.data = {name: -value for name, value in dxo.data.items()}
    dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 10**12)


ATTACKS = {attack.__name__: attack for attack in (not_finite, wrong_shape, scaled, many_steps)}


class HostileLearner(SiteLearner):
    """The learner, which spoils some updates.

    Args:
        task: see the base class.
        attacks: per round, a key of `ATTACKS` by site.
        threads: see the base class.
    """

    def __init__(self, task: dict[str, Any], attacks: list[dict[str, str]], threads: int | None = None) -> None:
        super().__init__(task, threads)
        self.attacks = attacks

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        reply = super().train(data, fl_ctx, abort_signal)
        attack = self.attacks[data.get_header(AppConstants.CURRENT_ROUND)].get(self._site)
        if attack is None or reply.get_return_code() != ReturnCode.OK:
            return reply
        dxo = from_shareable(reply)
        ATTACKS[attack](dxo)
        return dxo.to_shareable()
