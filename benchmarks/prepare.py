"""Time of the command `fedmr prepare` per volume, its growth with their number, and of loading what it caches.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --before COMMIT

Writes simulated head scans as compressed NIfTI files, so it needs no data; the table goes to benchmarks/results. With
--before only `prepare` and `preflight` of that commit and of this one are compared, in turns, in one run.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
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
COMPARED = 200  # volumes that two versions prepare, and of which they look at the first
LOOKED_AT = 20
TARGET = ROOT / "benchmarks" / "results" / "prepare.md"
SECTION = "## Against an earlier version"
# the command was a module once and is a package now
_MAIN = (
    "import fedmr.cli as c; m = getattr(c, 'main', None) or __import__('fedmr.cli.main').cli.main; "
    "getattr(m, 'main', m)()"
)


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


def cost(tree: Path, *arguments: object) -> tuple[float, float]:
    """Seconds of processor time and of the clock that a command of a source tree takes, start-up included."""
    command = [sys.executable, "-c", _MAIN, *map(str, arguments)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(tree / "custom")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, 4):  # preflight warns of few patients
        raise RuntimeError(f"{arguments[0]} of {tree} failed: {done.stdout[-500:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - started


def compare(commit: str, number: int) -> str:
    """Prepare and look at the same scans with an earlier commit and this one, in turns; return the section."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        old, source, few = root / "old", root / "source", root / "few"
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(old, filter="data")
        source.mkdir()
        write_scans(source, COMPARED)
        few.mkdir()
        for path in sorted(source.iterdir())[:LOOKED_AT]:
            (few / path.name).hardlink_to(path)
        site = root / "sites" / "site"
        cost(ROOT, "prepare", few, "--site", "site", "--out", site.parent)
        rows = []
        for what, arguments in (
            (f"prepare, {COMPARED} volumes", lambda n: ("prepare", source, "--site", "s", "--out", root / f"out{n}")),
            (f"preflight, {LOOKED_AT} volumes", lambda n: ("preflight", site)),
        ):
            turns = [
                [cost(tree, *arguments(f"{turn}{place}")) for place, tree in enumerate((old, ROOT))]
                for turn in range(number)
            ]
            best = [[min(turn[place][kind] for turn in turns) for place in (0, 1)] for kind in (0, 1)]
            rows.append(
                f"| {what} | {best[0][0]:.1f} | {best[0][1]:.1f} | {best[0][1] / best[0][0]:.2f} "
                f"| {best[1][1] / best[1][0]:.2f} |"
            )
    facts = circumstances()
    return "\n".join(
        [
            *(
                SECTION,
                "",
                f"Commits {commit} and {facts['commit']} in turns, the best of {number}; {facts['hardware']}.",
            ),
            *("", "| command | s of processor before | now | now : before | by the clock |", "|---|---|---|---|---|"),
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", default="", help="commit to compare with")
    parser.add_argument("--turns", type=int, default=2, help="how many times each is run")
    chosen = parser.parse_args()
    if chosen.before:
        text = TARGET.read_text().partition(SECTION)[0].rstrip()
        TARGET.write_text(f"{text}\n\n{compare(chosen.before, chosen.turns)}")
        print(TARGET.read_text())
        return
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
    TARGET.write_text("\n".join(lines))
    print(TARGET.read_text())


if __name__ == "__main__":
    main()
