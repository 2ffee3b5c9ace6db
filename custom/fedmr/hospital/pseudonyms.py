"""Secrets that stay at the site: the key of its pseudonyms, and which volume came from which file."""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from fedmr.utils.errors import DataError
from fedmr.utils.files import write_atomically


class PrivateFolder:
    """`<site folder>/private`, readable by its owner alone. Nothing in it is needed for training.

    `key` makes the pseudonyms; `sources.jsonl` is the only link from a prepared volume back to its files and patient,
    one line per volume, written as soon as the volume is, so that an interrupted run can go on.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._journal = folder / "sources.jsonl"
        key = folder / "key"
        if not key.is_file():
            text = secrets.token_hex(32)
            write_atomically(key, lambda handle: handle.write(text.encode()))
            key.chmod(0o600)
        self._key = key.read_text().strip().encode()
        self._source = folder / "source"

    def claim(self, source: str) -> str:
        """Note the folder that the site's data come from, once; returns the one noted."""
        if not self._source.is_file():
            write_atomically(self._source, lambda handle: handle.write(os.fsencode(source)))
        return os.fsdecode(self._source.read_bytes())

    def pseudonym(self, kind: str, text: str) -> str:
        """Twelve hexadecimal digits of HMAC-SHA256 (RFC 2104): the same text gives the same ones, at this site only."""
        return hmac.new(self._key, os.fsencode(f"{kind}:{text}"), hashlib.sha256).hexdigest()[:12]

    def read(self) -> dict[str, dict[str, Any]]:
        """Records by volume; a line that an interruption cut off is dropped.

        Raises:
            DataError: a line before the last one is damaged.
        """
        records: dict[str, dict[str, Any]] = {}
        lines = self._journal.read_text().splitlines() if self._journal.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                if number == len(lines):
                    break
                raise DataError(f"{self._journal}, line {number} is damaged; delete the file to prepare anew") from None
            records[record["volume"]] = record
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Note a volume that has just been written."""
        with self._journal.open("a") as handle:
            handle.write(json.dumps(record) + "\n")

    def rewrite(self, records: list[dict[str, Any]]) -> None:
        """Replace the journal by the records of the volumes that are there."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self._journal, lambda handle: handle.write(text.encode()))
