"""Whose scans a site's released statistics are of. Two releases that differ by few patients tell what these have.

The record stays at the site. It holds digests, no names: enough to see whether two cohorts are the same.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from fedmr.utils.errors import UnsafeError
from fedmr.utils.files import write_atomically

COHORTS_FILE = "fedmr_cohorts.json"  # in the FLARE site's `local` folder

Cohort = Mapping[str, str]  # patient by volume


class Cohorts:
    """The site's record of the cohorts whose statistics it has released.

    Args:
        path: the file, by name `COHORTS_FILE` in the `local` folder of the FLARE site.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def release(self, cohorts: Mapping[str, Cohort], least: int) -> None:
        """Enter the cohorts of a job before its statistics leave.

        A cohort may be that of an earlier release, or differ from each by the volumes of at least `least` patients.
        So may all of a job's cohorts together. One of fewer patients counts for nothing, as it does not leave.

        Args:
            cohorts: by data set.
            least: patients, the site's `min_patients`; up to 1 nothing is compared or entered.

        Raises:
            UnsafeError: a cohort is too near to an earlier one, or the record cannot be read.
        """
        if least <= 1:
            return
        earlier = self._read()
        asked = {name: _digests(cohort) for name, cohort in cohorts.items() if len(set(cohort.values())) >= least}
        if len(asked) > 1:
            asked["all data sets together"] = {v: p for digests in asked.values() for v, p in digests.items()}
        for name, digests in asked.items():
            for other in earlier:
                patients = len({(digests | other)[volume] for volume in digests.keys() ^ other.keys()})
                if 0 < patients < least:
                    raise UnsafeError(
                        f"data set {name!r} differs by the scans of {patients} patient(s) from one whose statistics "
                        f"have left before; with fewer than {least} (min_patients) the difference would be theirs"
                    )
        new = [digests for digests in asked.values() if digests not in earlier]
        if new:
            content = json.dumps([*earlier, *new]) + "\n"
            write_atomically(self._path, lambda handle: handle.write(content.encode()))

    def _read(self) -> list[dict[str, str]]:
        """Earlier cohorts: digest of the patient by digest of the volume."""
        try:
            cohorts = json.loads(self._path.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError):
            cohorts = None
        if not isinstance(cohorts, list) or not all(isinstance(cohort, dict) for cohort in cohorts):
            raise UnsafeError(f"{self._path.parent.name}/{self._path.name} cannot be read; put back a copy of it")
        return cohorts


def _digests(cohort: Cohort) -> dict[str, str]:
    return {_digest(volume): _digest(patient) for volume, patient in cohort.items()}


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]
