"""SCAFFOLD (Karimireddy et al., ICML 2020)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings
from fedmr.utils.validation import settings


@settings("task: algorithm scaffold")
class ScaffoldSettings(AlgorithmSettings):
    """SCAFFOLD has no settings."""

    def local(self, *, seed: int) -> Algorithm:
        """Return the site's control."""
        return Scaffold()


class Scaffold(Algorithm):
    """The site's part of SCAFFOLD (Algorithm 1, option II).

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

    def first_arrays(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return controls of zero, NumPy arrays shaped as the weights."""
        return {name: np.zeros_like(value) for name, value in weights.items()}

    def receive(self, arrays: Mapping[str, Tensor]) -> None:
        """Receive the server's control c, each entry shaped as its parameter; those for buffers are not used."""
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
        """Return the change of c_i by parameter name, each shaped as the parameter."""
        return self._change

    def state_dict(self) -> dict[str, Any]:
        """Return c_i."""
        return {"own": self._own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._own = state["own"]
