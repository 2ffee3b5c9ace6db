"""Train a job on the real scans of four hospitals and write table, picture and circumstances.

    python benchmarks/real_scans.py ../shared/data --job mscan_fedavg

The folder holds site-N/... NIfTI files and `split.csv`; where it is absent the benchmark says so and ends.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.federation.render import read_num_rounds, read_task
from fedmr.hospital.prepare import Options, prepare
from fedmr.reports.pictures import draw_details
from fedmr.reports.table import figures_rows
from fedmr.runs.figures import METHODS, Figures
from fedmr.runs.run import Run
from fedmr.training.standalone import comparison_images
from fedmr.utils.environment import ROOT, circumstances

SITES = ("site-1", "site-2", "site-3", "site-4")


def federate(job: str, source: Path, work: Path) -> tuple[Figures, float]:
    """Prepare the sites, run the job in the simulator, and return test figures and seconds."""
    for site in SITES:
        prepare(
            source / site,
            site=site,
            out=work / "data",
            options=Options(split_file=source / "split.csv", keep_grid=True),
        )
    started = time.perf_counter()
    command = ["simulator", ROOT / "jobs" / job, "-w", work / job, "-n", len(SITES), "-t", len(SITES)]
    log = ["-l", ROOT / "app_configs" / "log_config.json"]
    subprocess.run(
        [str(c) for c in (Path(sys.executable).parent / "nvflare", *command, *log)],
        env=os.environ | {DATA_ROOT_VARIABLE: str((work / "data").resolve())},
        check=True,
    )
    return Run(work / job).figures(), time.perf_counter() - started


def facts_of(job: str) -> dict[str, str]:
    """The job's numbers and the circumstances."""
    task = read_task(ROOT / "jobs" / job)
    return {
        "job": job,
        "network": json.dumps(task["network"]),
        "rounds": str(read_num_rounds(ROOT / "jobs" / job)),
        "seed": str(task["seed"]),
        **circumstances(),
    }


def write(figures: Figures, facts: dict[str, str], target: Path) -> None:
    """Write TARGET.json and TARGET.md; TARGET.png lies in the same folder."""
    target.with_suffix(".json").write_text(json.dumps({"run": facts, **figures}, indent=1) + "\n")
    lines = [f"# {target.name}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += [f"| site | volumes | {' | '.join(METHODS.values())} | gain (dB) |", "|---|---|" + "---|" * 4]
    lines += [f"| {' | '.join(row)} |" for row in figures_rows(figures)]
    lines += [
        "",
        "PSNR (dB) / SSIM per volume, range = volume maximum, mean over test volumes; gain over zero-filled.",
        "",
        f"![reference and enlarged details]({target.name}.png)",
        "",
        "Scans: MR databases of multiple sclerosis patients, Laboratory of Imaging Technologies, University of",
        "Ljubljana, CC-BY (Lesjak et al., Neuroinformatics 2016 and 2018).",
    ]
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--job", default="mscan_fedavg")
    arguments = parser.parse_args()
    if not (arguments.source / "split.csv").is_file():
        print(f"skipped: {arguments.source} holds no split.csv, so there are no real scans here")
        return
    work = ROOT / "runs" / "bench-real"
    facts = facts_of(arguments.job)
    figures, seconds = federate(arguments.job, arguments.source, work)
    facts["time"] = f"{seconds / 60:.1f} min for the whole simulator run, evaluation included"
    target = ROOT / "benchmarks" / "results" / f"real_{arguments.job}"
    target.parent.mkdir(parents=True, exist_ok=True)
    model = work / arguments.job / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    draw_details(comparison_images(model, work / "data"), figures, target.with_suffix(".png"))
    write(figures, facts, target)
    print(target.with_suffix(".md").read_text())
    losers = [s for s, row in figures["sites"].items() if row["model"]["psnr"] <= row["zero_filled"]["psnr"]]
    if losers:
        sys.exit(f"MSCAN does not beat zero-filled on {', '.join(losers)}")


if __name__ == "__main__":
    main()
