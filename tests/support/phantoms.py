"""Small scans on disk: a smooth phantom per patient, so that a test needs no download and no second."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np


def phantom(seed: int, shape: tuple[int, int, int] = (48, 45, 5)) -> np.ndarray:
    """(X, Y, Z) int16: ellipses with sharp edges in a head-like outline, different for every seed."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    volume = np.zeros(shape)
    for z in range(shape[2]):
        volume[..., z] = 300.0 * (x**2 / 0.8 + y**2 / 0.9 < 1)
        for _ in range(8):
            cx, cy, angle = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0, np.pi)
            a, b = rng.uniform(0.05, 0.3, 2)
            u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
            v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
            volume[..., z] += rng.uniform(-150, 500) * ((u / a) ** 2 + (v / b) ** 2 < 1)
    return np.clip(volume + rng.normal(0, 3, shape), 0, 2000).astype(np.int16)


def write_site(root: Path, site: str, seed: int, patients: int = 3, **phantom_args) -> Path:
    """A site folder with one scan per patient: the last is test, the one before val, the others train."""
    splits = ["train"] * (patients - 2) + ["val", "test"]
    volumes = []
    for number, split in enumerate(splits):
        image = Path(f"sub-{number}") / "anat" / f"sub-{number}_T1w.nii.gz"
        (root / site / image).parent.mkdir(parents=True, exist_ok=True)
        voxels = phantom(1000 * seed + number, **phantom_args)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 5.0, 1.0])), root / site / image)
        volumes.append({"image": str(image), "patient": f"sub-{number}", "contrast": "T1w", "split": split})
    datalist = {"site": site, "share_images": True, "volumes": volumes}
    (root / site / "datalist.json").write_text(json.dumps(datalist))
    return root / site
