"""Time of the command `fedmr prepare` per volume, its growth with their number, and of loading what it caches.

    python benchmarks/prepare.py

Writes simulated head scans as compressed NIfTI files, so it needs no data; the table goes to benchmarks/results.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from fedmr.data.volumes import read_volume
from fedmr.hospital.simulation import load_anatomy, protocol, simulate_patient
from fedmr.utils.environment import ROOT, circumstances

NUMBERS = (25, 50, 100, 200)
WORKERS = 2


def write_scans(folder: Path, number: int) -> tuple[int, ...]:
    """Scans of `number` patients: one simulated head with fresh noise in every file."""
    rng = np.random.default_rng(0)
    head, affine = simulate_patient(load_anatomy(), protocol(1), rng=rng)
    for n in range(number):
        voxels = (head + rng.integers(0, 8, head.shape)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, affine), folder / f"sub-{n:03}_T1w.nii.gz")
    return head.shape


def seconds(source: Path, out: Path, workers: int) -> float:
    """Time of the command as a user types it, start-up included."""
    command = [Path(sys.executable).parent / "fedmr", "prepare", source, "--site", "site", "--out", out]
    started = time.perf_counter()
    subprocess.run([*map(str, command), "--workers", str(workers)], check=True, capture_output=True)
    return time.perf_counter() - started


def loading(source: Path, site: Path) -> float:
    """How many times faster the cached volumes load than the files they come from."""
    times = []
    for files in (sorted(source.iterdir()), sorted((site / "volumes").iterdir())):
        started = time.perf_counter()
        for path in files:
            read_volume(path)
        times.append(time.perf_counter() - started)
    return times[0] / times[1]


def main() -> None:
    facts, rows = circumstances(), []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number in NUMBERS:
            source = root / f"source-{number}"
            source.mkdir()
            shape = write_scans(source, number)
            one, all_cores = (seconds(source, root / f"out-{number}-{w}", w) for w in (1, WORKERS))
            again = seconds(source, root / f"out-{number}-1", 1)
            rows.append((number, one, all_cores, again))
        faster = loading(source, root / f"out-{NUMBERS[-1]}-1" / "site")
    base = rows[0][1] / rows[0][0]
    lines = ["# fedmr prepare", "", *(f"- {key}: {value}" for key, value in facts.items())]
    lines += [f"- scans: {' x '.join(map(str, shape))} voxels, 16 bits, .nii.gz, one per patient", ""]
    lines += ["| volumes | ms per volume, 1 process | relative to the first row | 2 processes: speed-up | second run |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {n} | {1000 * one / n:.0f} | {one / n / base:.2f} | {one / both:.2f} | {again / one:.1%} of the first |"
        for n, one, both, again in rows
    ]
    lines += ["", f"Loading the cached volumes is {faster:.1f} times as fast as loading the compressed files.", ""]
    target = ROOT / "benchmarks" / "results" / "prepare.md"
    target.write_text("\n".join(lines))
    print(target.read_text())


if __name__ == "__main__":
    main()
