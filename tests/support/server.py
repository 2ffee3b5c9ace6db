"""FLARE's server side in one process: its own controller and components; only the network is stood in for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from nvflare.apis.controller_spec import Task
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import Filter
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_copy
from nvflare.apis.signal import Signal
from nvflare.apis.utils.event import fire_event_to_components
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector
from nvflare.app_common.widgets.metrics_artifact_writer import MetricsArtifactWriter
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather

from fedmr.flare.aggregators import WeightedAggregator
from fedmr.flare.undoing import CAN_UNDO, UndoingScatterAndGather

# gives a site's reply to the server's message; None if the site never answers
Answer = Callable[[Shareable], Shareable | None]


class Server(ScatterAndGather):
    """Runs a whole training; sites answer at once, in turn.

    Args:
        folder: gets the run folder `job`.
        answers: by site.
        filters: of the sites' results.
        aggregator: weighted by default.
        rounds: number of rounds.
        ignore_result_error: FLARE's own; the guard needs True.
    """

    def __init__(
        self,
        folder: Path,
        answers: dict[str, Answer],
        *filters: Filter,
        aggregator: Aggregator | None = None,
        rounds: int = 1,
        ignore_result_error: bool | None = True,
    ) -> None:
        super().__init__(
            num_rounds=rounds, ignore_result_error=ignore_result_error, snapshot_every_n_rounds=0, memory_gc_rounds=0
        )
        for name in ("startup", "local", "job"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.run_folder, self.panic = folder / "job", None
        self.answers, self.filters, self.abort = answers, filters, Signal()
        self.aggregator = aggregator or WeightedAggregator()
        self.shareable_gen, self.selector = FullModelShareableGenerator(), IntimeModelSelector(True, key_metric="psnr")
        workspace = Workspace(str(folder), site_name="server")
        handlers = self._handlers = [*filters, self.aggregator, self.selector, MetricsArtifactWriter(), _Runner(self)]
        self._engine = SimpleNamespace(
            get_workspace=lambda: workspace,
            get_clients=lambda: [SimpleNamespace(name=site) for site in answers],
            fire_event=lambda event, fl_ctx: fire_event_to_components(event, handlers, fl_ctx),
        )

    def train(self, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The global model after the last round, or as it was when the job was ended (see `panic`)."""
        self._global_weights = make_model_learnable(dict(weights), {})
        fl_ctx = self._context()
        self.fire_event(EventType.START_RUN, fl_ctx)
        self.control_flow(self.abort, fl_ctx)
        return self._global_weights[ModelLearnableKey.WEIGHTS]

    def broadcast_and_wait(self, task, **_) -> None:
        for site, answer in self.answers.items():
            message = make_copy(task.data)
            reply = answer(message)
            if reply is not None and not self.abort.triggered:
                reply.set_cookie_jar(message.get_cookie_jar())
                self.submit(site, reply)

    def submit(self, site: str, reply: Shareable) -> None:
        """What FLARE does with a result."""
        peer = FLContext()
        peer.set_prop(ReservedKey.IDENTITY_NAME, site, private=False)
        peer.set_prop(FLContextKey.SHAREABLE, reply, private=True)
        fl_ctx = self._context()
        fl_ctx.set_peer_context(peer)
        reply.set_peer_props(peer.get_all_public_props())
        for one in self.filters:
            reply = one.process(reply, fl_ctx)
        self._current_num_targets = len(self.answers)
        self._accept_train_result(site, reply, fl_ctx)

    def _context(self) -> FLContext:
        fl_ctx = FLContext()
        fl_ctx.set_prop(ReservedKey.ENGINE, self._engine, private=True)
        fl_ctx.set_prop(ReservedKey.RUN_NUM, "job")
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True)
        fl_ctx.set_prop(AppConstants.CURRENT_ROUND, self._current_round, private=True)
        return fl_ctx


class UndoingServer(Server, UndoingScatterAndGather):
    """The same with the workflow of FedMR's jobs; sites are asked for the metrics of the last model by the same way."""

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.communicator = SimpleNamespace(broadcast_and_wait=self._ask)
        self._handlers.append(self)

    def _ask(self, task: Task, *_) -> None:
        for site, answer in self.answers.items():
            reply = answer(make_copy(task.data))
            if reply is not None:
                client_task = SimpleNamespace(client=SimpleNamespace(name=site), result=reply)
                task.result_received_cb(client_task, self._context())

    def _context(self) -> FLContext:
        fl_ctx = super()._context()
        fl_ctx.set_prop(CAN_UNDO, True, private=True)
        return fl_ctx


class _Runner(FLComponent):
    """Ends the run on a fatal error, as FLARE's server runner does."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.FATAL_SYSTEM_ERROR:
            self._server.panic = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
            self._server.abort.trigger(True)


def received(message: Shareable) -> dict[str, np.ndarray]:
    """Weights in a message of the server."""
    return from_shareable(message).data
