"""Through-plane super-resolution of isotropic scans that are made thick, against interpolations.

    python benchmarks/through_plane.py mscan-through-plane ../shared/data --thickness 4 6

Test scans with nearly cubic voxels are averaged along the axis from foot to head by a Gaussian profile (FWHM = slice
distance = THICKNESS mm) and brought back to their own voxels. PSNR is that of the whole volume within the box of its
non-zero voxels, range = volume maximum; SSIM is the mean over every fourth sagittal plane. A line per volume and
thickness goes to runs/through_plane/NAME_SPLIT.jsonl; the same command goes on where it stopped.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from common import RESULTS, facts, table, write_page
from torch import Tensor

from fedmr.checkpoints.model_file import load_model
from fedmr.data.contrasts import contrast_of
from fedmr.data.images import canonical, read_nifti
from fedmr.inference.isotropic import IsotropicResolver
from fedmr.inference.resolver import Options
from fedmr.metrics import nmse, psnr, psnr_foreground, ssim
from fedmr.physics.slice_profile import Interpolation, ThickSlices, acquire, agree, interpolate_slices
from fedmr.utils.environment import ROOT

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CUBIC = 1.1  # most that the voxel sizes of an isotropic scan differ by
EVERY = 4  # sagittal planes of which SSIM is taken
INTERPOLATIONS: dict[str, Interpolation] = {
    "nearest": "nearest",
    "linear": "linear",
    "interpolated": "cubic",
    "zero_filled": "sinc",
}
NAMES = {"interpolated": "cubic B-spline", "zero_filled": "zero-filled", "model": "model", "consistent": "consistent"}


Row = dict[str, Any]


def isotropic_scans(source: Path, split: str) -> Iterator[tuple[str, str, Path]]:
    """Yield site, patient and path of the scans of a split whose voxels are nearly cubic."""
    with (source / "split.csv").open() as handle:
        for row in csv.DictReader(handle):
            path = source / row["path"]
            zooms = nib.load(path).header.get_zooms()[:3]
            if row["split"] == split and max(zooms) / min(zooms) < CUBIC:
                yield row["site"], row["patient"], path


def load(path: Path) -> tuple[Tensor, float]:
    """Return a scan as (Z, Y, X) float32 along superior, anterior and right, within its non-zero box; Z's voxel, mm."""
    image = canonical(read_nifti(path))
    voxels = np.maximum(np.asarray(image.voxels, dtype=np.float32), 0).transpose(2, 1, 0)
    inside = [np.flatnonzero(voxels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(max(0, found[0] - 8), found[-1] + 9) for found in inside)
    return torch.from_numpy(np.ascontiguousarray(voxels[box])), image.spacing[2]


def results(resolver: IsotropicResolver, fine: Tensor, slices: ThickSlices) -> dict[str, Tensor]:
    """Return the scan made thick and brought back by every method, (Z, Y, X) each."""
    low, size = acquire(fine, slices, axis=0), len(fine)
    found = {
        name: interpolate_slices(low, slices, size, kind, axis=0).clamp_min(0) for name, kind in INTERPOLATIONS.items()
    }
    found["model"] = resolver.sharpen(low, slices, size)
    found["consistent"] = agree(found["model"], low, slices, axis=0).clamp_min(0)
    return found


def measure(images: dict[str, Tensor], fine: Tensor) -> dict[str, dict[str, float]]:
    """Return the figures of every method."""
    planes = fine.movedim(2, 0)[::EVERY]
    figures = {name: {"psnr": psnr(image, fine)} for name, image in images.items()}
    for name in NAMES:
        figures[name]["ssim"] = ssim(images[name].movedim(2, 0)[::EVERY], planes)
        figures[name] |= {"nmse": nmse(images[name], fine), "psnr_foreground": psnr_foreground(images[name], fine)}
    return figures


def draw(images: dict[str, Tensor], fine: Tensor, target: Path) -> None:
    """Draw one sagittal plane: thick slices, cubic, model, reference."""
    shown = {"thick slices": images["nearest"], "cubic B-spline": images["interpolated"]}
    shown |= {"model": images["model"], "reference": fine}
    figure, axes = plt.subplots(1, len(shown), figsize=(14, 4), layout="constrained")
    for axis, (title, image) in zip(axes, shown.items(), strict=True):
        plane = image[:, :, round(0.44 * image.shape[2])].flip(0)
        axis.imshow(plane, cmap="gray", vmin=0, vmax=float(fine.quantile(0.999) if fine.numel() < 1e7 else fine.max()))
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(target, dpi=110)
    plt.close(figure)


def write(name: str, rows: list[Row], known: dict[str, str]) -> None:
    """Write page and figures into benchmarks/results."""
    head = ["slices (mm)", "site", "patient", "contrast", "nearest", "linear", "cubic B-spline", "zero-filled", "model"]
    head += ["gain over cubic (dB)", "SSIM cubic / model", "with data consistency (dB)", "seconds"]
    numbers = {patient: str(n) for n, patient in enumerate(dict.fromkeys(row["patient"] for row in rows), 1)}
    lines, words = [], []
    for row in sorted(rows, key=lambda row: row["thickness"]):
        gain, kept = (row[m]["psnr"] - row["interpolated"]["psnr"] for m in ("model", "consistent"))
        psnrs = [f"{row[m]['psnr']:.2f}" for m in (*INTERPOLATIONS, "model")]
        similar = f"{row['interpolated']['ssim']:.4f} / {row['model']['ssim']:.4f}"
        about = [f"{row['thickness']:g}", row["site"], numbers[row["patient"]], row["contrast"]]
        lines.append([*about, *psnrs, f"{gain:+.2f}", similar, f"{kept:+.2f}", f"{row['seconds']:.0f}"])
    for thickness in sorted({row["thickness"] for row in rows}):
        some = [row for row in rows if row["thickness"] == thickness]
        gains = [f["model"]["psnr"] - f["interpolated"]["psnr"] for f in some]
        better = sum(f["model"]["ssim"] > f["interpolated"]["ssim"] for f in some)
        words.append(
            f"{thickness:g} mm: {statistics.mean(gains):+.2f} dB over the cubic B-spline in the mean of {len(some)} "
            f"volumes ({min(gains):+.2f} to {max(gains):+.2f}); SSIM above in {better} of {len(some)}."
        )
    write_page("through_plane", f"{name} on isotropic scans made thick", known, table(head, lines), "\n".join(words))
    (RESULTS / "through_plane.json").write_text(json.dumps(rows, indent=1) + "\n")


def measured(
    name: str, model: Path, source: Path, split: str, thicknesses: list[float], *, exact: bool = True
) -> list[Row]:
    """Measure a model on every isotropic scan of a split, but for what an earlier call of that name has measured."""
    resolver = IsotropicResolver(load_model(model), Options(exact=exact))
    log = ROOT / "runs" / "through_plane" / f"{name}_{split}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(row["path"], row["thickness"]) for row in rows}
    for thickness in thicknesses:
        for site, patient, path in isotropic_scans(source, split):
            place = str(path.relative_to(source))
            if (place, thickness) in done:
                continue
            fine, voxel = load(path)
            slices, started = ThickSlices(thickness / voxel, thickness / voxel), time.process_time()
            images = results(resolver, fine, slices)
            row = {"path": place, "site": site, "patient": patient, "contrast": contrast_of(path.name)}
            row |= {"thickness": thickness, "seconds": time.process_time() - started, **measure(images, fine)}
            rows.append(row)
            with log.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            if not (picture := RESULTS / f"through_plane_{thickness:g}mm.png").exists():
                draw(images, fine, picture)
            print(f"{thickness:g} mm {place}: {row['model']['psnr'] - row['interpolated']['psnr']:+.2f} dB", flush=True)
    return [row for row in rows if row["thickness"] in thicknesses]


def main() -> None:
    """Measure what is not yet measured, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file, run, or name of a model of the package")
    parser.add_argument("source", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--thickness", type=float, nargs="+", default=[3.0, 4.0, 5.0, 6.0], help="mm")
    parser.add_argument("--fast", action="store_true", help="16-bit arithmetic")
    arguments = parser.parse_args()
    if not (arguments.source / "split.csv").is_file():
        sys.exit(f"skipped: {arguments.source} holds no split.csv, so there are no real scans here")
    model, exact, known = arguments.model, not arguments.fast, facts()
    rows = measured(model.stem, model, arguments.source, arguments.split, arguments.thickness, exact=exact)
    write(arguments.model.stem, rows, known)


if __name__ == "__main__":
    main()
