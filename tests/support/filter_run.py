"""A site's replies, and FLARE's own client runner that sends them through filters."""

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers import common_decomposers
from nvflare.private.fed.client.client_engine_executor_spec import TaskAssignment
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter

common_decomposers.register()  # as FLARE's client process does
STEPS = 12


def context_of(engine) -> FLContext:
    context = FLContext()
    context.set_prop(ReservedKey.ENGINE, engine, private=True)
    context.set_prop(ReservedKey.IDENTITY_NAME, "site-1")
    context.set_prop(ReservedKey.RUN_NUM, "job")
    return context


def update(seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "head": rng.normal(0, 0.02, (16, 1, 3, 3)).astype(np.float32),
        "gain": np.array(0.05, dtype=np.float32),
        "batches": np.array(STEPS),
        "tail": rng.normal(0, 0.02, (4, 16, 3, 3)).astype(np.float32),
    }


def reply(data=None, kind=DataKind.WEIGHT_DIFF, **meta) -> Shareable:
    meta = {
        MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS,
        MetaKey.INITIAL_METRICS: {"psnr": 31.234567, "ssim": 0.912345},
    } | meta
    return DXO(kind, update() if data is None else data, meta).to_shareable()


class Trains(Executor):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return self.result


def through_flare(result: Shareable, chain, fl_ctx) -> Shareable:
    """What FLARE's client runner sends to the server for a task with this result."""
    router = TaskRouter()
    router.add_executor(["train"], Trains(result))
    config = ClientRunnerConfig(router, {}, {"train" + FilterKey.DELIMITER + FilterKey.OUT: chain})
    runner = ClientRunner({}, config, "job", fl_ctx.get_engine())
    fl_ctx.set_peer_context(context_of(None))
    return runner._process_task(TaskAssignment("train", "task-id", Shareable()), fl_ctx)
