"""The stages at which a federated algorithm may change what a site does. The defaults change nothing, as FedAvg.

FedAvg: McMahan et al., AISTATS 2017, algorithm 1. FedOpt and FedAvgM change only what the server does with the mean
update, and are FLARE's own: app_configs/mscan_fedopt.conf.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from fedmr.utils.validation import settings

Weights = Mapping[str, Tensor]


class EpochTime(Protocol):
    """Seconds that an epoch took and whether it was stopped, as of `training.trainer.TrainingStats`."""

    @property
    def seconds(self) -> float: ...
    @property
    def stopped(self) -> bool: ...


class Training(Protocol):
    """A site's training as an algorithm sees it, `training.trainer.Trainer`."""

    epoch: int
    net: nn.Module
    task: Any

    def twin(self, hooks: Sequence["Algorithm"]) -> "Training": ...
    def run_epoch(self, should_stop: Callable[[], bool] = ...) -> EpochTime: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Algorithm:
    """An algorithm's part at one site: stages of local training that call it, and what the site keeps and sends.

    In a round the stages are called in this order: `receive`, `before_load`, `round_started`, per step `add_loss` and
    `gradients_ready`, `epoch_finished`, `round_finished`, `send`. `is_private` decides what leaves.
    """

    def attach(self, training: Training) -> None:
        """Learn whose training it is, once, before all else.

        Raises:
            ValueError: the algorithm does not go with the network.
        """

    @property
    def personal(self) -> nn.Module | None:
        """A second network, which stays at the site."""
        return None

    def is_private(self, name: str) -> bool:
        """Return whether a parameter or buffer stays at the site: it is neither sent nor replaced."""
        return False

    def first_arrays(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return the server's extra arrays of the first round by name, each of any shape, given its weights."""
        return {}

    def receive(self, arrays: Weights) -> None:
        """Receive extra arrays of any shape from the server by name (possibly none)."""

    def before_load(self, received: Weights, own: Weights) -> Weights:
        """Return what the network will hold, by name, each shaped as received.

        Called for every model that the site trains or tests.

        Args:
            received: weights from the server, of any shape.
            own: the site's after its last round, shaped as received; empty before the first.
        """
        return {**received, **{name: value for name, value in own.items() if self.is_private(name)}}

    def round_started(self, net: nn.Module) -> None:
        """Start a round; the network holds the received weights."""

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        """Return the loss to differentiate, a scalar, given the loss of the task, a scalar."""
        return loss

    def gradients_ready(self, net: nn.Module) -> None:
        """Change the gradients after clipping, before the optimiser steps."""

    def epoch_finished(self, should_stop: Callable[[], bool]) -> EpochTime | None:
        """End an epoch; return the progress of whatever else was trained."""
        return None

    def round_finished(self, net: nn.Module, steps: int) -> None:
        """End a round after `steps` optimisation steps."""

    def send(self) -> dict[str, Tensor]:
        """Return extra arrays for the server by parameter name, shaped as the parameter.

        Called after `round_finished`; they travel with the weight difference.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that must survive the process."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""


class AlgorithmSettings:
    """Settings of an algorithm; a subclass is a pydantic dataclass by `utils.validation.settings`."""

    def local(self, *, seed: int) -> Algorithm:
        """Return the algorithm's part at a site, new; the task's seed is for one that draws."""
        raise NotImplementedError

    def check_network(self, network: Mapping[str, Any]) -> None:
        """Refuse a task's network that the algorithm cannot train, by a ValueError."""


@settings("task: algorithm fedavg")
class FedAvg(AlgorithmSettings):
    """FedAvg has no settings."""

    def local(self, *, seed: int) -> Algorithm:
        """Return the part that changes nothing."""
        return Algorithm()


def refuse_batch_norm(net: nn.Module, hooks: Iterable[Algorithm]) -> None:
    """Refuse a network that shares running means: the mean of sites' statistics is the statistic of none.

    Raises:
        ValueError: naming the layer and the ways out.
    """
    hooks = list(hooks)
    for prefix, layer in net.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            names = [f"{prefix}.{name}" for name in layer.state_dict()]
            if not all(any(hook.is_private(name) for hook in hooks) for name in names):
                raise ValueError(
                    f"task: network has batch normalisation ({prefix}), whose running means are of no site once "
                    "averaged; take algorithm { name = fedbn }, or a network with norm = INSTANCE or GROUP"
                )
