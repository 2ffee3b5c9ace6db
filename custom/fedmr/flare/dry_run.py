"""A few training steps of the real learner on a site's folder, in FLARE's own objects but without a federation."""

import itertools
import logging
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import torch
from nvflare.apis.dxo import MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants, ValidateType

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.flare.learner import SiteLearner
from fedmr.flare.messages import first_task
from fedmr.hospital.preflight.machine import Step
from fedmr.nets import build
from fedmr.tasks.base import Task

STEPS = 3  # a loss that diverges shows only after a step; the first one is slower than the others


def dry_run(folder: Path, task: Task) -> Step:
    """`take_steps` in a process of its own: its memory is the learner's, and the machine may end it without us.

    Raises:
        RuntimeError: the process was ended.
        Exception: as `take_steps`.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), logging.disable) as pool:
        try:
            return pool.submit(take_steps, folder, task).result()
        except BrokenProcessPool:
            raise RuntimeError("the learner's process was ended, most likely because memory ran out") from None


def take_steps(folder: Path, task: Task) -> Step:
    """Evaluate the untrained network as the first round does, then train `STEPS` steps and abort.

    Of the validation volumes only the largest is evaluated: it needs the most memory, and the others tell no more.

    Sets FEDMR_DATA_ROOT and the number of torch threads of this process.

    Args:
        folder: the site's folder; its name is the site's name.
        task: the job's.

    Raises:
        RuntimeError: the learner cannot take part, with its reason.
        Exception: whatever else the learner raises.
    """
    os.environ[DATA_ROOT_VARIABLE] = str(folder.parent)
    with tempfile.TemporaryDirectory(prefix="fedmr-preflight-") as temporary:
        context = _context(Path(temporary) / folder.name)
        learner = _Watched(task.to_dict())
        learner.initialize({}, context)
        learner.keep_largest()
        message = _message(task)
        reply = learner.validate(message, context, Signal())
        learner.must_have_replied(reply, ReturnCode.OK)
        psnr = from_shareable(reply).data[MetaKey.INITIAL_METRICS].get("psnr")
        if not learner.steps_per_round(task):  # the site only evaluates
            return Step(psnr, 0.0, 0, _peak_memory())
        stop = _StopAfter(STEPS)
        reply = learner.train(message, context, stop)
        learner.must_have_replied(reply, ReturnCode.OK, ReturnCode.TASK_ABORTED)
        learner.must_have_learnt(task)
        return Step(psnr, stop.seconds_per_step(), learner.steps_per_round(task), _peak_memory())


class _Watched(SiteLearner):
    """The learner, which keeps its reason for failing and lets its network be looked at."""

    reason = ""

    def _fail(self, fl_ctx: FLContext, reason: str) -> Shareable:
        self.reason = reason
        return super()._fail(fl_ctx, reason)

    def keep_largest(self) -> None:
        """Leave the largest of the validation volumes; of a learner that failed there are none."""
        volumes = getattr(self, "_volumes", {"val": []})
        volumes["val"] = sorted(volumes["val"], key=lambda volume: volume.reference.numel())[-1:]

    def must_have_replied(self, reply: Shareable, *codes: str) -> None:
        if reply.get_return_code() not in codes:
            raise RuntimeError(self.reason or f"the learner replied {reply.get_return_code()}")

    def must_have_learnt(self, task: Task) -> None:
        before = build(**task.network).state_dict()
        after = self._trainer.net.state_dict() if self._trainer else before
        if all(torch.equal(before[name], value.cpu()) for name, value in after.items()):
            raise RuntimeError("training changed no weight of the network; look at clip_norm and learning_rate")

    def steps_per_round(self, task: Task) -> int:
        return self._sampler.steps_per_epoch * task.local_epochs


class _StopAfter(Signal):
    """Triggers when it is asked for the step after the last; the learner asks before every step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._asked: list[float] = []

    @property
    def triggered(self) -> bool:
        self._asked.append(time.perf_counter())
        return len(self._asked) > self._steps

    def seconds_per_step(self) -> float:
        """Of the fastest step, as the least disturbed one; an epoch may have fewer steps than were asked for."""
        times = self._asked if len(self._asked) > 1 else [*self._asked, time.perf_counter()]
        return min(after - before for before, after in itertools.pairwise(times))


def _context(home: Path) -> FLContext:
    """Return what FLARE tells a learner: its site, a job, and a workspace."""
    for name in ("startup", "local", "job"):
        (home / name).mkdir(parents=True)
    workspace = Workspace(str(home), site_name=home.name)
    context = FLContext()
    context.set_prop(ReservedKey.ENGINE, SimpleNamespace(get_workspace=lambda: workspace), private=True)
    context.set_prop(ReservedKey.IDENTITY_NAME, home.name)
    context.set_prop(ReservedKey.RUN_NUM, "job")
    return context


def _message(task: Task) -> Shareable:
    """The server's task of the first round, with the untrained network."""
    weights = {name: value.numpy() for name, value in build(**task.network).state_dict().items()}
    message: Shareable = first_task(task, weights).to_shareable()
    message.set_header(AppConstants.CURRENT_ROUND, 0)
    message.set_header(AppConstants.NUM_ROUNDS, 1)
    message.set_header(AppConstants.VALIDATE_TYPE, ValidateType.BEFORE_TRAIN_VALIDATE)
    return message


def _peak_memory() -> int:
    """Most that this process has held, in bytes. Linux' getrusage would count the parent's, too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
