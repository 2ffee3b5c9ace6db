"""Every site alone: the baseline without a federation."""

from fedmr.algorithms.base import Algorithm, AlgorithmSettings
from fedmr.utils.validation import settings


@settings("task: algorithm local")
class LocalSettings(AlgorithmSettings):
    """A site alone has no settings."""

    def local(self, *, seed: int) -> Algorithm:
        """Return the part that keeps the whole network."""
        return Local()


class Local(Algorithm):
    """The site takes no weights from the server but the first and sends none."""

    def is_private(self, name: str) -> bool:
        """Keep everything."""
        return True
