"""Client-side privacy filters for jobs and for a site's own privacy.json. They fail closed; the maths is in
`fedmr.privacy.mechanism`, the account of what was spent in `fedmr.privacy.ledger`."""

import logging
import os
from abc import abstractmethod
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.filter import ContentBlockedException
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.filters.exclude_vars import ExcludeVars
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.filters.svt_privacy import SVTPrivacy

from fedmr.flare.ledger import site_ledger
from fedmr.flare.sites import local_folder
from fedmr.privacy import mechanism as privacy
from fedmr.privacy.ledger import Charge
from fedmr.privacy.mechanism import Vector
from fedmr.privacy.policy import read_policy
from fedmr.utils.errors import UnsafeError
from fedmr.utils.validation import require


class StrictFilter(DXOFilter):
    """Lets through a weight difference that the subclass has protected, rounded metrics, and nothing else.

    FLARE's own base class passes on whatever it does not know. Here every exception blocks: FLARE then sends an
    empty reply with the code TASK_RESULT_FILTER_ERROR. Whole weights (`submit_model`) are blocked, since a model
    is not protected by noise that is measured against an update. Of a reply nothing is kept but weights, the number
    of steps and the metrics.

    How far the sent update is from the true one is written into `ledger.LOCAL_RECORD` in the site's run folder, and
    neither sent nor logged (FLARE can send logs): it says more about the true update than epsilon allows.

    Args:
        min_volumes: metrics that are means over fewer volumes do not leave, nor do those of an unknown number if
            this is above 1. The site's policy may ask for more.
    """

    def __init__(self, min_volumes: int = 1) -> None:
        kinds = [DataKind.WEIGHT_DIFF, DataKind.METRICS]
        super().__init__(supported_data_kinds=kinds, data_kinds_to_filter=kinds)
        self.min_volumes = int(require("min_volumes", min_volumes, 0))

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The protected reply.

        Raises:
            ContentBlockedException: data of another kind.
            UnsafeError: something in the reply must not leave.
            BudgetError: the privacy budget is spent or unknown.
            PolicyError: the site's policy cannot be read.
        """
        if shareable.get_return_code() != ReturnCode.OK:
            return make_reply(shareable.get_return_code())  # an error needs no content
        least = max(self.min_volumes, read_policy(local_folder(fl_ctx)).min_volumes)
        dxo = from_shareable(shareable)
        if dxo.data_kind not in self.data_kinds:
            raise ContentBlockedException(f"{type(self).__name__} does not let {dxo.data_kind} leave the site")
        if dxo.data_kind == DataKind.METRICS:
            return DXO(DataKind.METRICS, data=privacy.public_metrics(dxo.data, least)).to_shareable()
        protected = DXO(DataKind.WEIGHT_DIFF, data=dxo.data, meta=self._public_meta(dxo, least))
        if dxo.data:  # a site that trains alone sends no weights
            protected = self._apply_filter(protected, shareable, fl_ctx)
        return protected.to_shareable()

    @staticmethod
    def _public_meta(dxo: DXO, least: int) -> dict[str, Any]:
        """Steps and metrics; a message of an algorithm that has more is blocked, not cut.

        Raises:
            UnsafeError: steps are missing or no positive whole number, or there is something else.
        """
        meta = dict(dxo.meta or {})
        meta.pop(MetaKey.FILTER_HISTORY, None)
        steps = meta.pop(MetaKey.NUM_STEPS_CURRENT_ROUND, None)
        metrics = meta.pop(MetaKey.INITIAL_METRICS, None)
        if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or steps < 1:
            raise UnsafeError(f"the update states {steps!r} steps; it must state a whole number above 0")
        if meta:
            raise UnsafeError(f"the update carries {', '.join(map(repr, sorted(meta)))}, which no filter protects")
        public: dict[str, Any] = {MetaKey.NUM_STEPS_CURRENT_ROUND: int(steps)}
        counted = isinstance(metrics, dict) and "n_volumes" in metrics
        if metrics is not None and (counted or least == 1):
            public[MetaKey.INITIAL_METRICS] = privacy.public_metrics(metrics, least)
        return public

    def _record(self, fl_ctx: FLContext, figures: dict[str, float]) -> None:
        site_ledger(self, fl_ctx).record(type(self).__name__, figures)


class VectorFilter(StrictFilter):
    """A filter that treats the update as one vector."""

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        """Protect the weights."""
        true = privacy.to_vector(dxo.data)
        sent, figures = self.protect(true, dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND), fl_ctx)
        dxo.data = privacy.from_vector(sent, dxo.data)
        self._record(fl_ctx, privacy.compare(true, sent) | figures)
        return dxo

    @abstractmethod
    def protect(self, update: Vector, steps: int, fl_ctx: FLContext) -> tuple[Vector, dict[str, float]]:
        """The update as it may leave, and figures for the local record."""


class GaussianPrivacy(VectorFilter):
    """Clips the whole update and adds Gaussian noise: (epsilon, delta)-differential privacy of the site's update.

    Args:
        clip: largest L2 norm C of the update.
        noise_multiplier: the noise's standard deviation, divided by `clip`.
        delta: for epsilon.
        max_epsilon: the site's budget over all its jobs; it sends nothing once a release would exceed it.
        min_volumes: see `StrictFilter`.
    """

    def __init__(
        self, clip: float, noise_multiplier: float, *, max_epsilon: float, delta: float = 1e-5, min_volumes: int = 1
    ) -> None:
        super().__init__(min_volumes)
        self.clip = require("clip", clip, 0)
        self.noise_multiplier = require("noise_multiplier", noise_multiplier, 0)
        self.max_epsilon = require("max_epsilon", max_epsilon, 0)
        self.delta = require("delta", delta, 0, 0.1)

    def protect(self, update: Vector, steps: int, fl_ctx: FLContext) -> tuple[Vector, dict[str, float]]:
        """Clipped and noised update; paid for before it exists."""
        charge = Charge(noise_multiplier=self.noise_multiplier, delta=self.delta, max_epsilon=self.max_epsilon)
        figures = site_ledger(self, fl_ctx).charge(charge)
        return privacy.gaussian_mechanism(update, self.clip, self.noise_multiplier), figures


class _Wrapped(VectorFilter):
    """One of FLARE's filters on the update as one vector, so that neither scalars nor counters pass it by."""

    def __init__(self, inner: DXOFilter, min_volumes: int) -> None:
        super().__init__(min_volumes)
        self.inner = inner
        # FLARE's filters log the largest weight change and the noise of a threshold
        self.inner.logger = logging.getLogger(f"{__name__}.silent")
        self.inner.logger.setLevel(logging.WARNING)

    def run_inner(self, update: Vector, steps: int, fl_ctx: FLContext) -> DXO:
        dxo = DXO(DataKind.WEIGHT_DIFF, data={"update": update}, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps})
        result = self.inner.process_dxo(dxo, Shareable(), fl_ctx)
        if not isinstance(result, DXO):
            raise UnsafeError(f"FLARE's {type(self.inner).__name__} did nothing")
        return result


class StrictPercentilePrivacy(_Wrapped):
    """FLARE's PercentilePrivacy (Shokri and Shmatikov, CCS 2015): sends the largest changes only, and clips them.

    It adds no noise and gives no differential privacy.

    Args:
        percentile: changes below this percentile of their magnitudes are not sent.
        gamma: largest change of a weight per optimisation step.
        min_volumes: see `StrictFilter`.
    """

    def __init__(self, percentile: float, gamma: float, min_volumes: int = 1) -> None:
        self.percentile, self.gamma = require("percentile", percentile, 0, 100), require("gamma", gamma, 0)
        super().__init__(PercentilePrivacy(self.percentile, self.gamma), min_volumes)

    def protect(self, update: Vector, steps: int, fl_ctx: FLContext) -> tuple[Vector, dict[str, float]]:
        """The largest changes, clipped."""
        return self.run_inner(update, steps, fl_ctx).data["update"], {}


class StrictSVTPrivacy(_Wrapped):
    """FLARE's SVTPrivacy, the sparse vector technique: noised changes of noisily chosen weights; pure epsilon.

    Args:
        fraction: share of the weights to send.
        epsilon: for the choice of the weights.
        noise_var: epsilon of each sent value; its Laplace noise has the scale 2 * gamma / noise_var.
        gamma: largest change of a weight per optimisation step.
        tau: threshold of the choice, per step.
        max_epsilon: the site's budget, as in `GaussianPrivacy`; this filter's releases add all their epsilons.
        delta: for the Gaussian releases in the site's account, if there are any.
        min_volumes: see `StrictFilter`.
    """

    def __init__(  # FLARE's own arguments, and the budget's
        self,
        fraction: float,
        epsilon: float,
        noise_var: float,
        gamma: float,
        *,
        max_epsilon: float,
        tau: float = 1e-6,
        delta: float = 1e-5,
        min_volumes: int = 1,
    ) -> None:
        self.fraction = require("fraction", fraction, 0, 1)
        self.epsilon, self.noise_var = require("epsilon", epsilon, 0), require("noise_var", noise_var, 0)
        self.gamma, self.tau = require("gamma", gamma, 0), require("tau", tau, 0)
        self.max_epsilon, self.delta = require("max_epsilon", max_epsilon, 0), require("delta", delta, 0, 0.1)
        svt = SVTPrivacy(self.fraction, self.epsilon, self.noise_var, self.gamma, self.tau, replace=False)
        super().__init__(svt, min_volumes)

    def protect(self, update: Vector, steps: int, fl_ctx: FLContext) -> tuple[Vector, dict[str, float]]:
        """Noised changes of chosen weights.

        Raises:
            UnsafeError: the threshold is so far above the noise that FLARE's filter might never end.
        """
        if self.tau * self.epsilon > 2 * self.gamma * self.fraction * update.size:
            raise UnsafeError(f"tau {self.tau:g} is above the noise of the choice; take a lower tau or epsilon")
        state = np.random.get_state()
        np.random.seed(np.frombuffer(os.urandom(2496), dtype=np.uint32))  # FLARE draws from the global generator
        try:
            result = self.run_inner(update, steps, fl_ctx)
        finally:
            np.random.set_state(state)
        pure = float(result.get_meta_prop("svt_privacy_budget")["epsilon_total"])
        charge = Charge(pure=pure, delta=self.delta, max_epsilon=self.max_epsilon)
        return result.data["update"], site_ledger(self, fl_ctx).charge(charge)


class StrictExcludeVars(StrictFilter):
    """FLARE's ExcludeVars: some layers never leave the site.

    Args:
        exclude_vars: names, or a regular expression that is searched in names.
        min_volumes: see `StrictFilter`.
    """

    def __init__(self, exclude_vars: list[str] | str, min_volumes: int = 1) -> None:
        super().__init__(min_volumes)
        names = [exclude_vars] if isinstance(exclude_vars, str) else exclude_vars
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
            raise ValueError(f"exclude_vars is {exclude_vars!r}; it must be names or a regular expression")
        self.names = exclude_vars if isinstance(exclude_vars, list) else []
        self.inner = ExcludeVars(exclude_vars)

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        """Take the layers out.

        Raises:
            UnsafeError: a name or the expression matches no layer, or none is left.
        """
        true = dict(dxo.data)
        self.inner.process_dxo(dxo, shareable, fl_ctx)
        unknown = [name for name in self.names if name not in true]
        if unknown or len(dxo.data) == len(true):
            raise UnsafeError(f"exclude_vars {unknown or self.inner.exclude_vars} matches no layer of the update")
        dxo.data = privacy.from_vector(privacy.to_vector(dxo.data), dxo.data)
        sent = {name: dxo.data.get(name, np.zeros_like(array)) for name, array in true.items()}
        self._record(fl_ctx, privacy.compare(privacy.to_vector(true), privacy.to_vector(sent)))
        return dxo
