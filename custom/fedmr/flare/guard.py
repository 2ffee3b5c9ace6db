"""Filters that keep wrong updates out; what is wrong is decided in `fedmr.aggregation.guard`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from fedmr.aggregation.guard import (
    Limits,
    Shape,
    Typical,
    Update,
    fault_of_claims,
    judge,
    outliers,
    poor_metrics,
    value_of,
)
from fedmr.aggregation.standing import Standing, Verdict
from fedmr.flare.messages import OUTSIDE, REASON, unpack
from fedmr.flare.rejections import note_left_out
from fedmr.flare.undoing import CAN_UNDO, FINAL_METRICS, FINAL_MODEL_TESTED, VERDICT
from fedmr.flare.versions import VERSIONS, differences, fault_of_versions, own_versions, read_versions, write_versions
from fedmr.runs.records import ONLY_EVALUATES
from fedmr.utils.text import larger_than, one_line

_MOST_BESIDE = 4_000_000  # bytes other than the values: meta, metrics, headers; honest ones take thousands


class ServerGuard(Filter):
    """Rejects updates on the server, before any other component sees them, and counts those that are left.

    To the workflow a rejected update is an error of its site. Leave all errors to the guard (`ignore_result_error`)
    and let the workflow wait for all sites: the guard ends the job, with the last model kept, as soon as a round
    cannot have `min_sites` updates any more, or does not when `train_timeout` closes it. Sites that are left out are
    named with the reason in the log and in `guard.jsonl` in the run folder. So are sites that say that they have no
    training volumes (`TASK_UNSUPPORTED`), once: they count no more, but no round is then a single site's.

    A model that is bad at most sites that received it is undone by `fedmr.flare.undoing`, and no site is left out for
    it; a workflow that cannot undo is ended, with the best model kept. Of ciphertexts nothing can be left out after
    they were added: there the job ends also if a site claims far more steps than the round's median.

    Args:
        limits: the numbers of `fedmr.aggregation.guard.Limits`.
        min_sites: updates that a round needs; a number above that of the sites means all of them.
        expected_data_kind: the aggregator's.
        encrypted: the values are ciphertexts (HE), so only steps and metrics can be looked at, and `SiteGuard` must
            check the rest. An update that is not encrypted is rejected.
    """

    def __init__(
        self,
        limits: dict[str, Any],
        min_sites: int,
        expected_data_kind: str | dict[str, str] = DataKind.WEIGHT_DIFF,
        encrypted: bool = False,
    ) -> None:
        super().__init__()
        if min_sites < 1:
            raise ValueError(f"guard: min_sites is {min_sites}; it must be above 0")
        self.limits = Limits.from_dict(limits)
        self.min_sites = min_sites
        self.expected_data_kind = expected_data_kind
        self.encrypted = encrypted
        self._sites: set[str] = set()
        self._evaluating: set[str] = set()
        self._versions: dict[str, dict[str, str]] = {}
        self._last: Typical | None = None
        self._first_steps: dict[str, float] = {}
        self._suspects: list[str] = []  # of the last round, the largest update first
        self._standing = Standing(self.limits.max_fall)
        self._reset()

    def _reset(self) -> None:
        self._closed = False
        self._passed: dict[str, tuple[float, dict[str, float]]] = {}  # steps and norms by site
        self._accepted: dict[str, tuple[float, dict[str, float]]] = {}
        self._rejected: set[str] = set()
        self._poor: set[str] = set()  # sites at which the received model is of no use
        self._values: dict[str, float] = {}  # of the key metric there

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Follow the round."""
        if event_type == AppEventType.ROUND_STARTED:
            self._remember()
            self._sites.update(client.name for client in fl_ctx.get_engine().get_clients())
            self._sites.difference_update(fl_ctx.get_prop(OUTSIDE, ()), self._evaluating)
            self._reset()
        elif event_type == AppEventType.AFTER_CONTRIBUTION_ACCEPT:
            site = fl_ctx.get_prop(AppConstants.TRAINING_RESULT).get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
            if fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED):
                self._accepted[site] = self._passed[site]
            elif site not in self._accepted:
                self._leave_out({site: "the aggregator refused it"}, fl_ctx)
        elif event_type == AppEventType.BEFORE_AGGREGATION:
            self._closed = True
            silent = sorted(self._sites - set(self._accepted) - self._rejected)
            self._leave_out(dict.fromkeys(silent, "no result in time"), fl_ctx)
            self._look_at_round(fl_ctx)
        elif event_type == FINAL_MODEL_TESTED:
            self._look_at_final(fl_ctx)

    def _remember(self) -> None:
        """Keep of the round that is over what the next one is compared with."""
        if not self._accepted:
            return
        self._last = Typical.of(self._accepted.values())
        for site, (steps, _) in self._accepted.items():
            self._first_steps.setdefault(site, steps)
        pulls = {site: max(norms.values(), default=0.0) * steps for site, (steps, norms) in self._accepted.items()}
        self._suspects = sorted(pulls, key=lambda site: -pulls[site])

    def _look_at_round(self, fl_ctx: FLContext) -> None:
        """End the job if a sum of ciphertexts cannot be trusted; judge the model that the round started from."""
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        if self.encrypted and (found := outliers(self._accepted, self.limits)):
            for site, reason in found.items():
                note_left_out(self, fl_ctx, site, reason)
            names = ", ".join(sorted(found))
            self.system_panic(f"round {number} is not counted: {names} sent what is far off the others'", fl_ctx)
            return
        values = {site: value for site, value in self._values.items() if site in self._accepted}
        self._judge(f"the model of round {number}", values, self._poor & set(self._accepted), fl_ctx)

    def _look_at_final(self, fl_ctx: FLContext) -> None:
        """Judge the model after the last round by the metrics that the sites reply, whatever these are."""
        self._remember()
        metrics = fl_ctx.get_prop(FINAL_METRICS, {})
        values = {site: value_of(found, self.limits.key_metric) for site, found in metrics.items()}
        poor = {site for site, found in metrics.items() if poor_metrics(found, self.limits)}
        known = {site: value for site, value in values.items() if value is not None}
        self._judge("the model after the last round", known, poor, fl_ctx)

    def _judge(self, model: str, values: Mapping[str, float], poor: set[str], fl_ctx: FLContext) -> None:
        verdict, bad_at = self._standing.look(values, frozenset(poor))
        fl_ctx.set_prop(VERDICT, verdict, private=True, sticky=False)
        if verdict is not Verdict.BAD:
            return
        pulled = f"; the largest updates of the round before came from {', '.join(self._suspects[:2])}"
        reason = f"{model} is bad at {len(bad_at)} of {len(set(values) | poor)} sites ({', '.join(bad_at)})"
        reason += pulled if self._suspects else ""
        if fl_ctx.get_prop(CAN_UNDO):
            self.log_error(fl_ctx, f"{reason}. It is undone: the best model takes its place", fire_event=False)
        else:
            self.system_panic(f"{reason}. The best model is kept", fl_ctx)

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The site's result, or an error in its place."""
        site = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
        number = shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND)
        if self._closed or number not in (None, fl_ctx.get_prop(AppConstants.CURRENT_ROUND)):
            note_left_out(self, fl_ctx, site, f"a result of round {number}, which is over")
            return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        if shareable.get_return_code() == ReturnCode.TASK_UNSUPPORTED:
            self._only_evaluates(site, fl_ctx)
            return make_reply(ReturnCode.TASK_UNSUPPORTED)
        norms: dict[str, float] = {}
        own = self._first_steps.get(site)
        try:
            self._compare_versions(site, shareable, fl_ctx)
            update = self._read(shareable)
            value = value_of(update.metrics, self.limits.key_metric)
            poor = poor_metrics(update.metrics, self.limits)
            # from a bad model every site goes far: the last round says nothing about that
            strayed = poor or (value is not None and self._standing.fell(site, value))
            if self.encrypted:
                fault = fault_of_claims(update, self.limits, self._last, own)
            else:
                shapes = _shapes(fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS])
                fault, norms = judge(update, shapes, self.limits, None if strayed else self._last, own)
        except ValueError as error:
            fault = str(error)
        if fault:
            self._leave_out({site: fault}, fl_ctx, next(iter(norms.values()), math.nan))
            return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        self._passed[site] = (update.steps, norms)
        if value is not None:
            self._values[site] = value
        if poor:
            self._poor.add(site)
            self.log_warning(fl_ctx, f"{site} | the received model is bad there: {sorted(poor)}", fire_event=False)
            dxo = from_shareable(shareable)
            dxo.set_meta_prop(MetaKey.INITIAL_METRICS, {**update.metrics, **poor})
            return dxo.update_shareable(shareable)
        return shareable

    def _compare_versions(self, site: str, shareable: Shareable, fl_ctx: FLContext) -> None:
        """Note what a site runs on, and say once where that differs from the server.

        Raises:
            ValueError: it does not go with the server's.
        """
        server, stated = own_versions(), read_versions(shareable.get_peer_prop(VERSIONS, None))
        if stated and self._versions.get(site) != stated:
            self._versions[site] = stated
            write_versions(
                Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())), server, self._versions
            )
            if found := differences(stated, server):
                self.log_warning(fl_ctx, f"{site} | runs {'; '.join(found)}", fire_event=False)
        if fault := fault_of_versions(stated, server):
            raise ValueError(fault)

    def _read(self, shareable: Shareable) -> Update:
        """The update in a result.

        Raises:
            ValueError: there is none, or none of this kind.
        """
        code = shareable.get_return_code()
        if code != ReturnCode.OK:
            raise ValueError(one_line(shareable.get_header(REASON, f"the site reports {code}")))
        dxo = from_shareable(shareable)
        if larger_than(_beside(shareable, dxo), _MOST_BESIDE):
            raise ValueError(f"it carries more than {_MOST_BESIDE} bytes beside its values")
        encrypted = dxo.get_meta_prop(MetaKey.PROCESSED_ALGORITHM) is not None
        if encrypted != self.encrypted:
            raise ValueError("it is encrypted" if encrypted else "it is not encrypted")
        return _update(dxo, self.expected_data_kind)

    def _only_evaluates(self, site: str, fl_ctx: FLContext) -> None:
        """Count a site without training volumes no more; its word can only lower what it has a part in."""
        if site not in self._evaluating:
            self._evaluating.add(site)
            note_left_out(self, fl_ctx, site, ONLY_EVALUATES)
        self._sites.discard(site)
        self._leave_out({}, fl_ctx)

    def _leave_out(self, reasons: dict[str, str], fl_ctx: FLContext, norm: float = math.nan) -> None:
        """Go on without these sites; end the job if too few are left."""
        for site, reason in reasons.items():
            note_left_out(self, fl_ctx, site, reason, norm)
        self._rejected.update(reasons)
        several = min(2, len(self._sites | self._evaluating))  # else a model could be a single site's
        needed, left = min(self.min_sites, max(len(self._sites), several)), len(self._sites - self._rejected)
        if left < needed:
            number, names = fl_ctx.get_prop(AppConstants.CURRENT_ROUND), ", ".join(sorted(self._rejected))
            self.system_panic(
                f"round {number} has at most {left} of {len(self._sites)} updates and needs {needed} "
                f"(min_clients_per_round); left out: {names}. The last model is kept",
                fl_ctx,
            )


class SiteGuard(Filter):
    """Withholds the site's own update if something is wrong with it: for jobs whose server cannot look (HE).

    It comes right before the encryptor. It checks what needs no other site, and protects from mistakes, not from a
    site that leaves it out.

    Args:
        limits: the numbers of `fedmr.aggregation.guard.Limits`.
        expected_data_kind: the aggregator's.
    """

    def __init__(self, limits: dict[str, Any], expected_data_kind: str | dict[str, str] = DataKind.WEIGHT_DIFF) -> None:
        super().__init__()
        self.limits = Limits.from_dict(limits)
        self.expected_data_kind = expected_data_kind
        self._shapes: dict[str, Shape] = {}
        self._flat: set[str] = set()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look at the model that the site trains from; FLARE drops it before result filters run."""
        name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if event_type == EventType.BEFORE_TASK_EXECUTION and name == AppConstants.TASK_TRAIN:
            weights, _ = unpack(fl_ctx.get_prop(FLContextKey.TASK_DATA))
            self._shapes = _shapes(weights)
            self._flat = {name for name, value in weights.items() if isinstance(value, list)}  # by FLARE's decryptor

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The site's result, or an error in its place that tells the server why."""
        if shareable.get_return_code() != ReturnCode.OK:
            return shareable
        try:
            update = _update(from_shareable(shareable), self.expected_data_kind)
            parts = {
                part: {name: np.ravel(value) if name in self._flat else value for name, value in values.items()}
                for part, values in update.parts.items()
            }
            fault, _ = judge(Update(parts, update.steps, update.metrics), self._shapes, self.limits)
        except ValueError as error:
            fault = str(error)
        if fault is None:
            return shareable
        self.log_error(fl_ctx, f"{fl_ctx.get_identity_name()} | update withheld: {fault}", fire_event=False)
        return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR, {REASON: f"withheld by the site: {fault}"})


def _beside(shareable: Shareable, dxo: DXO) -> list[Any]:
    """All that a message holds but its values, which are checked on their own."""
    parts = dxo.data.values() if dxo.data_kind == DataKind.COLLECTION and isinstance(dxo.data, Mapping) else ()
    content = shareable.get("DXO")
    more = [value for key, value in content.items() if key != "data"] if isinstance(content, Mapping) else [content]
    return [
        *more,
        dxo.meta,
        *(getattr(part, "meta", None) for part in parts),
        *([key, value] for key, value in shareable.items() if key != "DXO"),
    ]


def _shapes(weights: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: np.shape(value) for name, value in weights.items()}


def _update(dxo: DXO, expected: str | Mapping[str, str]) -> Update:
    """Return what a message holds, taken apart by the aggregator's expected data kinds.

    Raises:
        ValueError: it is of another kind, or its parts claim different steps.
    """
    kinds = expected if isinstance(expected, Mapping) else {"": expected}
    parts = dxo.data if isinstance(expected, Mapping) and dxo.data_kind == DataKind.COLLECTION else {"": dxo}
    found = {name: getattr(part, "data_kind", None) for name, part in parts.items()}
    if found != kinds:
        raise ValueError(f"it holds {str(found)[:200]}; {dict(kinds)} is expected")
    steps = dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)
    if any(part.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) != steps for part in parts.values()):
        raise ValueError("its parts claim different numbers of steps")
    metrics = dxo.get_meta_prop(MetaKey.INITIAL_METRICS)
    return Update({name: part.data for name, part in parts.items()}, steps, metrics)
