"""Base class of all kinds of task: what each states and can do. One object for jobs, command line and model files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedmr.algorithms import settings_of
from fedmr.data.splits import SPLITS
from fedmr.utils.class_path import TARGET, check_arguments
from fedmr.utils.precision import Precision
from fedmr.utils.validation import Count, NotNegative, Number, Positive, Whole, settings

_Optimizer = Annotated[
    Literal["adam", "rmsprop"] | Mapping[str, Any],
    Field(description="adam, rmsprop, or a mapping with '_target_' and arguments"),
]
_Schedule = Annotated[Mapping[str, Any], Field(description="a mapping with '_target_' and arguments")]
_Precision = Annotated[Precision, Field(description="auto, float32 or bfloat16")]
_Decay = Annotated[int | float, Field(ge=0, lt=1, description="a number of at least 0 and below 1")]
_Network = Annotated[Mapping[str, Any], Field(description="a mapping with 'name' or '_target_' and arguments")]
_Loss = Annotated[
    Mapping[str, Number | Mapping[str, Any]],
    Field(description="a finite weight by name of the loss, or by a name a mapping with '_target_' and 'weight'"),
]
_Algorithm = Annotated[
    Mapping[str, Any], Field(description="a mapping with 'name' or '_target_' and the algorithm's parameters")
]


class Volume(Protocol):
    """A scan of a site, as far as all kinds of task know it. Results are compared with `reference` (S, H, W)."""

    @property
    def name(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def contrast(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def reference(self) -> Tensor: ...


class SamplerSettings(Protocol):
    """Settings of a task that every sampler needs."""

    @property
    def batch_size(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def smallest_side(self) -> int: ...
    @property
    def least_foreground(self) -> float: ...


class Sampler(Protocol):
    """A site's training data as batches of input and target; an epoch's number determines its batches."""

    @property
    def device(self) -> torch.device: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class NothingToTrain:
    """The sampler of a site that only evaluates: it has no batch. `device` is where its network runs."""

    device: torch.device
    steps_per_epoch: int = 0

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield nothing."""
        return iter(())


@settings("task:")
class Task(ABC):
    """Settings of a training, and what its kind does with a site's data. A subclass is a kind of task.

    The numbers stand once, in `app_configs/tasks`; `registry.build_task` makes the task of a config. Methods take the
    volumes that `load` of the same kind gave.

    Attributes:
        network: name or class path (`_target_`), and constructor arguments, for `fedmr.nets.build`.
        loss: weight per loss name; by any other name, a class path (`_target_`), its `weight` and arguments.
        optimizer: "adam" or "rmsprop", or a class path and arguments but for the rate.
        schedule: class path and arguments of another course of the rate over all steps; none for warm-up and cosine.
        learning_rate: peak rate; falls to `final_learning_rate` by a cosine over all rounds.
        final_learning_rate: rate at the last step.
        warmup_steps: optimisation steps of linear warm-up.
        clip_norm: gradient norm above which gradients are scaled down.
        batch_size: patches or slices per step.
        local_epochs: epochs per federated round.
        precision: of the forward pass in training, see `utils.precision.training_autocast`.
        ema_decay: of the exponential moving average of the weights over the steps, which is the result of the last
            round; 0 switches it off. The first steps count more, so that the start is forgotten.
        seed: seed of the sampling; the same at every site, so that results do not depend on site names.
        algorithm: name and parameters of what a site does, see `fedmr.algorithms`.
    """

    purpose: ClassVar[str]  # what the network is for, in words
    measured: ClassVar[str]  # label of the first panel
    takes_kspace: ClassVar[bool]  # the network's input is made from raw k-space, not from images
    across_slices: ClassVar[bool] = False  # the network is applied to planes that hold the normal of the slices
    shows_errors: ClassVar[bool]  # pictures compare methods by maps of their errors, not by enlarged details
    normalisation: ClassVar[Mapping[str, Any]]  # of the network's input, for the card

    network: _Network
    loss: _Loss = field(default_factory=lambda: {"l1": 1.0})
    optimizer: _Optimizer = "adam"
    schedule: _Schedule = field(default_factory=dict)
    learning_rate: Positive = 1e-3
    final_learning_rate: NotNegative = 1e-6
    warmup_steps: Whole = 20
    clip_norm: NotNegative = 1.0
    batch_size: Count = 16
    local_epochs: Count = 1
    precision: _Precision = "auto"
    ema_decay: _Decay = 0
    seed: Whole = 0
    algorithm: _Algorithm = field(default_factory=lambda: {"name": "fedavg"})

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if ("name" in self.network) == (TARGET in self.network):
            raise ValueError(
                f"task: network {dict(self.network)} must have either 'name' or '{TARGET}'; add one, or take one away "
                "(in an overlay by `task.network = null` before the new network)"
            )
        check_arguments({key: value for key, value in self.network.items() if key != TARGET})
        if TARGET not in self.algorithm:  # a class is made, and asked, only where it trains
            settings_of(self.algorithm).check_network(self.network)
        return self

    @model_validator(mode="after")
    def _check_class_paths(self) -> Self:
        for name in ("optimizer", "schedule"):
            value = getattr(self, name)
            if value and not isinstance(value, str) and TARGET not in value:
                raise ValueError(f"task: {name} {dict(value)} has no '{TARGET}'; add the path of its class")
        return self

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what the user of a model must know of the task, for its card."""

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

    @abstractmethod
    def load(self, folder: Path, splits: tuple[str, ...] = SPLITS) -> Sequence[Any]:
        """Load a site's volumes, in the order of its datalist.

        Args:
            folder: site folder with `datalist.json`.
            splits: which splits to load; each must be there.

        Raises:
            DataError: naming the offending file or the empty split.
        """

    @abstractmethod
    def sampler(self, volumes: Sequence[Any], device: torch.device | str = "cpu") -> Sampler:
        """Make batches of the training volumes among `volumes`.

        Raises:
            DataError: none of them holds anything to train on.
        """

    @abstractmethod
    def usable_slices(self, images: Tensor) -> Tensor:
        """Return which slices of a scan (S, H, W), in any unit, the sampler takes for training, bool (S,)."""

    @abstractmethod
    def restore(self, net: nn.Module, volume: Any) -> Tensor:
        """Return the network's result for a volume, (S, H, W) float32, values >= 0."""

    @abstractmethod
    def baselines(self, volume: Any) -> dict[str, Tensor]:
        """Return results without a network, (S, H, W) each, values >= 0, by name in `runs.run.METHODS`."""

    @abstractmethod
    def panels(self, net: nn.Module, volume: Any) -> list[Tensor]:
        """Return four pictures (H, W) of the middle slice: measured, zero-filled, result, reference."""

    def interpolated_panel(self, measured: Tensor) -> Tensor | None:
        """Return the picture (H, W) by interpolation, from the first one of `panels`; None where the kind has none."""
        return None

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return `facts` in words by term, for the card."""

    @abstractmethod
    def describe_input(self) -> tuple[str, str]:
        """Return name and text of what the network starts from, for a report."""

    @abstractmethod
    def describe_batch(self) -> str:
        """Return what a batch is made of, after "batches of N", for a report."""

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary, the inverse of `registry.build_task`."""
        return asdict(self)
