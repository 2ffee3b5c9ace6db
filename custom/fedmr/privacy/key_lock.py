"""How many encrypted models a site has refused, over jobs and restarts; after some it uses its key no more.

Whether a site can decrypt what it is sent is an answer about its key, and thousands of answers are the key (a reaction
attack). So the site gives few of them, whatever job asks.
"""

import json
from pathlib import Path

from fedmr.utils.files import write_atomically

FAILURES_FILE = "fedmr_he_failures.json"  # in the FLARE site's `local` folder
MOST_FAILURES = 3


class KeyLockedError(RuntimeError):
    """The site does not use its key any more until its owner acts."""


class KeyLock:
    """The site's count of refused models.

    Args:
        path: the file, by name `FAILURES_FILE` in the `local` folder of the FLARE site.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def require_open(self) -> None:
        """Check that the key may be used.

        Raises:
            KeyLockedError: too many models were refused, or the count cannot be read.
        """
        if len(self._reasons()) >= MOST_FAILURES:
            raise KeyLockedError(
                f"{self._path.parent.name}/{self._path.name} holds {MOST_FAILURES} models that could not be decrypted "
                "or were no means of the sites: the server or a site may be after the key. Ask the operator, have new "
                "keys provisioned, then remove the file"
            )

    def add(self, reason: str) -> None:
        """Enter a refused model, before the refusal is told."""
        content = json.dumps([*self._reasons(), reason], indent=1) + "\n"
        write_atomically(self._path, lambda handle: handle.write(content.encode()))

    def _reasons(self) -> list[str]:
        try:
            reasons = json.loads(self._path.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError):
            reasons = None
        if not isinstance(reasons, list):
            raise KeyLockedError(f"{self._path.parent.name}/{self._path.name} cannot be read; put back a copy of it")
        return reasons
