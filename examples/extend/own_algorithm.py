"""An algorithm of your own: settings, and the stages of a site's round that it changes."""

from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings
from fedmr.utils.validation import NotNegative, settings


@settings("task: algorithm anchored")
class Anchored(AlgorithmSettings):
    """Attributes: decay: share of the way back to the received weights that every step goes; 0 is FedAvg."""

    decay: NotNegative = 0.01

    def local(self, *, seed: int) -> Algorithm:
        """Return the part at a site."""
        return _Anchor(self.decay)


class _Anchor(Algorithm):
    def __init__(self, decay: float) -> None:
        self.decay, self.received = decay, list[Tensor]()

    def round_started(self, net: nn.Module) -> None:
        self.received = [p.detach().clone() for p in net.parameters()]

    def gradients_ready(self, net: nn.Module) -> None:
        for parameter, start in zip(net.parameters(), self.received, strict=True):
            parameter.data.lerp_(start, self.decay)
