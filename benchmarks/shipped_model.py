"""Make a model that comes with the package: a federation of all sites of the real scans through FLARE, and its card.

    python benchmarks/shipped_model.py mscan-x2 ../shared/data

The sites train on all their training scans. Of a validation scan every site takes a few slices, so that a round is not
mostly validation. Test scans are read once, whole, after training, for the figures on the card.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
from gain_on_real_scans import gains, measure, over_patients, prepared, write
from studies.smaller_scans import reduce
from through_plane import measured
from through_plane import write as write_through_plane

from fedmr.checkpoints.card import make_card, summarise_volumes
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.checkpoints.stored import WEIGHTS
from fedmr.data.datalist import DATA_ROOT_VARIABLE, read_datalist, site_folders
from fedmr.data.scan_facts import ranges, scan_facts
from fedmr.metrics import mean_metrics
from fedmr.runs.run import Run
from fedmr.utils.environment import ROOT, circumstances

JOBS = {"mscan-x2": "mscan_real", "mscan-x4": "mscan_real_x4", "mscan-through-plane": "mscan_through_plane"}
THICKNESS = 4.0  # mm, of the slices that the figures of a through-plane model are of
VALIDATION_SLICES = 8
LICENCE = (
    "CC-BY 4.0. Trained on: MR databases of multiple sclerosis patients, Laboratory of Imaging Technologies, "
    "University of Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 2016 and 2018); neurolabusc dcm_qa_asl, "
    "dcm_qa_decubitus and Clinical (BSD-2-Clause), py_synthsr (Apache-2.0), FNNDSC data (Apache-2.0), SAG-anon (MIT), "
    "pyradiomics (BSD-3-Clause)."
)


def with_few_validation_slices(data: Path, out: Path) -> Path:
    """Copy the training scans of all sites by links and a few slices of every validation scan; return `out`."""
    for folder in site_folders(data):
        target = out / folder.name
        entries = []
        for entry in read_datalist(folder)["volumes"]:
            path = target / entry["image"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry["split"] == "train":
                path.unlink(missing_ok=True)
                path.symlink_to((folder / entry["image"]).resolve())
                entries.append(entry)
            elif entry["split"] == "val":
                entries.append(reduce(folder, target, entry, VALIDATION_SLICES, None))
        text = json.dumps(read_datalist(folder) | {"volumes": entries}, indent=1) + "\n"
        (target / "datalist.json").write_text(text)
    return out


def federate(job: str, data: Path, run: Path) -> float:
    """Run the job in FLARE's simulator with every site of `data`, and return its hours."""
    started = time.time()
    sites = ",".join(folder.name for folder in site_folders(data))
    command = [Path(sys.executable).parent / "nvflare", "simulator", ROOT / "jobs" / job, "-w", run, "-c", sites]
    command += ["-t", sites.count(",") + 1, "-l", ROOT / "app_configs" / "log_config.json"]
    environment = os.environ | {DATA_ROOT_VARIABLE: str(data.resolve()), "OMP_NUM_THREADS": "1"}
    subprocess.run([str(part) for part in command], env=environment, check=True)
    return (time.time() - started) / 3600


def training_facts(model: Model, data: Path) -> dict[str, Any]:
    """Numbers of volumes and contrasts, and the ranges of the facts of the low-resolution training scans."""
    volumes, facts = [], []
    for folder in site_folders(data):
        entries = {entry["image"]: entry for entry in read_datalist(folder)["volumes"]}
        for volume in model.task.load(folder, ("train",)):
            scan = nib.load(folder / entries[volume.name]["image"])
            zooms = sorted(float(zoom) for zoom in scan.header.get_zooms()[:3])  # the slice axis has the largest
            across = model.task.across_slices  # then the scan itself is what the model is applied to
            rows, columns = (1, 1) if across else model.task.scale
            spacing = zooms[2], zooms[1] * rows, zooms[0] * columns
            facts.append(scan_facts((volume.hr if across else volume.lr).numpy(), spacing, 1.0))
            volumes.append(volume)
    return summarise_volumes(volumes) | {"ranges": ranges(facts)}


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a card: means of the methods, gain by site and by contrast, and the spread over patients, dB."""
    patients = over_patients(rows)
    means = {name: mean_metrics([row[name] for row in rows]) for name in ("zero_filled", "model")}
    gain_by = {
        key: {
            value: round(statistics.mean(g for g, row in zip(gains(rows), rows, strict=True) if row[key] == value), 3)
            for value in Counter(row[key] for row in rows)
        }
        for key in ("site", "contrast")
    }
    return {
        "split": "test",
        "n_volumes": len(rows),
        "n_patients": len(patients),
        **means,
        "gain_by_site": gain_by["site"],
        "gain_by_contrast": gain_by["contrast"],
        "gain_least": round(min(gains(rows)), 3),
        "gain_deviation_over_patients": round(statistics.stdev(patients.values()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=JOBS)
    parser.add_argument("source", type=Path)
    parser.add_argument("--keep-run", action="store_true", help="take the run that is there, train no other")
    arguments = parser.parse_args()
    if not (arguments.source / "split.csv").is_file():
        sys.exit(f"skipped: {arguments.source} holds no split.csv, so there are no real scans here")
    data = prepared(arguments.source, ROOT / "runs" / "real8")
    run = ROOT / "runs" / "shipped" / arguments.name
    record = run.with_suffix(".json")
    if not arguments.keep_run:
        hours = federate(JOBS[arguments.name], with_few_validation_slices(data, ROOT / "runs" / "real8_training"), run)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        record.write_text(json.dumps({"hours": round(hours, 2), "commit": commit.stdout.strip()}) + "\n")
    file = run / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    model, rounds = load_model(file), Run(run).rounds
    if model.task.across_slices:
        rows = measured(arguments.name, file, arguments.source, "test", [THICKNESS])
    else:
        rows = measure(file, arguments.source, data, "test")
    sites = {site for made in rounds for site in made["sites"]}
    steps = sum(site["steps"] for made in rounds for site in made["sites"].values())
    training = {"federated": True, "sites": len(sites), "rounds": len(rounds), "steps": steps}
    training |= {"job": JOBS[arguments.name], **json.loads(record.read_text())}
    card = make_card(
        model.task, training=training, data=training_facts(model, data), metrics=figures(rows), licence=LICENCE
    )
    WEIGHTS.mkdir(exist_ok=True)
    save_model(WEIGHTS / f"{arguments.name}.pt", Model(model.net, card))
    if model.task.across_slices:
        write_through_plane(arguments.name, rows, circumstances())
    else:
        write(arguments.name, rows, "test")


if __name__ == "__main__":
    main()
