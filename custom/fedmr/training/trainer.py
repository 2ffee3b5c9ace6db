"""Training and evaluation, used by the FLARE learner, by `fedmr train` and by tests.

An algorithm (`fedmr.algorithms`) is an object whose stages are called; the loop over batches, `engine.fit`, stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm, Weights
from fedmr.metrics import mean_metrics, volume_metrics
from fedmr.nets import build
from fedmr.tasks.base import Sampler, Task, Volume
from fedmr.training.engine import TrainingStats, fit
from fedmr.training.parts import make_loss, make_optimizer, make_schedule
from fedmr.utils.optimizers import averaged


def evaluate(
    net: nn.Module,
    volumes: Sequence[Volume],
    task: Task,
    *,
    with_baselines: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Evaluate a network on whole volumes.

    Returns:
        ``{"n_volumes": N, "model": {"psnr": dB, "ssim": ..}}``, means over volumes of `metrics.volume_metrics`,
        with the baselines of the task's kind, e.g. ``"zero_filled"``, as further entries if `with_baselines`;
        ``{"n_volumes": 0}`` alone if there are no volumes.

    Raises:
        InterruptedError: `should_stop` became true.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    for volume in volumes:
        if should_stop():
            raise InterruptedError("evaluation was stopped")
        images = task.baselines(volume) if with_baselines else {}
        images["model"] = task.restore(net, volume)
        for name, image in images.items():
            rows.setdefault(name, []).append(volume_metrics(image, volume.reference))
    return {"n_volumes": len(volumes)} | {name: mean_metrics(row) for name, row in rows.items()}


class Trainer:
    """A site's training over all rounds: network, optimiser, schedule and hooks, saved and restored as one.

    Args:
        task: the task.
        sampler: the site's training data; training runs on its device.
        rounds: number of federated rounds; the learning rate falls over all of them.
        hooks: algorithm.

    Attributes:
        net: the network, which the federation shares.

    Raises:
        ValueError: the algorithm does not go with the network.
    """

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        *,
        rounds: int,
        hooks: Sequence[Algorithm] = (),
    ) -> None:
        self.task, self.sampler, self.rounds, self.hooks = task, sampler, rounds, list(hooks)
        self.net = build(**task.network).to(sampler.device)
        self.loss = make_loss(task.loss)
        self.optimizer = make_optimizer(task, self.net.parameters())
        total = max(rounds * task.local_epochs * self.sampler.steps_per_epoch, 1)
        self.schedule = make_schedule(task, self.optimizer, total)
        self.epoch, self.last_epoch = 0, rounds * task.local_epochs
        self.averaged = averaged(self.net, self.optimizer, task.ema_decay) if task.ema_decay else None
        for hook in self.hooks:
            hook.attach(self)
        if self.averaged is not None and self.personal is not None:
            raise ValueError("task: ema_decay averages the shared network; this algorithm keeps some at the site")

    def twin(self, hooks: Sequence[Algorithm]) -> "Trainer":
        """Return a new training of the same task on the same data, with other hooks."""
        return Trainer(self.task, self.sampler, rounds=self.rounds, hooks=hooks)

    def is_private(self, name: str) -> bool:
        """Return whether a parameter or buffer of the network stays at the site."""
        return any(hook.is_private(name) for hook in self.hooks)

    @property
    def keeps_part(self) -> bool:
        """Whether some of the network stays at the site, so that the server's network is none to use."""
        return any(map(self.is_private, self.net.state_dict()))

    @property
    def personal(self) -> nn.Module | None:
        """A network that stays at the site: the algorithm's second one, or the only one if some of it is private."""
        second = next((hook.personal for hook in self.hooks if hook.personal is not None), None)
        return self.net if second is None and self.keeps_part else second

    def before_load(self, received: Weights, own: Weights) -> Weights:
        """Return what the network will hold, by name, of any shape; see `Algorithm.before_load`."""
        for hook in self.hooks:
            received = hook.before_load(received, own)
        return received

    def result(self) -> dict[str, Tensor]:
        """Return the weights after a round, by name: after the last one the averaged ones, if the task averages.

        Nothing is trained from the average before, so it does not slow training; the federation's mean of the sites'
        averages is the average of their mean.
        """
        chosen = self.averaged.module if self.averaged is not None and self.epoch >= self.last_epoch else self.net
        state: dict[str, Tensor] = chosen.state_dict()
        return state

    def receive(self, arrays: Mapping[str, Tensor]) -> None:
        """Pass the server's extra arrays, of any shape, to the hooks."""
        for hook in self.hooks:
            hook.receive(arrays)

    def send(self) -> dict[str, Tensor]:
        """Return the hooks' extra arrays for the server after a round, by parameter name, each of any shape."""
        return {name: value for hook in self.hooks for name, value in hook.send().items()}

    def run_round(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        epoch_done: Callable[[int, TrainingStats], None] = lambda number, progress: None,
    ) -> TrainingStats:
        """Train the task's local epochs from the network's present weights, with the hooks around them.

        Args:
            should_stop: asked before every step; a stopped round is not finished for the hooks.
            epoch_done: called after each epoch with its number in the round, from 0, and its progress.

        Returns:
            progress of the whole round.
        """
        for hook in self.hooks:
            hook.round_started(self.net)
        total = TrainingStats()
        for number in range(self.task.local_epochs):
            epoch = self._run_epoch_of_all(should_stop)
            total = TrainingStats(total.steps + epoch.steps, epoch.loss, total.seconds + epoch.seconds, epoch.stopped)
            if epoch.stopped:
                return total
            epoch_done(number, epoch)
        for hook in self.hooks:
            hook.round_finished(self.net, total.steps)
        return total

    def _run_epoch_of_all(self, should_stop: Callable[[], bool]) -> TrainingStats:
        """Train an epoch, and what the hooks train after it; the stats are the network's, the time that of all."""
        epoch = self.run_epoch(should_stop)
        for hook in self.hooks if not epoch.stopped else ():
            if (other := hook.epoch_finished(should_stop)) is not None:
                epoch = replace(epoch, seconds=epoch.seconds + other.seconds, stopped=epoch.stopped or other.stopped)
        return epoch

    def run_epoch(self, should_stop: Callable[[], bool] = lambda: False) -> TrainingStats:
        """Train one epoch from the network's present weights."""
        progress = fit(
            self.net,
            takewhile(lambda _: not should_stop(), self.sampler.epoch(self.epoch)),
            self.loss,
            optimizer=self.optimizer,
            schedule=self.schedule,
            hooks=self.hooks,
            clip_norm=self.task.clip_norm,
            precision=self.task.precision,
        )
        progress.stopped = progress.steps < self.sampler.steps_per_epoch
        self.epoch += 1
        return progress

    def state_dict(self) -> dict[str, Any]:
        """Everything but the data that the next round needs in a new process."""
        return {
            "epoch": self.epoch,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "hooks": [hook.state_dict() for hook in self.hooks],
        } | ({} if self.averaged is None else {"averaged": self.averaged.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.epoch = state["epoch"]
        if self.averaged is not None and "averaged" in state:
            self.averaged.load_state_dict(state["averaged"])
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for hook, saved in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(saved)
