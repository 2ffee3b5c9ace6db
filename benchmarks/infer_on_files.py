"""`fedmr infer` on low-resolution files of the test scans: gain, what the map of uncertainty tells, and seconds.

    python benchmarks/infer_on_files.py mscan-x2 ../shared/data

Every test scan is degraded and written as NIfTI, float32, and the command's output is read with nibabel and compared
with the scan: whole volumes, range = volume maximum. With --uncertainty the output is the mean over four flips; the
map's correlation with the true error is Spearman's, over the foreground of each volume, and the table also says by how
much the error exceeds its mean where the map is in its highest tenth.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from common import facts, table, write_page
from gain_on_real_scans import patient_numbers, patients_of, prepared
from scipy.stats import spearmanr

from fedmr.checkpoints.model_file import load_model
from fedmr.data.datalist import read_datalist, site_folders
from fedmr.inference.infer import infer
from fedmr.inference.resolver import Options
from fedmr.metrics import foreground, psnr
from fedmr.tasks.base import Volume
from fedmr.utils.environment import ROOT

SAMPLE = 200_000  # voxels of a volume whose ranks are compared


def written(volume: Volume, path: Path) -> Path:
    """Write the LR volume (S, h, w) as NIfTI with slices along the last axis, voxels of 1 x 1 x 3 mm."""
    voxels = np.moveaxis(volume.lr.numpy(), 0, 2) * 1000
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


def read(path: Path, like: torch.Tensor) -> torch.Tensor:
    """Read a result as (S, H, W) in the intensities of the volume, cut to the scan's size."""
    image = torch.from_numpy(np.moveaxis(np.asarray(nib.load(path).dataobj, np.float32), 2, 0) / 1000)
    return image[:, : like.shape[1], : like.shape[2]]


def told(spread: torch.Tensor, error: torch.Tensor, inside: torch.Tensor) -> tuple[float, float]:
    """Return Spearman's correlation in the foreground, and the error in the map's highest tenth over that in all."""
    spread, error = spread[inside].numpy(), error[inside].numpy()
    chosen = np.random.default_rng(0).permutation(len(spread))[:SAMPLE]
    high = spread >= np.quantile(spread, 0.9)
    return float(spearmanr(spread[chosen], error[chosen]).statistic), float(error[high].mean() / error.mean())


def measure(model: Path, source: Path, data: Path) -> list[dict[str, Any]]:
    """Measure `infer` on every test scan: a row each."""
    task, rows = load_model(model).task, []
    for folder in site_folders(data):
        if "test" not in {entry["split"] for entry in read_datalist(folder)["volumes"]}:
            continue
        patients = patients_of(source, folder)
        for volume in task.load(folder, ("test",)):
            with tempfile.TemporaryDirectory() as name:
                place, reference = Path(name), volume.reference
                low = written(volume, place / "low.nii")
                started = time.time()
                infer(model, low, place / "plain.nii", options=Options(plane="axial"))
                seconds = time.time() - started
                infer(model, low, place / "mean.nii", options=Options(plane="axial", uncertainty=True))
                plain, mean = (read(place / f"{kind}.nii", reference) for kind in ("plain", "mean"))
                spread = read(place / "mean.uncertainty.nii.gz", reference)
            base = psnr(task.baselines(volume)["zero_filled"], reference)
            rank, excess = told(spread, (mean - reference).abs(), foreground(reference))
            row = {"site": folder.name, "patient": patients[volume.patient], "contrast": volume.contrast}
            row |= {"plain": psnr(plain, reference) - base, "mean": psnr(mean, reference) - base}
            rows.append(row | {"rank": rank, "excess": excess, "seconds": seconds, "voxels": reference.numel()})
            print(row, f"rank {rank:.2f}", flush=True)
    return rows


def seconds_of(model: Path, shape: tuple[int, int, int]) -> float:
    """Return the seconds of the second of two runs on a low-resolution volume of `shape` (X, Y, Z), a noisy ball."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    ball = 1000.0 * (sum(axis**2 for axis in axes) < 0.8) + np.random.default_rng(0).random(shape) * 50
    with tempfile.TemporaryDirectory() as name:
        low = Path(name) / "low.nii"
        nib.save(nib.Nifti1Image(ball.astype(np.float32), np.diag([1, 1, 3, 1])), low)
        for turn in range(2):
            started = time.time()
            infer(model, low, Path(name) / f"{turn}.nii", options=Options(plane="axial"))
    return time.time() - started


def write(name: str, rows: list[dict[str, Any]], seconds: float) -> None:
    """Write the page into benchmarks/results."""
    head = ["site", "patient", "contrast", "gain of infer (dB)", "mean over flips (dB)", "rank correlation", "excess"]
    numbers = patient_numbers(rows)
    lines = [
        [
            row["site"],
            numbers[row["patient"]],
            row["contrast"],
            *(f"{row[key]:+.2f}" for key in ("plain", "mean")),
            f"{row['rank']:.2f}",
            f"{row['excess']:.1f}",
        ]
        for row in rows
    ]
    mean = {key: statistics.mean(row[key] for row in rows) for key in ("plain", "mean", "rank", "excess")}
    least = {key: min(row[key] for row in rows) for key in ("plain", "mean", "rank")}
    text = (
        f"{len(rows)} volumes of {len(numbers)} patients. `fedmr infer`: {mean['plain']:+.2f} dB over zero-filling in "
        f"the mean, {least['plain']:+.2f} the least. Mean over flips: {mean['mean']:+.2f}, {least['mean']:+.2f} the "
        f"least. The map and the true error: rank correlation {mean['rank']:.2f} in the mean, {least['rank']:.2f} the "
        f"least; where the map is in its highest tenth the error is {mean['excess']:.1f} times its mean. A scan of 256 "
        f"x 256 x 128 voxels, file to file: {seconds:.1f} s."
    )
    write_page(f"infer_{name}", f"`fedmr infer {name}` on files of the test scans", facts(), table(head, lines), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file, run, or name of a model of the package")
    parser.add_argument("source", type=Path)
    arguments = parser.parse_args()
    if not (arguments.source / "split.csv").is_file():
        sys.exit(f"skipped: {arguments.source} holds no split.csv, so there are no real scans here")
    rows = measure(arguments.model, arguments.source, prepared(arguments.source, ROOT / "runs" / "real8"))
    write(arguments.model.stem, rows, seconds_of(arguments.model, (256, 256, 128)))


if __name__ == "__main__":
    main()
