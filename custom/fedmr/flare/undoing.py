"""Workflows that take back a bad model, and look at the last one before they call it final.

FLARE's workflow aggregates and goes on. Whether a model is any good is known only when the sites have received it:
they send its metrics with the next round's updates. `fedmr.flare.guard.ServerGuard` judges them; here the best model
so far takes the place of a bad one, and the updates that were made from the bad one are dropped. After the last
round there is no next one, so the sites are asked once more, for metrics alone.
"""

from typing import Any

import numpy as np
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather
from nvflare.app_common.workflows.scatter_and_gather_scaffold import ScatterAndGatherScaffold
from torch.nn import Module

from fedmr.aggregation.standing import Verdict
from fedmr.flare.messages import VALIDATION_SPLIT

CAN_UNDO = "fedmr_can_undo"  # in the server's context: the workflow takes models back
VERDICT = "fedmr_verdict"  # the guard's, on the model of the round
FINAL_METRICS = "fedmr_final_metrics"  # by site, of the model after the last round
FINAL_MODEL_TESTED = "_fedmr_final_model_tested"  # event

_TEST_TIMEOUT = 6000  # seconds, as in FLARE's own evaluation


class UndoingScatterAndGather(ScatterAndGather):
    """FLARE's FedAvg workflow, whose bad models are undone, and whose last model is looked at before it is final.

    Without a `ServerGuard` in the job, which judges, it is FLARE's. The server keeps two more copies of the model.

    Args:
        scatter_and_gather: arguments of FLARE's workflow.
    """

    def __init__(self, **scatter_and_gather: Any) -> None:
        super().__init__(**scatter_and_gather)
        self._sent: dict[str, Any] = {}
        self._best: dict[str, Any] = {}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Tell the guard that it need not end the job."""
        fl_ctx.set_prop(CAN_UNDO, True, private=True, sticky=True)
        super().start_controller(fl_ctx)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Keep the model of a round before it changes; put the best in the place of a bad one after it has."""
        super().handle_event(event_type, fl_ctx)
        if event_type == AppEventType.ROUND_STARTED:
            self._sent = self._state()
        elif event_type == AppEventType.AFTER_SHAREABLE_TO_LEARNABLE:
            self._heed(fl_ctx)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Train, then look at the last model."""
        super().control_flow(abort_signal, fl_ctx)
        if self._phase == AppConstants.PHASE_FINISHED and not abort_signal.triggered and self._best:
            self._look_at_final(abort_signal, fl_ctx)

    def _look_at_final(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Ask the sites for the last model's metrics on their validation volumes."""
        metrics: dict[str, Any] = {}

        def keep(client_task: ClientTask, fl_ctx: FLContext) -> None:
            reply, client_task.result = client_task.result, None
            if reply.get_return_code() == ReturnCode.OK:
                metrics[client_task.client.name] = _metrics_in(reply)

        message = self.shareable_gen.learnable_to_shareable(self._global_weights, fl_ctx)
        message.set_header(AppConstants.CURRENT_ROUND, self._current_round)
        message.set_header(AppConstants.NUM_ROUNDS, self._num_rounds)
        message.set_header(VALIDATION_SPLIT, "val")
        timeout = self._train_timeout or _TEST_TIMEOUT
        task = Task(AppConstants.TASK_VALIDATION, data=message, timeout=timeout, result_received_cb=keep)
        Controller.broadcast_and_wait(self, task, fl_ctx, min_responses=self._min_clients, abort_signal=abort_signal)
        if abort_signal.triggered:
            return
        fl_ctx.set_prop(FINAL_METRICS, metrics, private=True, sticky=False)
        self.fire_event(FINAL_MODEL_TESTED, fl_ctx)
        self._sent = self._state()
        if self._heed(fl_ctx):
            self.log_error(fl_ctx, "The final model is the best one before the last round.", fire_event=False)
            if self.persistor:
                self.persistor.save(self._global_weights, fl_ctx)

    def _heed(self, fl_ctx: FLContext) -> bool:
        """Act on the guard's verdict on the model of the round; whether it was undone."""
        verdict = fl_ctx.get_prop(VERDICT)
        fl_ctx.set_prop(VERDICT, None, private=True, sticky=False)
        if verdict is Verdict.BEST:
            self._best = self._sent
        if verdict is not Verdict.BAD or not self._best:
            return False
        self._restore(self._best)
        fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, self._global_weights, private=True, sticky=True)
        return True

    def _state(self) -> dict[str, Any]:
        """The global model, and the state of a server's optimiser that has its own."""
        network = getattr(self.shareable_gen, "model", None)
        own = network.state_dict() if isinstance(network, Module) else {}
        return {"model": _copy(self._global_weights), "own": {name: value.clone() for name, value in own.items()}}

    def _restore(self, state: dict[str, Any]) -> None:
        self._global_weights = _copy(state["model"])
        if state["own"]:
            self.shareable_gen.model.load_state_dict(state["own"])


class UndoingScatterAndGatherScaffold(UndoingScatterAndGather, ScatterAndGatherScaffold):
    """The same for SCAFFOLD, whose controls go back with the model."""

    def _state(self) -> dict[str, Any]:
        controls = self._global_ctrl_weights or {}
        return super()._state() | {"controls": {name: np.array(value) for name, value in controls.items()}}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._global_ctrl_weights = {name: np.array(value) for name, value in state["controls"].items()}


def _copy(model: ModelLearnable) -> ModelLearnable:
    """A model that no later round changes; ciphertexts are never changed, only replaced."""
    weights = model.get(ModelLearnableKey.WEIGHTS) or {}
    copied = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in weights.items()}
    return make_model_learnable(copied, dict(model.get(ModelLearnableKey.META) or {}))


def _metrics_in(reply: Any) -> Any:
    """Return what a site replies as metrics of the model, None if it cannot be read; the guard checks the values."""
    try:
        data = from_shareable(reply).data
    except ValueError:
        return None
    return data.get("model") if isinstance(data, dict) else None
