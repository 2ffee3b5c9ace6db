"""The task: what is trained and how, as numbers. One object for jobs, command line and model files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fedmr.physics import GRID_OF, Degradation, Grid

# What a site does beside plain training, with its parameters; made by `fedmr.algorithms.make_trainer`.
ALGORITHMS = {"fedavg": (), "fedprox": ("mu",), "scaffold": (), "ditto": ("strength",), "local": ()}


@dataclass(frozen=True)
class Task:
    """A super-resolution task. Its numbers stand once, in `app_configs/tasks`.

    Attributes:
        network: name and constructor arguments for `fedmr.nets.build`, scale and grid among them.
        degradation: how LR is made from HR, "truncation" or "bicubic".
        loss: weight per loss name.
        learning_rate: peak rate of Adam; falls to `final_learning_rate` by a cosine over all rounds.
        final_learning_rate: rate at the last step.
        warmup_steps: optimisation steps of linear warm-up.
        clip_norm: gradient norm above which gradients are scaled down.
        batch_size: patches per step.
        patch_size: side of an LR patch in LR pixels; the HR patch is scale times larger.
        patches_per_slice: patches drawn per training slice and epoch.
        local_epochs: epochs per federated round.
        seed: seed of the sampling; the same at every site, so that results do not depend on site names.
        algorithm: name and parameters of what a site does, one of `ALGORITHMS`.
    """

    network: Mapping[str, Any]
    degradation: Degradation = "truncation"
    loss: Mapping[str, float] = field(default_factory=lambda: {"l1": 1.0})
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup_steps: int = 20
    clip_norm: float = 1.0
    batch_size: int = 16
    patch_size: int = 32
    patches_per_slice: int = 4
    local_epochs: int = 1
    seed: int = 0
    algorithm: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedavg"})

    def __post_init__(self) -> None:
        if self.degradation not in GRID_OF:
            raise ValueError(f"task: degradation is {self.degradation!r}; known are {sorted(GRID_OF)}")
        for name in ("name", "scale"):
            if name not in self.network:
                raise ValueError(f"task: network {dict(self.network)} has no {name!r}; add it")
        grid = self.network.get("grid", self.grid)
        if grid != self.grid:
            raise ValueError(
                f"task: network grid {grid!r} does not belong to degradation {self.degradation!r}; "
                f"use {self.grid!r}, else the image shifts by (scale-1)/2 pixels"
            )
        for name in ("learning_rate", "batch_size", "patch_size", "patches_per_slice", "local_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"task: {name} is {getattr(self, name)}; it must be above 0")
        self._check_algorithm()

    def _check_algorithm(self) -> None:
        given = dict(self.algorithm)
        name = given.pop("name", None)
        if name not in ALGORITHMS:
            raise ValueError(f"task: algorithm {name!r} is unknown; known are {', '.join(ALGORITHMS)}")
        if set(given) != set(ALGORITHMS[name]):
            wanted = ", ".join(ALGORITHMS[name]) or "no parameters"
            raise ValueError(f"task: algorithm {name} takes {wanted}, not {', '.join(given) or 'none'}")
        for parameter, value in given.items():
            if not value >= 0:
                raise ValueError(f"task: algorithm {name} has {parameter} {value}; it must be 0 or above")

    @property
    def scale(self) -> int:
        """Super-resolution factor."""
        return int(self.network["scale"])

    @property
    def grid(self) -> Grid:
        """Sampling grid of the degradation."""
        return GRID_OF[self.degradation]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """Build from a config; an unknown or missing name is an error, not a default.

        Raises:
            ValueError: naming the offending entry.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"task: {', '.join(unknown)} is unknown; known are {', '.join(sorted(known))}")
        if "network" not in values:
            raise ValueError("task: network is missing")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, the inverse of `from_dict`."""
        return asdict(self)
