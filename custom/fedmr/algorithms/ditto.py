"""Ditto (Li et al., ICML 2021)."""

from collections.abc import Callable
from typing import Any

from torch import nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings, EpochTime, Training
from fedmr.algorithms.fedprox import FedProx
from fedmr.utils.validation import NotNegative, settings


@settings("task: algorithm ditto")
class DittoSettings(AlgorithmSettings):
    """Attributes: strength: the paper's lambda; at 0 the personal network is that of a site alone."""

    strength: NotNegative

    def local(self, *, seed: int) -> Algorithm:
        """Return the personal network's training."""
        return Ditto(self.strength)


class Ditto(Algorithm):
    """Ditto (algorithm 1): in addition to the shared network a personal one, which stays at the site.

    The shared network is trained as by FedAvg. The personal one, v, starts from the first received weights and
    trains as many epochs on the same batches, with loss F(v) + strength/2 ||v - w_t||^2, where w_t are the weights
    received in the round and strength is the paper's lambda. It has its own optimiser and the same schedule.
    """

    def __init__(self, strength: float) -> None:
        self._pull = FedProx(strength)

    def attach(self, training: Training) -> None:
        """Prepare a second training on the same data."""
        self._alone = training.twin([self._pull])

    @property
    def personal(self) -> nn.Module:
        """The network v."""
        return self._alone.net

    def round_started(self, net: nn.Module) -> None:
        """Pull v to the received weights, from which it starts in the first round."""
        if self._alone.epoch == 0:
            self._alone.net.load_state_dict(net.state_dict())
        self._pull.round_started(net)

    def epoch_finished(self, should_stop: Callable[[], bool]) -> EpochTime:
        """Train v for an epoch."""
        return self._alone.run_epoch(should_stop)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of v's training."""
        return {"personal": self._alone.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._alone.load_state_dict(state["personal"])
