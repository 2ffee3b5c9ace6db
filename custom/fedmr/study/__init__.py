"""A study: a grid of training runs through the jobs, with one table of results.

A cell of the grid is one job with a seed. An arm is a cell without its seed: one variant of every axis.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

Arm = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        arm: a variant of every axis.
        seed: of initial weights and sampling.
        job: the job whose source is rendered, with `task` and `rounds` in place of its own.
        task: numbers of `fedmr.tasks.base.Task`.
        rounds: number of federated rounds.
        sites: trained on.
        unseen: sites that are left out of training and tested on.
        pooled: whether the sites are made one, by `fedmr.data.pool`.
        minutes: after which the run is ended as hung.
        parameters: of the network.
    """

    arm: Arm
    seed: int
    job: str
    task: dict[str, Any]
    rounds: int
    sites: tuple[str, ...]
    unseen: tuple[str, ...]
    pooled: bool
    minutes: float
    parameters: int

    @property
    def name(self) -> str:
        """Unique in the study, and a folder name without spaces, at which FLARE's simulator fails."""
        return f"{re.sub(r'[^A-Za-z0-9_.+=-]+', '_', '__'.join(self.arm))}__seed-{self.seed}"

    @property
    def guests(self) -> tuple[str, ...]:
        """Unseen sites that take part without training: targets of FL-MRCM, which give latents."""
        return tuple(site for site in self.unseen if site in self.task.get("algorithm", {}).get("target_sites", ()))

    @property
    def settings(self) -> str:
        """Twelve hexadecimal digits that change with whatever could change the figures."""
        content = {k: v for k, v in asdict(self).items() if k != "minutes"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Study:
    """A grid of cells.

    Attributes:
        name: the file's.
        about: what it is for, Markdown.
        axes: names of the variants by axis, in their order.
        baseline: variant that the other variants of its axis are compared with.
        equal: "steps": every cell has the rounds that it states; "seconds": they are changed to take as long.
        cells: all arms with the first seed, then with the next, so that an unfinished study has whole seeds.
    """

    name: str
    about: str
    axes: dict[str, list[str]]
    baseline: str
    equal: str
    cells: list[Cell]

    @property
    def arms(self) -> list[Arm]:
        """In the order of the file."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    def counterpart(self, arm: Arm) -> Arm:
        """Return the arm that an arm is compared with: its own with the baseline on the baseline's axis."""
        axis = next(number for number, names in enumerate(self.axes.values()) if self.baseline in names)
        return (*arm[:axis], self.baseline, *arm[axis + 1 :])
