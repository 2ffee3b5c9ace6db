"""Fixtures of all tests."""

from pathlib import Path

import pytest
import torch

from fedmr.tasks.super_resolution import SuperResolutionTask
from phantoms import write_site

torch.set_num_threads(1)  # the arrays are small; threads would only wait for each other


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "data", "site-1", seed=1)


@pytest.fixture
def task() -> SuperResolutionTask:
    network = {"name": "mscan", "scale": 2, "channels": 8, "blocks": 1, "seed": 0}
    return SuperResolutionTask(network=network, batch_size=4, patch_size=12, patches_per_slice=4, warmup_steps=2)
