"""FedBN (Li et al., ICLR 2021)."""

from torch import nn

from fedmr.algorithms.base import Algorithm, AlgorithmSettings, Training
from fedmr.utils.validation import settings


@settings("task: algorithm fedbn")
class FedBNSettings(AlgorithmSettings):
    """FedBN has no settings."""

    def local(self, *, seed: int) -> Algorithm:
        """Return the part that keeps batch normalisation at the site."""
        return FedBN()


class FedBN(Algorithm):
    """Weights and running statistics of batch normalisation stay at their site (algorithm 1); the rest is FedAvg's.

    Of a network without batch normalisation it is FedAvg. A job sets `guard.exclude_vars` to the names that stay.
    """

    def __init__(self) -> None:
        self._private: frozenset[str] = frozenset()

    def attach(self, training: Training) -> None:
        """Find the names that belong to batch normalisation."""
        layers = [n for n, m in training.net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        names = training.net.state_dict()
        self._private = frozenset(name for name in names if name.rpartition(".")[0] in layers)

    def is_private(self, name: str) -> bool:
        """Return whether it belongs to batch normalisation."""
        return name in self._private
