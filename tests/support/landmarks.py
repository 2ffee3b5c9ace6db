"""Models to super-resolve with, and landmarks to see where their results lie."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import torch

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model
from fedmr.nets import build
from fedmr.tasks.super_resolution import SuperResolutionTask

GRIDS = {"truncation": "pixel0", "bicubic": "half"}
ORIENTATIONS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]
TURN = np.eye(4)
TURN[:3, :3] = nib.eulerangles.euler2mat(0.2, -0.15, 0.3)
AFFINES = {
    "2-D": np.diag([0.8, 0.9, 4.0, 1.0]),
    "isotropic": np.eye(4),
    "oblique": TURN @ np.diag([0.7, 1.1, 3.0, 1.0]),
}


def model(degradation="truncation", scale=2, *, trained=False, **args):
    """A model that is bicubic interpolation on its grid or, if trained, something more."""
    network = {"name": "mscan", "scale": scale, "channels": 4, "blocks": 1, "grid": GRIDS[degradation], **args}
    task = SuperResolutionTask(network=network, degradation=degradation, patch_size=12)
    net = build(**task.network)
    if trained:
        weight = net.tail.weight.data
        weight.copy_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    return Model(net, make_card(task))


def blob(shape, centre, width=2.2):
    """A bright spot of the given width in voxels on a dark ground."""
    axes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return 900 * np.exp(-sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) / 2 / width**2)


def place(image):
    """Centre of gravity in world millimetres."""
    centre = []
    for axis in range(3):
        profile = image.voxels.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        centre.append(np.average(np.arange(len(profile)), weights=profile))
    return nib.affines.apply_affine(image.affine, centre)
