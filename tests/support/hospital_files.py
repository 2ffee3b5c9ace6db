"""A hospital's folder of scans, as NIfTI files in BIDS layout."""

from pathlib import Path

import nibabel as nib
import numpy as np

from fedmr.hospital.prepare import Options
from phantoms import phantom

AFFINE = np.diag([1.0, 1.0, 5.0, 1.0])
ONE = Options(workers=1)


def write(path: Path, voxels=None, affine=AFFINE, **header) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(phantom(len(str(path)) + sum(map(ord, path.name))) if voxels is None else voxels, affine)
    for field, value in header.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def write_patients(source: Path, number: int) -> Path:
    for n in range(number):
        for contrast in ("T1w", "FLAIR"):
            name = f"sub-{n:02}/anat/sub-{n:02}_{contrast}.nii.gz"
            write(source / name, phantom(10 * n + len(contrast)))
    return source
