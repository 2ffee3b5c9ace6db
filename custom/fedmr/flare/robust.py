"""Server-side aggregation that withstands some wrong sites."""

from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.app_constant import AppConstants

from fedmr.aggregation.robust import trimmed_mean
from fedmr.utils.text import one_line


class RobustAggregator(Aggregator):
    """Coordinate median or trimmed mean of the sites' updates; see `fedmr.aggregation.robust`.

    It does not weigh sites by their steps, and keeps all updates of a round in the server's memory.

    Args:
        trim: wrong sites to withstand, by the trimmed mean; the coordinate median by default.
        expected_data_kind: nothing but weight differences.
    """

    def __init__(self, trim: int | None = None, expected_data_kind: str = DataKind.WEIGHT_DIFF) -> None:
        super().__init__()
        if expected_data_kind != DataKind.WEIGHT_DIFF:
            raise ValueError(f"RobustAggregator takes {DataKind.WEIGHT_DIFF.value}, not {expected_data_kind}")
        self.trim, self.expected_data_kind = trim, expected_data_kind
        self._updates: dict[str, dict[str, Any]] = {}

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Keep one site's update of this round."""
        site = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
        number = shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND)
        dxo = from_shareable(shareable)
        if dxo.data_kind != self.expected_data_kind:
            text = f"{site} sent {one_line(dxo.data_kind, 60)}, not {self.expected_data_kind}"
            self.log_error(fl_ctx, text, fire_event=False)
            return False
        if number != fl_ctx.get_prop(AppConstants.CURRENT_ROUND) or site in self._updates:
            text = f"{site} sent a late or second update of round {one_line(number, 20)}"
            self.log_warning(fl_ctx, text, fire_event=False)
            return False
        self._updates[site] = dxo.data
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """The robust mean.

        Raises:
            ValueError: too few sites for `trim`; FLARE then ends the job.
        """
        updates, self._updates = self._updates, {}
        self.log_info(fl_ctx, f"aggregating {len(updates)} update(s) without weights", fire_event=False)
        mean = trimmed_mean([updates[site] for site in sorted(updates)], self.trim)
        return DXO(DataKind.WEIGHT_DIFF, data=mean).to_shareable()
