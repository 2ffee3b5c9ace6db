"""What a kind of task does with a site's data, in one table; training, evaluation and reports are the same for all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedmr.data.splits import SPLITS
from fedmr.tasks import patches, poisson_sampling, reconstruction, super_resolution
from fedmr.tasks.config import ReconstructionTask, SuperResolutionTask, Task


class Volume(Protocol):
    """A scan of a site: what any kind of task knows of it. `reference` (S, H, W) is what results are compared with."""

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


class Sampler(Protocol):
    """A site's training data as batches of input and target; an epoch's number determines its batches."""

    @property
    def device(self) -> torch.device: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class Kind:
    """What differs between kinds of task. Functions take the volumes and the task of their own kind.

    Attributes:
        load_volumes: a site's folder, task and splits to volumes; raises DataError.
        sampler: training volumes, task and device to batches.
        restore: network, volume and task to the result (S, H, W), values >= 0.
        baselines: volume and task to results (S, H, W) without a network, by name in `report.METHODS`.
        tiles: network, volume and task to four pictures (H, W) of one slice: what was measured, zero-filled, result,
            reference.
        measured: label of the first tile.
    """

    load_volumes: Callable[[Path, Any, tuple[str, ...]], list[Any]]
    sampler: Callable[[list[Any], Any, torch.device | str], Sampler]
    restore: Callable[[nn.Module, Any, Any], Tensor]
    baselines: Callable[[Any, Any], dict[str, Tensor]]
    tiles: Callable[[nn.Module, Any, Any], list[Tensor]]
    measured: str


_KINDS: dict[type[Task], Kind] = {
    SuperResolutionTask: Kind(
        patches.load_volumes,
        poisson_sampling.patch_sampler,
        super_resolution.restore,
        super_resolution.baselines,
        super_resolution.tiles,
        "low resolution",
    ),
    ReconstructionTask: Kind(
        reconstruction.load_volumes,
        reconstruction.SliceSampler,
        reconstruction.restore,
        reconstruction.baselines,
        reconstruction.tiles,
        "measured k-space",
    ),
}


def kind_of(task: Task) -> Kind:
    """The kind of a task."""
    return _KINDS[type(task)]


def load_volumes(folder: Path, task: Task, splits: tuple[str, ...] = SPLITS) -> list[Volume]:
    """A site's volumes, in the order of its datalist.

    Raises:
        DataError: naming the offending file or the empty split.
    """
    return kind_of(task).load_volumes(folder, task, splits)


def make_sampler(volumes: list[Volume], task: Task, device: torch.device | str = "cpu") -> Sampler:
    """Batches of the training volumes among `volumes`.

    Raises:
        DataError: none of them holds anything to train on.
    """
    return kind_of(task).sampler([v for v in volumes if v.split == "train"], task, device)
