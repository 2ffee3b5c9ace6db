"""A shared body and a private head: FedPer (Arivazhagan et al., 2019) and FedRep (Collins et al., ICML 2021)."""

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings, Training
from fedmr.utils.validation import Whole, settings

_Layers = Annotated[Sequence[str], Field(description="a list of names of layers, e.g. [tail]")]


@settings("task: algorithm fedper")
class FedPerSettings(AlgorithmSettings):
    """Attributes: private: layers that stay at the site; without any it is FedAvg."""

    private: _Layers

    def local(self, *, seed: int) -> Algorithm:
        """Return the part that keeps the head."""
        return PrivateHead(self.private)


@settings("task: algorithm fedrep")
class FedRepSettings(AlgorithmSettings):
    """Attributes: private: as of FedPer; head_epochs: first epochs of a round, in which the head alone is trained."""

    private: _Layers
    head_epochs: Annotated[Whole, Field(ge=0)] = 1

    def local(self, *, seed: int) -> Algorithm:
        """Return the part that keeps the head and trains it first."""
        return PrivateHead(self.private, self.head_epochs)


class PrivateHead(Algorithm):
    """Some layers stay at their site. FedPer trains all together, FedRep (algorithm 1) first the head, then the body.

    A job sets `guard.exclude_vars` to the names that stay.

    Args:
        layers: names of the head's layers.
        head_epochs: epochs of the head alone at the start of a round, then the body alone; None trains both at once.
    """

    def __init__(self, layers: Sequence[str], head_epochs: int | None = None) -> None:
        self.layers, self.head_epochs = tuple(layers), head_epochs
        self._epoch = 0

    def attach(self, training: Training) -> None:
        """Check the layers.

        Raises:
            ValueError: the network has none of that name, or no epoch is left for the body.
        """
        names = training.net.state_dict()
        for layer in self.layers:
            if not any(self._within(name, layer) for name in names):
                raise ValueError(f"task: algorithm: network has no layer {layer!r}; its first are {list(names)[:3]}")
        epochs = training.task.local_epochs
        if self.head_epochs is not None and self.head_epochs >= epochs:
            raise ValueError(
                f"task: algorithm fedrep head_epochs is {self.head_epochs} of {epochs} local_epochs, so the body would "
                "never be trained; raise local_epochs"
            )

    def is_private(self, name: str) -> bool:
        """Return whether it is of the head."""
        return any(self._within(name, layer) for layer in self.layers)

    def round_started(self, net: nn.Module) -> None:
        """Start with the head."""
        self._epoch = 0

    def gradients_ready(self, net: nn.Module) -> None:
        """Drop the gradients of what is not trained in this epoch, so that the optimiser leaves it."""
        if self.head_epochs is None:
            return
        for name, parameter in net.named_parameters():
            if self.is_private(name) != (self._epoch < self.head_epochs):
                parameter.grad = None

    def epoch_finished(self, should_stop: Callable[[], bool]) -> None:
        """Count the epochs of the round."""
        self._epoch += 1

    @staticmethod
    def _within(name: str, layer: str) -> bool:
        return name == layer or name.startswith(f"{layer}.")
