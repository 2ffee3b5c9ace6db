"""Reconstruction tasks and sites with raw k-space."""

import json
from pathlib import Path

import numpy as np
import torch

from fastmri_files import kspace_of
from fedmr.data.images import Image, save_nifti
from fedmr.physics.coils import reconstruct_zero_filled
from fedmr.tasks.reconstruction import ReconstructionTask

NETWORK = {"name": "unet", "channels": 2, "pools": 2, "skip": True}
MASK = {"kind": "random", "acceleration": 4, "center_fraction": 0.1}


def make_task(**changes):
    return ReconstructionTask(
        **{"network": NETWORK, "mask": MASK, "size": 40, "batch_size": 4, "warmup_steps": 2, **changes}
    )


def change_datalist(folder: Path, **entries):
    datalist = json.loads((folder / "datalist.json").read_text()) | entries
    (folder / "datalist.json").write_text(json.dumps(datalist))


def write_kspace_site(root: Path, site: str, *, coils=3, size=(64, 40), crop=(48, 36), patients=3) -> Path:
    """A site with raw k-space beside the images of its root sum of squares."""
    volumes = []
    for number, split in enumerate(["train"] * (patients - 2) + ["val", "test"]):
        kspace = kspace_of(number, 3, coils, size)
        pictures = reconstruct_zero_filled(torch.from_numpy(kspace), crop).numpy()
        (root / site / "volumes").mkdir(parents=True, exist_ok=True)
        save_nifti(Image(pictures.transpose(2, 1, 0), np.diag([1.0, 1, 5, 1])), root / site / f"volumes/{number}.nii")
        np.save(root / site / f"volumes/{number}.npy", kspace)
        files = {"image": f"volumes/{number}.nii", "kspace": f"volumes/{number}.npy"}
        volumes.append({**files, "patient": f"p{number}", "contrast": "T1w", "split": split})
    datalist = {"site": site, "share_images": True, "volumes": volumes}
    (root / site / "datalist.json").write_text(json.dumps(datalist))
    return root / site
