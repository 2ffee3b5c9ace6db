"""Smaller copies of prepared sites, so that a cell of a study takes a minute or two.

    python benchmarks/studies/smaller_scans.py runs/real runs/real_small --side 128

Of every scan some slices are kept, and of these the middle of k-space where a side is given, as of a scan of the same
field of view with a smaller matrix.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from fedmr.data.datalist import read_datalist, site_folders
from fedmr.data.splits import SPLITS
from fedmr.physics.coils import crop_or_pad
from fedmr.physics.degradation import fft2c, ifft2c

_MIDDLE = 0.1, 0.9  # of the stack, where the head is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data root with the prepared sites, or of `fedmr demo-data`")
    parser.add_argument("out", type=Path, help="data root to fill")
    parser.add_argument("--side", type=int, help="of the matrix, at most; else it stays")
    parser.add_argument(
        "--slices",
        type=int,
        nargs=3,
        default=[24, 8, 16],
        metavar=("TRAIN", "VAL", "TEST"),
        help="of a scan of each split",
    )
    arguments = parser.parse_args()
    slices = dict(zip(SPLITS, arguments.slices, strict=True))
    for folder in site_folders(arguments.data):
        datalist = read_datalist(folder)
        volumes = [
            reduce(folder, arguments.out / folder.name, entry, slices[entry["split"]], arguments.side)
            for entry in datalist["volumes"]
        ]
        text = json.dumps(datalist | {"volumes": volumes}, indent=1) + "\n"
        (arguments.out / folder.name / "datalist.json").write_text(text)
        print(f"{folder.name}: {', '.join(str(volume['shape']) for volume in volumes)}")


def reduce(folder: Path, target: Path, entry: dict[str, Any], slices: int, side: int | None) -> dict[str, Any]:
    """Write the smaller scan (x, y, slices) float32 at the same path under `target`, and return its entry."""
    scan = nib.load(folder / entry["image"])
    voxels = np.asanyarray(scan.dataobj, dtype=np.float32)
    low, high = (share * (voxels.shape[2] - 1) for share in (_MIDDLE if slices > 1 else (0.5, 0.5)))
    chosen = np.unique(np.linspace(low, high, slices).round().astype(int))
    small = smaller(voxels[:, :, chosen], side) if side else voxels[:, :, chosen]
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, 2] * chosen[0]
    shrunk = np.array([*(a / b for a, b in zip(voxels.shape, small.shape, strict=True))])
    shrunk[2] = (chosen[-1] - chosen[0]) / (len(chosen) - 1) if len(chosen) > 1 else 1
    affine[:3, :3] *= shrunk
    path = target / entry["image"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(small, affine), path)
    return {**entry, "shape": list(small.shape)}


def smaller(voxels: np.ndarray, side: int) -> np.ndarray:
    """Slices (x, y, S) with the middle of k-space only, so that neither side of them is longer; same intensities."""
    old = voxels.shape[:2]
    factor = min(1.0, side / max(old))
    size = round(old[0] * factor), round(old[1] * factor)
    slices = torch.from_numpy(np.ascontiguousarray(voxels.transpose(2, 0, 1)))
    image = ifft2c(crop_or_pad(fft2c(slices), size)).abs() * (size[0] * size[1] / (old[0] * old[1])) ** 0.5
    return image.permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
