"""Privacy cost of a site's releases, kept in a file over rounds, jobs and restarts."""

import fcntl
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedmr.privacy.policy import PolicyError, read_policy
from fedmr.utils.extras import load
from fedmr.utils.files import write_atomically
from fedmr.utils.validation import require

BUDGET_FILE = "fedmr_privacy_budget.json"
# Renyi orders. Opacus' own start at 1.1, too high for large epsilons; these are within 10 % of the exact epsilon
# from 0.3 up, and above it everywhere.
_ORDERS = [float(order) for order in 1 + np.logspace(-4, 4, 400)]


Steps = tuple[float, float, int]  # steps of DP-SGD: noise multiplier, sampling rate, number


class BudgetError(RuntimeError):
    """The budget is spent, or its file cannot be trusted; nothing is sent."""


def gaussian_epsilon(releases: Mapping[float, int], delta: float) -> float:
    """Epsilon of several Gaussian releases by Opacus' Renyi accountant, an upper bound of the exact one.

    Args:
        releases: number of releases by noise multiplier, the noise's deviation per clip C. The sensitivity is 2C
            (see `fedmr.privacy.mechanism`), so the accountant is told half of it.
        delta: probability that the bound does not hold.
    """
    if not releases:
        return 0.0
    accountant = load("opacus.accountants").RDPAccountant()
    accountant.history = [(multiplier / 2, 1.0, count) for multiplier, count in releases.items()]
    return max(0.0, float(accountant.get_epsilon(delta, alphas=_ORDERS)))


def sampled_epsilon(steps: Sequence[Steps], delta: float) -> float:
    """Epsilon of steps of DP-SGD by Opacus' Renyi accountant, for adding or removing one unit.

    Args:
        steps: their noise has the deviation of the noise multiplier times the largest norm of a unit's part.
        delta: probability that the bound does not hold.
    """
    accountant = load("opacus.accountants").RDPAccountant()
    accountant.history = list(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another order would give a smaller bound
        return float(accountant.get_epsilon(delta)) if steps else 0.0


def check_total(epsilon: float, what: str, *, unit: str, delta: float, max_epsilon: float) -> None:
    """Refuse what would exceed the budget.

    Args:
        epsilon: the total, with the release.
        what: the release, in words.
        unit: whom epsilon protects.
        delta: of epsilon.
        max_epsilon: largest total that may be reached.

    Raises:
        BudgetError: the total is above it, or is NaN.
    """
    if not epsilon <= max_epsilon:
        raise BudgetError(
            f"the privacy budget is spent: with {what} epsilon per {unit} would be {epsilon:.5g} at delta "
            f"{delta:g}, and max_epsilon is {max_epsilon:g}. Nothing is sent"
        )


@dataclass(frozen=True)
class Spent:
    """All that a site has released.

    Attributes:
        gaussian: number of releases by noise multiplier.
        pure: sum of the epsilons of releases with delta 0.
        releases: number of releases.
        unit: of DP-SGD, "slice" or "patient"; empty if there was none.
        steps: of DP-SGD. They protect a unit, the other releases the whole site: no epsilon is of both.
    """

    gaussian: Mapping[float, int] = field(default_factory=dict)
    pure: float = 0.0
    releases: int = 0
    unit: str = ""
    steps: Sequence[Steps] = ()

    def epsilon(self, delta: float, unit: str = "site") -> float:
        """Epsilon of all releases that protect the unit, the site's by the sum of both kinds."""
        if unit == "site":
            return gaussian_epsilon(self.gaussian, delta) + self.pure
        return sampled_epsilon(self.steps, delta)


class Budget:
    """The site's account. Every filter that costs privacy spends from it, in whatever job.

    The ceiling is the site's policy, `fedmr.privacy.policy`, in the same folder; a job's own figures only tighten it.

    Args:
        path: the file, by name `BUDGET_FILE` in the `local` folder of the FLARE site; made at the first release.
            Deleting it forgets what was spent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # a site's log may reach the server, so no path of the site is said
        self._name = f"{path.parent.name}/{path.name}"

    def read(self) -> Spent:
        """Return what has been spent.

        Raises:
            BudgetError: the file is there but cannot be read or is no account.
        """
        try:
            content = json.loads(self._path.read_text())
            gaussian = {require("noise multiplier", float(m), 0): int(n) for m, n in content["gaussian"].items()}
            private = content.get("dp_sgd", {"unit": "", "steps": []})
            steps = [
                (require("noise multiplier", m, 0), require("sampling rate", q, 0, 1), int(require("steps", n, 0)))
                for m, q, n in private["steps"]
            ]
            spent = Spent(
                gaussian, float(content["pure"]), int(content["releases"]), str(private["unit"]), tuple(steps)
            )
        except FileNotFoundError:
            return Spent()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BudgetError(
                f"{self._name} cannot be read ({type(error).__name__}); put back a copy of it. Nothing is sent"
            ) from None
        if not 0 <= spent.pure < math.inf or not all(0 < n <= spent.releases for n in gaussian.values()):
            raise BudgetError(f"{self._name} is no account of releases; put back a copy of it. Nothing is sent")
        return spent

    def spend(
        self, *, noise_multiplier: float | None = None, pure: float = 0.0, delta: float, max_epsilon: float
    ) -> tuple[float, int]:
        """Enter one release before it is made.

        Args:
            noise_multiplier: of a Gaussian release.
            pure: epsilon of a release with delta 0.
            delta: for the total.
            max_epsilon: largest total that may be reached.

        Returns:
            epsilon and number of all releases, with this one.

        Raises:
            BudgetError: the total would exceed `max_epsilon`, or the file cannot be read or written.
        """

        def enter(before: Spent) -> Spent:
            gaussian = dict(before.gaussian)
            if noise_multiplier is not None:
                gaussian[noise_multiplier] = gaussian.get(noise_multiplier, 0) + 1
            return replace(before, gaussian=gaussian, pure=before.pure + pure)

        return self._spend(enter, "site", delta, max_epsilon)

    def spend_steps(self, steps: Steps, *, unit: str, delta: float, max_epsilon: float) -> tuple[float, int]:
        """Enter a round of DP-SGD before it is trained.

        Args:
            steps: of the round.
            unit: "slice" or "patient".
            delta: for the total.
            max_epsilon: largest total that may be reached.

        Returns:
            epsilon of all DP-SGD of the site, with this round, for one unit, and the number of all releases.

        Raises:
            BudgetError: as `spend`, or the site has released by DP-SGD for another unit.
        """

        def enter(before: Spent) -> Spent:
            if before.unit not in ("", unit):
                raise BudgetError(
                    f"{self._name} holds DP-SGD that protects every {before.unit}; what it cost a {unit} is unknown. "
                    f"Go on with unit = {before.unit}, or, with other data, start a new account. Nothing is sent"
                )
            *earlier, last = before.steps or [(*steps[:2], 0)]
            same = last[:2] == steps[:2]
            merged = [(*steps[:2], last[2] + steps[2])] if same else [last, steps]
            return replace(before, unit=unit, steps=(*earlier, *merged))

        return self._spend(enter, unit, delta, max_epsilon)

    def _spend(self, enter: Callable[[Spent], Spent], unit: str, delta: float, max_epsilon: float) -> tuple[float, int]:
        try:
            delta, max_epsilon = read_policy(self._path.parent).tighten(unit, delta, max_epsilon)
        except PolicyError as error:
            raise BudgetError(str(error)) from None
        with self._locked():
            before = self.read()
            after = replace(enter(before), releases=before.releases + 1)
            epsilon = after.epsilon(delta, unit)
            what = f"this release, number {after.releases},"
            check_total(epsilon, what, unit=unit, delta=delta, max_epsilon=max_epsilon)
            self._write(after, delta)
        return epsilon, after.releases

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the account against other processes of the site; a lock ends with its process."""
        try:
            lock = self._path.with_suffix(".lock").open("w")
        except OSError as error:
            raise BudgetError(f"{self._name} cannot be locked ({error.strerror}). Nothing is sent") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, spent: Spent, delta: float) -> None:
        content: dict[str, Any] = {
            "gaussian": {repr(multiplier): count for multiplier, count in spent.gaussian.items()},
            "pure": spent.pure,
            "releases": spent.releases,
        }
        words = [f"epsilon {spent.epsilon(delta):.6g} at delta {delta:g}, per site, for replacing all of its data"]
        if spent.unit:
            content["dp_sgd"] = {"unit": spent.unit, "steps": spent.steps}
            epsilon = spent.epsilon(delta, spent.unit)
            words.append(f"epsilon {epsilon:.6g} of DP-SGD alone, per {spent.unit}, for adding or removing it")
        content["for people"] = "; ".join(words)

        def write(handle: IO[bytes]) -> None:
            handle.write((json.dumps(content, indent=1) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())  # an account that a power failure sets back would be too low

        try:
            write_atomically(self._path, write)
        except OSError as error:
            raise BudgetError(f"{self._name} cannot be written ({error.strerror}). Nothing is sent") from None
