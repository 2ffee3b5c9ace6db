"""Batches for DP-SGD: whole units of protection, drawn so that the accountant's assumption holds."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedmr.tasks.dp_settings import DpSgd
from fedmr.tasks.patches import PatchSampler, PatchSettings, Volume


class PrivateSettings(PatchSettings, Protocol):
    """Settings of a task that the units' patches need, see `super_resolution.SuperResolutionTask`."""

    @property
    def dp_sgd(self) -> Mapping[str, Any]: ...


class UnitSampler:
    """Steps of whole units, each of which is drawn by itself with the same probability (Poisson sampling).

    That probability is what the accountant is told, so who is drawn must be unknown to whoever sees the updates: it
    comes from the operating system, not from the task's seed, and no run repeats it. A step may hold no unit at all.
    The number of units, and with it the number of steps, is not protected.

    Args:
        volumes: training volumes. Every patient must hold a patch to train on.
        task: with `dp_sgd`.
        device: where the arrays live.

    Attributes:
        rate: probability q of a unit to be in a step.

    Raises:
        ValueError: `units_per_step` is above the number of units, or delta is no less than one over it.
        DataError: a patient has nothing to train on.
    """

    def __init__(self, volumes: Sequence[Volume], task: PrivateSettings, device: torch.device | str = "cpu") -> None:
        self.settings = DpSgd.from_dict(task.dp_sgd)
        self.device = torch.device(device)
        patients: dict[str, list[Volume]] = {}
        for volume in volumes:
            patients.setdefault(volume.patient, []).append(volume)
        self._units: list[tuple[PatchSampler, Tensor]] = []  # with the numbers of the unit's slices
        for scans in patients.values():
            sampler = PatchSampler(scans, task, device)
            slices = torch.arange(sampler.n_slices)
            self._units += [(sampler, part) for part in (slices.split(1) if self._by_slice else [slices])]
        count, unit = len(self._units), self.settings.unit
        if self.settings.units_per_step > count:
            raise ValueError(
                f"task: dp_sgd units_per_step is {self.settings.units_per_step:g}, and the site has {count} training "
                f"{unit}s; take fewer"
            )
        if self.settings.delta >= 1 / count:
            raise ValueError(f"task: dp_sgd delta is {self.settings.delta:g}; it must be below 1 / {count} {unit}s")
        self.rate = self.settings.units_per_step / count

    @property
    def _by_slice(self) -> bool:
        return self.settings.unit == "slice"

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which a unit is drawn about once."""
        return round(1 / self.rate)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Refused: training that takes these batches as ordinary ones would protect nobody.

        Raises:
            TypeError: always.
        """
        raise TypeError("the task has dp_sgd; train it with fedmr.training.dp_sgd.PrivateTrainer")

    def draw(self) -> list[tuple[Tensor, Tensor]]:
        """One step's units: of each LR (P, 1, p, p) and HR (P, 1, s*p, s*p), P = `patches_per_unit`."""
        chance = np.frombuffer(os.urandom(8 * len(self._units)), dtype=np.uint64) * 2.0**-64
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7)))
        return [self._cut(number, generator) for number in np.flatnonzero(chance < self.rate).tolist()]

    def _cut(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sampler, slices = self._units[number]
        count = self.settings.patches_per_unit
        chosen = slices[torch.randint(len(slices), (count,), generator=generator)]
        where = torch.rand(count, generator=generator, dtype=torch.float64)
        return sampler.gather(chosen, where, torch.randint(0, 2, (3, count), generator=generator).bool())
