"""The task: what is trained and how, as numbers. One object for jobs, command line and model files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from fedmr.physics.degradation import GRID_OF, Degradation, Grid
from fedmr.physics.masks import make_mask
from fedmr.tasks.dp_settings import DpSgd
from fedmr.tasks.flmrcm_settings import Mrcm
from fedmr.utils.validation import refuse_unknown

# What a site does beside plain training, with its parameters; made by `fedmr.training.algorithms.make_trainer`.
# Those of flmrcm have types and defaults of their own: `fedmr.tasks.flmrcm_settings.Mrcm`.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("mu",),
    "scaffold": (),
    "ditto": ("strength",),
    "local": (),
    "flmrcm": tuple(f.name for f in fields(Mrcm)),
}
OPTIMIZERS = ("adam", "rmsprop")
MIN_FOREGROUND = 0.25  # share of a patch that must be foreground
MIN_SIGNAL = 0.05  # share of a whole slice that must be foreground


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What every task states. Its numbers stand once, in `app_configs/tasks`; `from_dict` knows the kinds of task.

    Attributes:
        network: name and constructor arguments for `fedmr.nets.build`.
        loss: weight per loss name.
        optimizer: one of `OPTIMIZERS`.
        learning_rate: peak rate; falls to `final_learning_rate` by a cosine over all rounds.
        final_learning_rate: rate at the last step.
        warmup_steps: optimisation steps of linear warm-up.
        clip_norm: gradient norm above which gradients are scaled down.
        batch_size: patches or slices per step.
        local_epochs: epochs per federated round.
        seed: seed of the sampling; the same at every site, so that results do not depend on site names.
        algorithm: name and parameters of what a site does, one of `ALGORITHMS`.
    """

    purpose: ClassVar[str]  # what the network is for, in words

    network: Mapping[str, Any]
    loss: Mapping[str, float] = field(default_factory=lambda: {"l1": 1.0})
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup_steps: int = 20
    clip_norm: float = 1.0
    batch_size: int = 16
    local_epochs: int = 1
    seed: int = 0
    algorithm: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedavg"})

    def __post_init__(self) -> None:
        if "name" not in self.network:
            raise ValueError(f"task: network {dict(self.network)} has no 'name'; add it")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"task: optimizer is {self.optimizer!r}; known are {', '.join(OPTIMIZERS)}")
        self._check_positive("learning_rate", "batch_size", "local_epochs")
        self._check_algorithm()

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"task: {name} is {getattr(self, name)}; it must be above 0")

    def _check_algorithm(self) -> None:
        given = dict(self.algorithm)
        name = given.pop("name", None)
        if name not in ALGORITHMS:
            raise ValueError(f"task: algorithm {name!r} is unknown; known are {', '.join(ALGORITHMS)}")
        if name == "flmrcm":
            Mrcm.from_dict(given)
            if self.network["name"] != "unet":
                raise ValueError(f"task: algorithm flmrcm needs network unet, not {self.network['name']}")
            return
        if set(given) != set(ALGORITHMS[name]):
            wanted = ", ".join(ALGORITHMS[name]) or "no parameters"
            raise ValueError(f"task: algorithm {name} takes {wanted}, not {', '.join(given) or 'none'}")
        for parameter, value in given.items():
            if not value >= 0:
                raise ValueError(f"task: algorithm {name} has {parameter} {value}; it must be 0 or above")

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the user of a model must know of the task, for its card."""

    @property
    @abstractmethod
    def smallest_side(self) -> int:
        """Voxels that the shorter side of a training slice must have at least."""

    @property
    @abstractmethod
    def least_foreground(self) -> float:
        """Foreground voxels that a slice must have at least to be trained on."""

    @property
    @abstractmethod
    def bytes_per_voxel(self) -> float:
        """Memory that training holds per voxel of a volume."""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Task":
        """Build from a config; an unknown or missing name is an error, not a default.

        A task that states a `mask` is a reconstruction, any other super-resolution.

        Raises:
            ValueError: naming the offending entry.
        """
        kind = ReconstructionTask if "mask" in values else SuperResolutionTask
        refuse_unknown("task", values, sorted(f.name for f in fields(kind)))
        if "network" not in values:
            raise ValueError("task: network is missing")
        return kind(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, the inverse of `from_dict`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SuperResolutionTask(Task):
    """Super-resolution of images; its network states scale and, unless it is that of the degradation, grid.

    Attributes:
        degradation: how LR is made from HR, "truncation" or "bicubic".
        patch_size: side of an LR patch in LR pixels; the HR patch is scale times larger.
        patches_per_slice: patches drawn per training slice and epoch.
        dp_sgd: the numbers of `tasks.dp_settings.DpSgd`, if training is to be differentially private. They then stand
            in for `batch_size`, `patches_per_slice` and `clip_norm`.
    """

    purpose: ClassVar[str] = "super-resolution"

    degradation: Degradation = "truncation"
    patch_size: int = 32
    patches_per_slice: int = 4
    dp_sgd: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.degradation not in GRID_OF:
            raise ValueError(f"task: degradation is {self.degradation!r}; known are {sorted(GRID_OF)}")
        super().__post_init__()
        if "scale" not in self.network:
            raise ValueError(f"task: network {dict(self.network)} has no 'scale'; add it")
        grid = self.network.get("grid", self.grid)
        if grid != self.grid:
            raise ValueError(
                f"task: network grid {grid!r} does not belong to degradation {self.degradation!r}; "
                f"use {self.grid!r}, else the image shifts by (scale-1)/2 pixels"
            )
        if self.scale < 2:
            raise ValueError(f"task: network scale is {self.scale}; super-resolution needs 2 or more")
        self._check_positive("patch_size", "patches_per_slice")
        if self.dp_sgd:
            DpSgd.from_dict(self.dp_sgd)
            if self.algorithm["name"] != "fedavg":
                raise ValueError(f"task: dp_sgd goes with algorithm fedavg only, not {self.algorithm['name']}")

    @property
    def scale(self) -> int:
        """Super-resolution factor."""
        return int(self.network["scale"])

    @property
    def grid(self) -> Grid:
        """Sampling grid of the degradation."""
        return GRID_OF[self.degradation]

    @property
    def facts(self) -> dict[str, Any]:
        """Scale, degradation and grid."""
        return {"scale": self.scale, "degradation": self.degradation, "grid": self.grid}

    @property
    def smallest_side(self) -> int:
        """A patch, and one pixel more, which a flipped one needs."""
        return (self.patch_size + 1) * self.scale

    @property
    def least_foreground(self) -> float:
        """`MIN_FOREGROUND` of an HR patch."""
        return MIN_FOREGROUND * (self.patch_size * self.scale) ** 2

    @property
    def bytes_per_voxel(self) -> float:
        """HR and LR, float32."""
        return 4 * (1 + self.scale**-2)


@dataclass(frozen=True, kw_only=True)
class ReconstructionTask(Task):
    """Reconstruction of slices from k-space of which columns are missing; its network maps image to image.

    Attributes:
        mask: which columns are measured, arguments of `masks.Mask`. A site whose datalist has a `mask` of its own
            takes that, so that scanners that under-sample differently train together.
        size: side to which slices are centrally cropped or padded with zeros for a batch; evaluation is at full size.
        data_consistency: whether measured columns are put back into what the network makes, in evaluation and use.
    """

    purpose: ClassVar[str] = "reconstruction"

    mask: Mapping[str, Any]
    size: int = 256
    data_consistency: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network.get("scale", 1) != 1:
            raise ValueError(f"task: network scale is {self.network['scale']}; reconstruction needs 1")
        self._check_positive("size")
        make_mask(self.mask)

    @property
    def facts(self) -> dict[str, Any]:
        """Mask, in full, and data consistency."""
        return {"mask": asdict(make_mask(self.mask)), "data_consistency": self.data_consistency}

    @property
    def smallest_side(self) -> int:
        """What four poolings leave two pixels of."""
        return 32

    @property
    def least_foreground(self) -> float:
        """`MIN_SIGNAL` of a training slice."""
        return MIN_SIGNAL * self.size**2

    @property
    def bytes_per_voxel(self) -> float:
        """The reference, float32; raw k-space stays on disk."""
        return 4
