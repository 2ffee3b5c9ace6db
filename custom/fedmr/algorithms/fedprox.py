"""FedProx (Li et al., MLSys 2020)."""

import torch
from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings
from fedmr.utils.validation import NotNegative, settings


@settings("task: algorithm fedprox")
class FedProxSettings(AlgorithmSettings):
    """Attributes: mu: weight of the proximal term; 0 is FedAvg to the last bit."""

    mu: NotNegative

    def local(self, *, seed: int) -> Algorithm:
        """Return the proximal term."""
        return FedProx(self.mu)


class FedProx(Algorithm):
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
        """Return the loss h(w), a scalar."""
        pairs = zip(net.parameters(), self._received, strict=True)
        return loss + self.mu / 2 * torch.stack([(w - w_t).square().sum() for w, w_t in pairs]).sum()
