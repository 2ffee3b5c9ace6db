"""FedDyn (Acar et al., ICLR 2021)."""

from typing import Any

import torch
from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings
from fedmr.utils.validation import NotNegative, settings


@settings("task: algorithm feddyn")
class FedDynSettings(AlgorithmSettings):
    """Attributes: alpha: weight of the dynamic regulariser; at 0 the site's half is FedAvg's."""

    alpha: NotNegative

    def local(self, *, seed: int) -> Algorithm:
        """Return the dynamic regulariser."""
        return FedDyn(self.alpha)


class FedDyn(Algorithm):
    """The site's half of FedDyn (algorithm 1): F(w) - <h, w> + alpha/2 ||w - w_t||^2.

    After a round h becomes h - alpha (w - w_t). The server's half adds to the mean the sum of all mean updates so far,
    if all sites take part: FLARE's PTFedOptModelShareableGenerator does so with torch.optim.SGD, lr = 1, momentum = 1,
    nesterov = true. A job must name it. The paper's sites take SGD's steps, here the task's optimiser does.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._h: dict[str, Tensor] = {}
        self._received: dict[str, Tensor] = {}

    def round_started(self, net: nn.Module) -> None:
        """Keep w_t; in the first round h is 0."""
        self._received = {name: p.detach().clone() for name, p in net.named_parameters()}
        self._h = {name: self._h.get(name, torch.zeros_like(p)).to(p) for name, p in self._received.items()}

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        """Return the regularised loss, a scalar."""
        terms = [
            self.alpha / 2 * (w - self._received[name]).square().sum() - (self._h[name] * w).sum()
            for name, w in net.named_parameters()
        ]
        return loss + torch.stack(terms).sum()

    def round_finished(self, net: nn.Module, steps: int) -> None:
        """Renew h."""
        for name, w in net.named_parameters():
            self._h[name] = self._h[name] - self.alpha * (w.detach() - self._received[name])

    def state_dict(self) -> dict[str, Any]:
        """Return h."""
        return {"h": self._h}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._h = state["h"]
