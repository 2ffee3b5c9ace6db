"""Federated algorithms, as far as they change what a site does: FedProx, SCAFFOLD, Ditto, and each site alone.

FL-MRCM has a file of its own, `fedmr.training.flmrcm`. FedOpt changes only what the server does with the mean
update, and is FLARE's own: app_configs/mscan_fedopt.conf.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fedmr.tasks.base import Sampler, Task
from fedmr.tasks.flmrcm_settings import Mrcm
from fedmr.training.dp_sgd import PrivateTrainer
from fedmr.training.flmrcm import CrossSiteModelling
from fedmr.training.trainer import Hook, Trainer, TrainingStats


class FedProx(Hook):
    """The proximal term of FedProx (Li et al., MLSys 2020, eq. 2): h(w) = F(w) + mu/2 ||w - w_t||^2.

    It belongs to the loss: it counts in the reported one, and the gradient is clipped with it. Every site takes all
    its steps; the paper's sites may stop at different inexact solutions.

    Args:
        mu: at least 0; 0 is FedAvg to the last bit.
    """

    def __init__(self, mu: float) -> None:
        self.mu = mu
        self._received: list[Tensor] = []

    def round_started(self, net: nn.Module) -> None:
        """Keep the received weights w_t."""
        self._received = [p.detach().clone() for p in net.parameters()]

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        """The loss h(w)."""
        pairs = zip(net.parameters(), self._received, strict=True)
        return loss + self.mu / 2 * torch.stack([(w - w_t).square().sum() for w, w_t in pairs]).sum()


class Scaffold(Hook):
    """The site's part of SCAFFOLD (Karimireddy et al., ICML 2020, Algorithm 1, option II).

    Every step's gradient g becomes g - c_i + c, with the site's control c_i and the server's c. Option II renews c_i
    as c_i - c + (x - y) / (K lr). For SGD that is the mean of the K gradients g, since y = x - lr sum(g - c_i + c),
    or under a schedule, with the sum of the rates for K lr, their mean weighted by rate. The paper has no Adam, whose
    steps are about as long as the rate whatever the gradient: on the demo data (x - y) / sum(lr) has an RMS of 0.1,
    the mean gradient one of 1e-5, which the former would drown. So here c_i is the plain mean of the K gradients, as
    they are after clipping, and the correction goes to the gradient before the optimiser sees it.

    A control is made from the site's data as a gradient is, and its change leaves the site.
    """

    def __init__(self) -> None:
        self._own: dict[str, Tensor] = {}  # c_i
        self._servers: dict[str, Tensor] = {}  # c
        self._sum: dict[str, Tensor] = {}
        self._correction: dict[str, Tensor] = {}
        self._change: dict[str, Tensor] = {}

    def receive(self, arrays: Mapping[str, Tensor]) -> None:
        """The server's control c; its entries for buffers are not used."""
        self._servers = dict(arrays)

    def round_started(self, net: nn.Module) -> None:
        """Prepare c - c_i; in the first round c_i is 0.

        Raises:
            ValueError: the server sends no control.
        """
        parameters = dict(net.named_parameters())
        if absent := sorted(set(parameters) - set(self._servers)):
            raise ValueError(f"the server sends no SCAFFOLD control of {absent[0]}; run a job as mscan_scaffold does")
        self._own = {name: self._own.get(name, torch.zeros_like(p)).to(p) for name, p in parameters.items()}
        self._correction = {name: self._servers[name].to(p) - self._own[name] for name, p in parameters.items()}
        self._sum = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def gradients_ready(self, net: nn.Module) -> None:
        """Count the gradient g and correct it."""
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:
                self._sum[name] += parameter.grad
                parameter.grad += self._correction[name]

    def round_finished(self, net: nn.Module, steps: int) -> None:
        """Renew c_i."""
        renewed = {name: total / max(steps, 1) for name, total in self._sum.items()}
        self._change = {name: value - self._own[name] for name, value in renewed.items()}
        self._own = renewed

    def send(self) -> dict[str, Tensor]:
        """The change of c_i."""
        return self._change

    def state_dict(self) -> dict[str, Any]:
        """c_i."""
        return {"own": self._own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._own = state["own"]


class Ditto(Trainer):
    """Ditto (Li et al., ICML 2021, Algorithm 1): beside the shared network a personal one, which stays at the site.

    The shared network is trained as by FedAvg. The personal one, v, starts from the first received weights and
    trains as many epochs on the same batches, with loss F(v) + strength/2 ||v - w_t||^2, where w_t are the weights
    received in the round and strength is the paper's lambda. It has its own optimiser and the same schedule.
    """

    def __init__(self, task: Task, sampler: Sampler, *, rounds: int, strength: float) -> None:
        super().__init__(task, sampler, rounds=rounds)
        self._pull = FedProx(strength)
        self._alone = Trainer(task, sampler, rounds=rounds, hooks=[self._pull])
        self.personal = self._alone.net

    def run_round(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        epoch_done: Callable[[int, TrainingStats], None] = lambda number, progress: None,
    ) -> TrainingStats:
        """A round of both networks; see the base class. The stats are the shared network's, their time that of both."""
        if self.epoch == 0:
            self._alone.net.load_state_dict(self.net.state_dict())
        self._pull.round_started(self.net)
        return super().run_round(should_stop, epoch_done)

    def run_epoch(self, should_stop: Callable[[], bool] = lambda: False) -> TrainingStats:
        """An epoch of the shared network, then of the personal one."""
        shared = super().run_epoch(should_stop)
        if shared.stopped:
            return shared
        personal = self._alone.run_epoch(should_stop)
        return replace(shared, seconds=shared.seconds + personal.seconds, stopped=personal.stopped)

    def state_dict(self) -> dict[str, Any]:
        """Both networks' state."""
        return super().state_dict() | {"personal": self._alone.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        super().load_state_dict(state)
        self._alone.load_state_dict(state["personal"])


def make_trainer(task: Task, sampler: Sampler, *, rounds: int) -> Trainer:
    """The trainer of a task's algorithm; arguments as those of `Trainer`."""
    if getattr(task, "dp_sgd", None):
        return PrivateTrainer(task, sampler, rounds=rounds)
    parameters = dict(task.algorithm)
    name = parameters.pop("name")
    if name == "ditto":
        return Ditto(task, sampler, rounds=rounds, **parameters)
    trainer = Trainer(task, sampler, rounds=rounds, hooks=_hooks(task, name, parameters))
    if name == "local":
        trainer.personal = trainer.net
    return trainer


def _hooks(task: Task, name: str, parameters: Mapping[str, Any]) -> list[Hook]:
    if name == "flmrcm":
        own = Mrcm.from_dict(parameters)
        return [CrossSiteModelling(weight=own.weight, learning_rate=own.learning_rate, seed=task.seed)]
    hooks: dict[str, type[Hook]] = {"fedprox": FedProx, "scaffold": Scaffold}
    return [hooks[name](**parameters)] if name in hooks else []
