"""Gain of a model on every volume of real scans that it has not seen, and its spread over patients.

    python benchmarks/gain_on_real_scans.py mscan-x2 ../shared/data

Whole volumes, range = volume maximum, PSNR over zero-filling in dB; each volume also with data consistency, i.e. with
the scan's own k-space put back. Volumes of one patient are averaged before the spread over patients is taken.
"""

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, facts, table, write_page

from fedmr.checkpoints.model_file import load_model
from fedmr.data.datalist import read_datalist, site_folders
from fedmr.data.readers.folder import PRIVATE
from fedmr.hospital.prepare import Options, prepare
from fedmr.hospital.pseudonyms import PrivateFolder
from fedmr.inference.super_resolver import impose
from fedmr.metrics import volume_metrics
from fedmr.utils.environment import ROOT


def prepared(source: Path, data: Path) -> Path:
    """Prepare every site of `source` below `data` by its split.csv, and return `data`."""
    for folder in sorted(source.glob("site-*")):
        prepare(folder, site=folder.name, out=data, options=Options(split_file=source / "split.csv", keep_grid=True))
    return data


def patients_of(source: Path, folder: Path) -> dict[str, str]:
    """Patient of split.csv by the pseudonym that a prepared site has for it: one person may be at several sites."""
    private = PrivateFolder(folder / PRIVATE)
    with (source / "split.csv").open() as handle:
        known = {row["patient"] for row in csv.DictReader(handle) if row["site"] == folder.name}
    return {f"p-{private.pseudonym('patient', patient)}": patient for patient in known}


def measure(model: Path, source: Path, data: Path, split: str) -> list[dict[str, Any]]:
    """Measure the model on every volume of a split: a row each; patients are those of split.csv."""
    opened, rows = load_model(model), []
    task, net = opened.task, opened.net
    for folder in site_folders(data):
        if split not in {entry["split"] for entry in read_datalist(folder)["volumes"]}:
            continue
        patients = patients_of(source, folder)
        for volume in task.load(folder, (split,)):
            result = task.restore(net, volume)
            whole = impose(result, volume.lr, task.scale, task.grid).clamp_min(0)[
                :, : volume.hr.shape[1], : volume.hr.shape[2]
            ]
            base = volume_metrics(task.baselines(volume)["zero_filled"], volume.reference)
            ours, consistent = (volume_metrics(image, volume.reference) for image in (result, whole))
            row = {
                "site": folder.name,
                "patient": patients[volume.patient],
                "contrast": volume.contrast,
                "zero_filled": base,
            }
            rows.append(row | {"model": ours, "consistent": consistent})
            print(f"{folder.name} {volume.contrast}: {ours['psnr'] - base['psnr']:+.2f} dB", flush=True)
    return rows


def gains(rows: list[dict[str, Any]], method: str = "model") -> list[float]:
    """Gains in PSNR over zero-filling, dB, a volume each."""
    return [row[method]["psnr"] - row["zero_filled"]["psnr"] for row in rows]


def over_patients(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean gain of every patient, dB."""
    patients = {row["patient"]: [] for row in rows}
    for row, gain in zip(rows, gains(rows), strict=True):
        patients[row["patient"]].append(gain)
    return {name: statistics.mean(values) for name, values in patients.items()}


def summary(rows: list[dict[str, Any]]) -> str:
    """Sentence with mean, least, and spread over patients."""
    found, patients = gains(rows), list(over_patients(rows).values())
    spread = statistics.stdev(patients) if len(patients) > 1 else 0.0
    return (
        f"{len(found)} volumes of {len(patients)} patients: {statistics.mean(found):+.2f} dB over zero-filling in the "
        f"mean, {min(found):+.2f} the least, {max(found):+.2f} the most; standard deviation over patients {spread:.2f} "
        f"dB. With data consistency {statistics.mean(gains(rows, 'consistent')):+.2f} dB."
    )


def patient_numbers(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return a number for every patient, in the order of the rows."""
    return {patient: str(n) for n, patient in enumerate(dict.fromkeys(row["patient"] for row in rows), 1)}


def write(name: str, rows: list[dict[str, Any]], split: str) -> None:
    """Write page and figures into benchmarks/results."""
    head = ["site", "patient", "contrast", "zero-filled", "model", "gain (dB)", "with data consistency (dB)"]
    numbers = patient_numbers(rows)
    lines = [
        [
            row["site"],
            numbers[row["patient"]],
            row["contrast"],
            *(f"{row[m]['psnr']:.2f} / {row[m]['ssim']:.4f}" for m in ("zero_filled", "model")),
            f"{gain:+.2f}",
            f"{consistent:+.2f}",
        ]
        for row, gain, consistent in zip(rows, gains(rows), gains(rows, "consistent"), strict=True)
    ]
    page = f"real_gain_{name}_{split}"
    write_page(page, f"{name} on {split} scans", facts(), table(head, lines), summary(rows))
    (RESULTS / f"{page}.json").write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file, run, or name of a model of the package")
    parser.add_argument("source", type=Path)
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    if not (arguments.source / "split.csv").is_file():
        sys.exit(f"skipped: {arguments.source} holds no split.csv, so there are no real scans here")
    data = prepared(arguments.source, ROOT / "runs" / "real8")
    rows = measure(arguments.model, arguments.source, data, arguments.split)
    write(arguments.model.stem, rows, arguments.split)


if __name__ == "__main__":
    main()
