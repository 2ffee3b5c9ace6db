"""Augmentation of patch pairs by MONAI's dictionary transforms, or one's own, named by class path in the task.

A transform gets `{"low": (1, h, w), "high": (1, rows*h, columns*w)}`, about [0, 1], and its `keys` say which of them it
changes: noise belongs to "low" alone, since the reference has none to learn; contrast and bias field to both.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedmr.tasks.base import Sampler
from fedmr.utils.class_path import construct_from

LOW, HIGH = "low", "high"


class Augmented:
    """Batches of another sampler with a chain of transforms over every pair, the same for the same seed and epoch.

    Args:
        patches: batches of LR (B, 1, h, w) and HR (B, 1, rows*h, columns*w).
        chain: `_target_` and arguments of each transform, in order.
        seed: of the task.

    Raises:
        ValueError: as `class_path.construct_from`.
    """

    def __init__(self, patches: Sampler, chain: Sequence[Mapping[str, Any]], *, seed: int) -> None:
        from monai.transforms import Compose, MapTransform  # here, so that only a process that trains holds MONAI

        transforms = [construct_from("augmentation", entry, MapTransform) for entry in chain]
        self.patches, self.chain, self.seed = patches, Compose(transforms), seed

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.patches.device

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.patches.steps_per_epoch

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of epoch `number`, augmented, of the same shapes and values >= 0."""
        self.chain.set_random_state(seed=(self.seed * 1_000_003 + number) % 2**32)
        for batch in self.patches.epoch(number):
            pairs = [self.chain({LOW: low, HIGH: high}) for low, high in zip(*batch, strict=True)]
            low, high = (torch.stack([torch.as_tensor(pair[key]) for pair in pairs]) for key in (LOW, HIGH))
            yield low.float().clamp_min(0), high.float().clamp_min(0)
