"""FL-MRCM in FLARE: the workflow that fetches a target's latents, and the site's executor and filter for them."""

from typing import Any

import numpy as np
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.executors.learner_executor import LearnerExecutor

from fedmr.algorithms.flmrcm import LATENTS, Mrcm, latent_width
from fedmr.flare.messages import LATENTS_TASK, OUTSIDE, latents_message, unpack, with_latents
from fedmr.flare.undoing import UndoingScatterAndGather
from fedmr.training.target_latents import Latents, check_latents
from fedmr.utils.errors import UnsafeError


class CrossSiteScatterAndGather(UndoingScatterAndGather):
    """FLARE's workflow, which before a round's training asks the round's target for latents of the same weights.

    They go to the other sites with the train task. The target has one without them, or none if targets do not train.
    When no usable latents come in time, all sites train plainly in that round, and the log says why. A reply that comes
    later finds no task that waits for it.

    Args:
        task: the numbers of `fedmr.tasks.base.Task`; its algorithm's are those of `fedmr.algorithms.flmrcm.Mrcm`.
        latent_timeout: seconds for the target's reply.
        scatter_and_gather: arguments of FLARE's workflow. `min_clients` counts without the target's own update.
    """

    def __init__(self, task: dict[str, Any], latent_timeout: int = 600, **scatter_and_gather: Any) -> None:
        super().__init__(**scatter_and_gather)
        if not latent_timeout > 0:
            raise ValueError(f"latent_timeout is {latent_timeout}; it must be above 0")
        self.settings = Mrcm.from_dict(task["algorithm"])
        self.latent_timeout = latent_timeout

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Tell the guard whose updates not to wait for."""
        fl_ctx.set_prop(OUTSIDE, self.settings.outside, private=True, sticky=True)
        super().start_controller(fl_ctx)

    def broadcast_and_wait(
        self,
        task: Task,
        fl_ctx: FLContext,
        targets: None = None,
        min_responses: int = 1,
        wait_time_after_min_received: int = 0,
        abort_signal: Signal | None = None,
    ) -> None:
        """The base class's train task of a round, to all sites that train, after the latents.

        Raises:
            ValueError: all sites of the job are outside.
        """
        sites = [client.name for client in self._engine.get_clients() if client.name not in self.settings.outside]
        if not sites:
            raise ValueError(f"no site trains beside the target sites {', '.join(self.settings.outside)}")
        target, plain = self.settings.target_of(self._current_round), None
        latents = self._latents(target, task.data, fl_ctx, abort_signal)
        sources = [site for site in sites if site != target]
        if latents is not None and sources:
            self._log_bytes(target, sources, latents, task.data, fl_ctx)
            if target in sites:
                plain = _again(task)
                self.broadcast(plain, fl_ctx, targets=[target])
            task.data, sites = with_latents(task.data, latents), sources
        enough = min(min_responses, len(sites))
        super().broadcast_and_wait(task, fl_ctx, sites, enough, wait_time_after_min_received, abort_signal)
        if plain:
            self.communicator.wait_for_task(plain, abort_signal)

    def _latents(
        self, target: str, weights: Shareable, fl_ctx: FLContext, abort_signal: Signal | None
    ) -> Latents | None:
        """The target's latents under the weights; None if there are none to use, for the reason in the log."""
        replies: list[Shareable] = []

        def keep(client_task: ClientTask, fl_ctx: FLContext) -> None:
            replies.append(client_task.result)
            client_task.result = None

        try:
            if target not in {client.name for client in self._engine.get_clients()}:
                raise UnsafeError("it is not in this job")
            request = Task(LATENTS_TASK, data=weights, timeout=self.latent_timeout, result_received_cb=keep)
            super().broadcast_and_wait(request, fl_ctx, [target], 1, 0, abort_signal)
            if not replies:
                raise UnsafeError(f"it did not answer within {self.latent_timeout} s (latent_timeout)")
            width = latent_width(unpack(weights)[0])
            return _read(replies[0], vectors=self.settings.vectors, width=width)
        except ValueError as error:
            text = f"round {self._current_round} trains plainly, without latents of target site {target}: {error}"
            self.log_warning(fl_ctx, text)
            return None

    def _log_bytes(
        self, target: str, sources: list[str], latents: Latents, weights: Shareable, fl_ctx: FLContext
    ) -> None:
        size = sum(np.asarray(value).nbytes for value in unpack(weights)[0].values())
        self.log_info(
            fl_ctx,
            f"round {self._current_round} | target site {target} | {len(latents)} latents of {latents.shape[1]} values "
            f"to {', '.join(sources)}: {latents.nbytes:,} bytes each, beside {size:,} of weights",
        )


class CrossSiteExecutor(LearnerExecutor):
    """FLARE's executor, with the task of a target site in addition to its own."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """The learner's reply."""
        if task_name != LATENTS_TASK:
            return super().execute(task_name, shareable, fl_ctx, abort_signal)
        if self.learner is None:  # it is the site's first task
            self.is_initialized = True
            self.initialize(fl_ctx)
        return self.learner.latents(shareable, fl_ctx)


class OnlyLatents(Filter):
    """Lets latents leave the target site, as many as the task allows, and nothing else; any exception blocks.

    Args:
        task: as above.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__()
        self.vectors = Mrcm.from_dict(task["algorithm"]).vectors
        self._width = 0

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look at the weights that the latents are made by; FLARE drops them before result filters run."""
        if event_type == EventType.BEFORE_TASK_EXECUTION and fl_ctx.get_prop(FLContextKey.TASK_NAME) == LATENTS_TASK:
            self._width = latent_width(unpack(fl_ctx.get_prop(FLContextKey.TASK_DATA))[0])

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The latents of a reply, without anything that came with them.

        Raises:
            UnsafeError: the reply is none of latents.
        """
        if shareable.get_return_code() != ReturnCode.OK:
            return make_reply(shareable.get_return_code())  # an error needs no content
        return latents_message(_read(shareable, vectors=self.vectors, width=self._width)).to_shareable()


def _read(reply: Shareable, *, vectors: int, width: int) -> Latents:
    """The latents in a reply.

    Raises:
        ValueError: there are none, or anything else.
    """
    if reply.get_return_code() != ReturnCode.OK:
        raise UnsafeError(f"it replied {reply.get_return_code()}; its own log says why")
    dxo = from_shareable(reply)
    if dxo.data_kind != DataKind.APP_DEFINED:
        raise UnsafeError(f"it replied with {dxo.data_kind}, not with {LATENTS}")
    return check_latents(dxo.data, vectors=vectors, width=width)


def _again(task: Task) -> Task:
    """The same task as a new one; FLARE takes each only once."""
    return Task(
        task.name,
        data=task.data,
        operator=task.operator,
        props={},
        timeout=task.timeout,
        before_task_sent_cb=task.before_task_sent_cb,
        result_received_cb=task.result_received_cb,
    )
