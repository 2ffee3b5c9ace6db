"""The one way in which a release of a site is paid for: entered in the account, logged and streamed, each once.

Privacy filters, DP-SGD and the latents of FL-MRCM all go through it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmr.privacy.accountant import BUDGET_FILE, Budget, Steps

EPSILON = "privacy/epsilon"  # streamed: of a site, and with _slice or _patient behind it, of DP-SGD
LOCAL_RECORD = "fedmr_privacy.jsonl"  # in the site's run folder: how far sent updates are from true ones; stays there


@dataclass(frozen=True, kw_only=True)
class Charge:
    """The cost of one release, either of the whole site or of DP-SGD.

    Attributes:
        noise_multiplier: of a Gaussian release of the site; see `Budget.spend`.
        pure: epsilon of a release of the site with delta 0.
        steps: of a round of DP-SGD; see `Budget.spend_steps`.
        unit: whom the release protects: "site", or of DP-SGD "slice" or "patient".
        delta: for the total epsilon.
        max_epsilon: largest total that may be reached.
    """

    noise_multiplier: float | None = None
    pure: float = 0.0
    steps: Steps | None = None
    unit: str = "site"
    delta: float
    max_epsilon: float


@dataclass(frozen=True)
class Ledger:
    """A site's account together with the log and the stream of a job that spends from it.

    Attributes:
        site_folder: the `local` folder of the FLARE site; it holds the account, which outlives the job.
        run_folder: the site's folder of the job; it holds the local record.
        log: takes a line for the site's log, which may reach the server.
        stream: takes tag, value and number of the release for the server.
    """

    site_folder: Path
    run_folder: Path
    log: Callable[[str], None]
    stream: Callable[[str, float, int], None]

    def charge(self, charge: Charge) -> dict[str, float]:
        """Enter one release before it is made, then log and stream the total epsilon. No data are in the total.

        Returns:
            the total as "epsilon" and the number of all releases as "release", with this one.

        Raises:
            BudgetError: the total would exceed `max_epsilon`, or the account cannot be trusted; release nothing.
        """
        budget = Budget(self.site_folder / BUDGET_FILE)
        limits = {"delta": charge.delta, "max_epsilon": charge.max_epsilon}
        if charge.steps is None:
            epsilon, number = budget.spend(noise_multiplier=charge.noise_multiplier, pure=charge.pure, **limits)
            unit, tag = "", EPSILON
        else:
            epsilon, number = budget.spend_steps(charge.steps, unit=charge.unit, **limits)
            unit, tag = f" per {charge.unit}", f"{EPSILON}_{charge.unit}"
        self.log(f"privacy: epsilon {epsilon:.5g} of {charge.max_epsilon:g}{unit}, release {number}")
        self.stream(tag, epsilon, number)
        return {"epsilon": epsilon, "release": number}

    def record(self, source: str, figures: Mapping[str, float]) -> None:
        """Append to the local record how far what was sent is from the truth, e.g. `mechanism.compare`.

        The record is neither sent nor logged: it says more about the data than epsilon allows.

        Args:
            source: the filter or the training that made the difference.
            figures: by name.
        """
        with (self.run_folder / LOCAL_RECORD).open("a") as handle:
            handle.write(json.dumps({"filter": source} | dict(figures)) + "\n")
