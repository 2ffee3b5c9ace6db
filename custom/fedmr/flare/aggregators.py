"""Server-side aggregation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import InTimeAccumulateWeightedAggregator
from nvflare.app_common.app_constant import AppConstants

from fedmr.aggregation.rounds import Bounds, Contribution, Share, shares_of
from fedmr.flare.rejections import note_left_out
from fedmr.utils.text import one_line


class WeightedAggregator(InTimeAccumulateWeightedAggregator):
    """FLARE's weighted aggregation, over the updates that `fedmr.aggregation.rounds` lets count, in float64.

    It compares the updates of a round before it adds them: so it holds them all, and adds them in
    the order of the sites' names. Without a site that is far off the others the result is FedAvg's.

    FLARE adds the sites' float32 updates in the order in which they arrive, so that two runs of one job differ in
    the last bit and, after some rounds of training, in the third digit. In float64 and by name nothing of it shows.

    Args:
        bounds: numbers of `fedmr.aggregation.rounds.Bounds`.
        of_flare: arguments of FLARE's aggregator, `expected_data_kind` among them.
    """

    def __init__(self, bounds: dict[str, Any] | None = None, **of_flare: Any) -> None:
        super().__init__(**of_flare)
        self.bounds = Bounds(**(bounds or {}))
        self._held: dict[str, Shareable] = {}

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Keep one site's update of this round; False if it is of another kind or round, or the site's second."""
        site = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
        try:
            dxo = from_shareable(shareable)
        except ValueError:
            return bool(super().accept(shareable, fl_ctx))  # the base class reports it
        kinds = {part: getattr(content, "data_kind", None) for part, content in _parts(dxo).items()}
        if kinds != self.expected_data_kind:
            self.log_error(fl_ctx, f"{site} sent {one_line(kinds, 200)}", fire_event=False)
            return False
        number = shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND)
        if number != fl_ctx.get_prop(AppConstants.CURRENT_ROUND) or site in self._held:
            text = f"{site} sent a late or second update of round {one_line(number, 20)}"
            self.log_warning(fl_ctx, text, fire_event=False)
            return False
        self._held[site] = shareable
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """Weighted mean of what counts of the accepted updates, float32."""
        held, self._held = dict(sorted(self._held.items())), {}
        updates = {site: from_shareable(shareable) for site, shareable in held.items()}
        shares = shares_of({site: _contribution(dxo) for site, dxo in updates.items()}, self.bounds)
        for site, reason in shares.left_out.items():
            note_left_out(self, fl_ctx, site, reason, shares.norms.get(site))
        for site, reason in shares.tempered.items():
            number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
            self.log_warning(fl_ctx, f"{site} | round {number} | {reason}", fire_event=False)
        for site, share in shares.counted.items():
            _apply(updates[site], share)
            for aggregator in self.dxo_aggregators.values():
                given = aggregator.aggregation_weights.get(site, 1.0)  # else FLARE warns each round for each site
                aggregator.aggregation_weights[site] = self._weight(share, given)
            super().accept(updates[site].update_shareable(held[site]), fl_ctx)
        result = super().aggregate(fl_ctx)
        dxo = from_shareable(result)
        _cast(dxo, np.float32)
        return dxo.update_shareable(result)

    def reset(self, fl_ctx: FLContext) -> None:
        """Forget the round."""
        self._held = {}
        super().reset(fl_ctx)

    def _weight(self, share: Share, given: float) -> float:
        """By what a site's steps are multiplied; `given` is FLARE's own number for the site."""
        return given


class RunningAggregator(InTimeAccumulateWeightedAggregator):
    """FLARE's weighted in-time aggregation in float64, which holds one model whatever the number of sites.

    For federations whose updates of a round do not fit into the server's memory. It cannot look at a round's updates
    together: what `WeightedAggregator` leaves out, shortens or caps counts in full here. That leaves what
    the guard sees in an update when it comes, and the undoing of bad models.
    """

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Add one site's update; see the base class."""
        site = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
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

    def _weight(self, share: Share, given: float) -> float:
        """A weight that cancels the steps."""
        return 1 / share.weight


def _parts(dxo: DXO) -> Mapping[str, Any]:
    """Return what a message holds, by the keys of FLARE's `expected_data_kind`; that of a single one is empty."""
    return dxo.data if dxo.data_kind == DataKind.COLLECTION else {"": dxo}


def _contribution(dxo: DXO) -> Contribution:
    parts = {name: part.data for name, part in _parts(dxo).items()}
    return Contribution(dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1), parts)


def _apply(dxo: DXO, share: Share) -> None:
    """Let a message be what counts of it: values float64, and steps."""
    _cast(dxo, np.float64)
    for name, part in _parts(dxo).items():
        if (factor := share.factors[name]) < 1:
            part.data = {variable: value * factor for variable, value in part.data.items()}
        part.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, share.weight)
    dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, share.weight)


def _cast(dxo: DXO, dtype: type) -> None:
    """Convert all arrays; those of a collection, e.g. SCAFFOLD's weights and controls, one by one."""
    if dxo.data_kind == DataKind.COLLECTION:
        for part in dxo.data.values():
            _cast(part, dtype)
    else:
        dxo.data = {name: np.asarray(value, dtype=dtype) for name, value in dxo.data.items()}
