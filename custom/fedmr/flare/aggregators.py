"""Server-side aggregation."""

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator


class WeightedAggregator(InTimeAccumulateWeightedAggregator):
    """FLARE's weighted in-time aggregation, accumulated in float64.

    FLARE adds the sites' float32 updates in the order in which they arrive, so that two runs of one job differ in
    the last bit and, after some rounds of training, in the third digit. In float64 the order no longer shows in
    the float32 result. Memory stays that of one model, whatever the number of sites.
    """

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Add one site's update; see the base class."""
        site = shareable.get_peer_prop(key=ReservedKey.IDENTITY_NAME, default="?")
        for aggregator in self.dxo_aggregators.values():
            aggregator.aggregation_weights.setdefault(site, 1.0)  # else FLARE warns each round for each site
        try:
            dxo = from_shareable(shareable)
        except ValueError:
            return bool(super().accept(shareable, fl_ctx))  # the base class reports it
        _cast(dxo, np.float64)
        return bool(super().accept(dxo.update_shareable(shareable), fl_ctx))

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """Weighted mean of the accepted updates, float32."""
        result = super().aggregate(fl_ctx)
        dxo = from_shareable(result)
        _cast(dxo, np.float32)
        return dxo.update_shareable(result)


class EqualAggregator(WeightedAggregator):
    """Every site counts the same, however many steps it took.

    `weigh_by_local_iter = false` is not that: FLARE then adds the updates as they are, for sites that have weighted
    them before encryption, and still divides by the sum of their steps.
    """

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Add one site's update, with a weight that cancels its steps; see the base class."""
        site = shareable.get_peer_prop(key=ReservedKey.IDENTITY_NAME, default="?")
        try:
            steps = from_shareable(shareable).get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1)
        except ValueError:
            return bool(super().accept(shareable, fl_ctx))  # the base class reports it
        for aggregator in self.dxo_aggregators.values():
            aggregator.aggregation_weights[site] = 1 / steps
        return bool(super().accept(shareable, fl_ctx))


def _cast(dxo: DXO, dtype: type) -> None:
    """Convert all arrays; those of a collection, e.g. SCAFFOLD's weights and controls, one by one."""
    if dxo.data_kind == DataKind.COLLECTION:
        for part in dxo.data.values():
            _cast(part, dtype)
    else:
        dxo.data = {name: np.asarray(value, dtype=dtype) for name, value in dxo.data.items()}
