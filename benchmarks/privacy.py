"""What the privacy filters cost: the demo hospitals in one process, without a filter and with each of several.

    python benchmarks/privacy.py data                                               # the job's first round
    python benchmarks/privacy.py data --rounds 6 --patches 2 --only "Gaussian clip 1"   # shorter rounds, but more

Every site trains from the received weights, its reply goes through the filter as FLARE calls it, and the server's
weighted mean is evaluated on all validation volumes. The first round trains once for all settings.
"""

import argparse
import contextlib
import copy
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from circumstances import ROOT, circumstances
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from fedmr.config import Task
from fedmr.data import PatchSampler, Volume, load_volumes, site_folders
from fedmr.flare.filters import (
    LOCAL_RECORD,
    GaussianPrivacy,
    StrictExcludeVars,
    StrictFilter,
    StrictPercentilePrivacy,
    StrictSVTPrivacy,
)
from fedmr.jobs import read_num_rounds, read_task
from fedmr.nets import build
from fedmr.privacy import compare, to_vector
from fedmr.training import Trainer, evaluate

JOB = ROOT / "jobs" / "mscan_fedavg"
ANY = 1e12  # a budget that no setting here reaches
PERCENTILE = ((10, 0.01), (50, 5e-4), (80, 5e-4), (80, 1e-4), (95, 5e-4), (99, 5e-4))  # percentile, gamma
SVT = ((0.1, 0.1, 1e-5), (0.1, 40, 1e-4), (0.9, 4, 1e-4), (0.9, 40, 1e-4), (0.9, 40, 5e-4))  # fraction, noise_var, gamma
GAUSSIAN = ((8, 1e-4), (8, 3e-4), (8, 1e-3), (8, 3e-3), (8, 1e-2), (2, 1e-4), (2, 1e-3), (2, 3e-3), (2, 1e-2), (2, 1))
Weights = dict[str, torch.Tensor]


def settings() -> dict[str, Callable[[], StrictFilter | None]]:
    """A maker of the filter by the name of the setting."""
    made: dict[str, Callable[[], StrictFilter | None]] = {"no filter": lambda: None}
    for p, g in PERCENTILE:
        made[f"percentile {p}, gamma {g:g}"] = lambda p=p, g=g: StrictPercentilePrivacy(p, g)
    for f, v, g in SVT:
        name = f"SVT fraction {f:g}, noise_var {v:g}, gamma {g:g}"
        made[name] = lambda f=f, v=v, g=g: StrictSVTPrivacy(f, 0.1, v, g, max_epsilon=ANY)
    for c, m in GAUSSIAN:
        name = f"Gaussian clip {c:g}, noise_multiplier {m:g}"
        made[name] = lambda c=c, m=m: GaussianPrivacy(c, m, max_epsilon=ANY)
    return made | {"first layer excluded": lambda: StrictExcludeVars("^head")}


@dataclass
class Site:
    """A hospital: its trainer, and its reply to the first round."""

    name: str
    trainer: Trainer
    val: list[Volume]
    first: DXO


def train(trainer: Trainer, weights: Weights) -> DXO:
    """A site's unfiltered reply to a round."""
    trainer.net.load_state_dict(weights)
    progress = trainer.run_round()
    difference = {k: (v - weights[k]).numpy() for k, v in trainer.net.state_dict().items()}
    return DXO(DataKind.WEIGHT_DIFF, difference, {MetaKey.NUM_STEPS_CURRENT_ROUND: progress.steps})


def start(folder: Path, task: Task, rounds: int) -> Site:
    """A site after the training of its first round."""
    volumes = load_volumes(folder, task, ("train", "val"))
    trainer = Trainer(task, PatchSampler([v for v in volumes if v.split == "train"], task), rounds=rounds)
    first = train(trainer, {k: v.clone() for k, v in trainer.net.state_dict().items()})
    return Site(folder.name, trainer, [v for v in volumes if v.split == "val"], first)


def context(home: Path) -> FLContext:
    """What a filter asks of FLARE, for a site without an account yet."""
    for name in ("startup", "local", "job"):
        (home / name).mkdir(parents=True)
    workspace = Workspace(str(home), site_name=home.name)
    engine = SimpleNamespace(get_workspace=lambda: workspace, fire_event=lambda *_: None)
    made = FLContext()
    made.set_prop(ReservedKey.ENGINE, engine, private=True)
    made.set_prop(ReservedKey.RUN_NUM, "job")
    engine.new_context = lambda: contextlib.nullcontext(made)
    return made


def federate(sites: list[Site], initial: Weights, rounds: int, site_filter: StrictFilter | None) -> dict[str, Any]:
    """PSNR (dB) after each round, and what the filter did, mean over sites and rounds."""
    task = sites[0].trainer.task
    weights, curve, figures, epsilon = dict(initial), [], [], None
    with tempfile.TemporaryDirectory() as work:
        contexts = {site.name: context(Path(work) / site.name) for site in sites}
        for number in range(rounds):
            true = [train(site.trainer, weights) if number else site.first for site in sites]
            sent = [_filtered(u, site_filter, contexts[s.name]) for u, s in zip(true, sites, strict=True)]
            steps = [update.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) for update in sent]
            for name in sent[0].data:
                mean = np.average([u.data[name].astype(np.float64) for u in sent], axis=0, weights=steps)
                weights[name] = weights[name] + torch.from_numpy(mean.astype(np.float32))
            figures += [_compared(t, s) for t, s in zip(true, sent, strict=True)]
            net = sites[0].trainer.net
            net.load_state_dict(weights)
            curve.append(evaluate(net, [v for site in sites for v in site.val], task)["model"]["psnr"])
        record = Path(work) / sites[0].name / "job" / LOCAL_RECORD
        if record.exists():
            epsilon = json.loads(record.read_text().splitlines()[-1]).get("epsilon")
    means = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
    return {"psnr": curve, "epsilon": epsilon, **means}


def _filtered(update: DXO, site_filter: StrictFilter | None, fl_ctx: FLContext) -> DXO:
    return from_shareable(site_filter.process(update.to_shareable(), fl_ctx)) if site_filter else update


def _compared(true: DXO, sent: DXO) -> dict[str, float]:
    vector = to_vector(true.data)
    whole = {name: sent.data.get(name, np.zeros_like(array)) for name, array in true.data.items()}
    return {"norm": float(np.linalg.norm(vector)), **compare(vector, to_vector(whole))}


def write(results: dict[str, Any], facts: dict[str, str], target: Path) -> None:
    """TARGET.json and the same as a table."""
    target.with_suffix(".json").write_text(json.dumps({"run": facts, "settings": results}, indent=1) + "\n")
    lines = [f"# {target.stem}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| setting | cosine | norm ratio | epsilon after the last round | PSNR (dB) |", "|---|---|---|---|---|"]
    for name, r in results.items():
        epsilon = f"{r['epsilon']:,.4g}" if r["epsilon"] else "none"
        lines.append(f"| {name} | {r['cosine']:.3f} | {r['norm_ratio']:.3g} | {epsilon} | {r['psnr'][-1]:.2f} |")
    lines += [
        "",
        "Cosine and norm ratio of true and sent update: means over sites and rounds. Epsilon at delta 1e-5.",
    ]
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--patches", type=int, default=6, help="per slice and round; the job has 6")
    parser.add_argument("--only", default="", help="settings that begin with one of these, parted by ;")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "privacy_first_round")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    task = replace(Task.from_dict(read_task(JOB)), patches_per_slice=arguments.patches)
    facts = {"rounds": str(arguments.rounds), "patches_per_slice": str(arguments.patches), **circumstances()}
    schedule = read_num_rounds(JOB) if arguments.rounds == 1 else arguments.rounds
    folders = site_folders(arguments.data)
    initial = build(**task.network).state_dict()
    trained = [start(folder, task, schedule) for folder in folders]
    results = {}
    for name, make in settings().items():
        if name.startswith(tuple(arguments.only.split(";"))):
            results[name] = federate(copy.deepcopy(trained), initial, arguments.rounds, make())
            print(name, json.dumps(results[name]), flush=True)
    write(results, facts, arguments.out)


if __name__ == "__main__":
    main()
