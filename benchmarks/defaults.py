"""What the defaults of aggregation cost an honest federation: real scans, sites of unequal size and other contrasts.

    python benchmarks/defaults.py PREPARED [--rows NAME ...] [--seeds 0 1] > rows.txt
    python benchmarks/defaults.py PREPARED --write rows.txt

PREPARED is a data root of prepared sites, such as `gain_on_real_scans.py` makes of ../shared/data. Of every training
scan one slice in ten is kept, so that the sites' sizes stay in proportion. One process, without a network, as in
hostile.py: FLARE's own controller, the job's guard and learner, and each aggregation in turn.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import torch
from common import facts, table, write_page
from nvflare.app_common.abstract.aggregator import Aggregator
from studies.smaller_scans import reduce

from fedmr.data.datalist import DATA_ROOT_VARIABLE, read_datalist, site_folders
from fedmr.federation.render import read_task
from fedmr.flare.aggregators import EqualAggregator, WeightedAggregator
from fedmr.flare.robust import RobustAggregator
from fedmr.tasks.registry import build_task
from fedmr.utils.environment import ROOT
from hostile import run

SMALL = {
    "batch_size": 1,
    "patch_size": 24,
    "warmup_steps": 20,
    "precision": "float32",
    "network": {"channels": 16, "blocks": 2},
}
_OPEN = {"weight": 1e6, "norm": 1e6, "far_steps": 1e6, "far_norm": 1e6, "agreement": 2.0}
_FIRST = "FedAvg, nothing bounded"

AGGREGATIONS: dict[str, Callable[[], Aggregator]] = {
    _FIRST: lambda: WeightedAggregator(bounds=_OPEN),
    "**the default**": WeightedAggregator,
    "up to 3 medians of weight, directions count from a cosine of 0.1": lambda: WeightedAggregator(
        bounds={"weight": 3.0, "agreement": 0.1}
    ),
    "weight up to 10 medians": lambda: WeightedAggregator(bounds=_OPEN | {"weight": 10.0}),
    "norm up to the median": lambda: WeightedAggregator(bounds=_OPEN | {"norm": 1.0}),
    "all sites count the same": lambda: EqualAggregator(bounds=_OPEN),
    "trimmed mean, one site at either end": lambda: RobustAggregator(trim=1),
    "coordinate median": RobustAggregator,
}


def thinned(data: Path, out: Path) -> Path:
    """A data root with one slice in ten of every training scan, 2 of a validation scan and 6 of a test scan."""
    for folder in site_folders(data):
        volumes = []
        for entry in read_datalist(folder)["volumes"]:
            zooms = nib.load(folder / entry["image"]).header.get_zooms()[:3]
            if zooms[2] < max(zooms) / 2:  # its slices do not lie along the last axis, where thinning would change them
                continue
            kept = {"train": max(entry["shape"][2] // 10, 2), "val": 2, "test": 6}[entry["split"]]
            volumes.append(reduce(folder, out / folder.name, entry, kept, None))
        (out / folder.name / "datalist.json").write_text(json.dumps(read_datalist(folder) | {"volumes": volumes}))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--rows", nargs="*", default=list(AGGREGATIONS))
    parser.add_argument(
        "--write", type=Path, nargs="*", help="make the page of rows that were printed into these files"
    )
    arguments = parser.parse_args()
    if arguments.write:
        write(
            [json.loads(line) for path in arguments.write for line in path.read_text().splitlines()], arguments.rounds
        )
        return
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    task = read_task(ROOT / "jobs" / "mscan_real")
    task |= SMALL | {"network": task["network"] | SMALL["network"]}
    with tempfile.TemporaryDirectory() as folder:
        root = thinned(arguments.data, Path(folder))
        os.environ[DATA_ROOT_VARIABLE] = str(root)
        sites = dict.fromkeys(path.name for path in site_folders(root))
        for seed in arguments.seeds:
            built = build_task(task | {"seed": seed, "network": task["network"] | {"seed": seed}})
            for name in arguments.rows:
                found = run(built, sites, arguments.rounds, AGGREGATIONS[name]())
                print(json.dumps({"name": name, "seed": seed} | found), flush=True)


def write(rows: list[dict[str, Any]], rounds: int) -> None:
    """Write benchmarks/results/defaults.md."""
    lines = []
    for name in AGGREGATIONS:
        own = {row["seed"]: row for row in rows if row["name"] == name}
        base = {row["seed"]: row for row in rows if row["name"] == _FIRST}
        if not own:
            continue
        changes = {seed: row["psnr"] - base[seed]["psnr"] for seed, row in own.items()}
        sites = {
            site: mean(row["by site"][site] - base[seed]["by site"][site] for seed, row in own.items())
            for site in next(iter(own.values()))["by site"]
        }
        least = min(sites, key=lambda site: sites[site])
        left_out = sorted({site for row in own.values() for site in row["left out"]})
        lines.append(
            [
                name,
                f"{mean(row['psnr'] for row in own.values()):.2f}",
                f"{mean(changes.values()):+.3f}",
                ", ".join(f"{change:+.3f}" for change in changes.values()),
                f"{sites[least]:+.2f} ({least})",
                ", ".join(left_out) or "-",
            ]
        )
    known = facts(
        rounds=str(rounds), network=json.dumps(SMALL["network"]), seeds=str(sorted({r["seed"] for r in rows}))
    )
    text = (
        "Eight sites, one laboratory's scans split by contrast and four other institutions; steps of a round in "
        "proportion to their slices. Mean over the sites' test volumes of the final model's PSNR."
    )
    head = ["aggregation", "dB", "against FedAvg", "by seed", "site that loses most", "left out"]
    write_page("defaults", "What the defaults cost", known, text, table(head, lines))


if __name__ == "__main__":
    main()
