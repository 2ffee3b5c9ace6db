"""Cost of the privacy filters: the demo hospitals in one process, without a filter and with each of several.

    python benchmarks/privacy.py data                                               # the job's first round
    python benchmarks/privacy.py data --rounds 6 --patches 2 --only "no filter;Gaussian"    # shorter rounds, but more

Every site trains from the received weights, its reply goes through the filter as FLARE calls it, and the server's
weighted mean is evaluated on all validation volumes after the last round. The first round trains once for all filters.
"""

import argparse
import contextlib
import copy
import json
import logging
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from fedmr.data.datalist import site_folders
from fedmr.federation.render import read_num_rounds, read_task
from fedmr.flare.filters import (
    GaussianPrivacy,
    StrictExcludeVars,
    StrictFilter,
    StrictPercentilePrivacy,
    StrictSVTPrivacy,
)
from fedmr.nets import build
from fedmr.privacy.ledger import LOCAL_RECORD
from fedmr.privacy.mechanism import compare, to_vector
from fedmr.tasks.base import Task, Volume
from fedmr.tasks.registry import build_task
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.training.build import make_trainer
from fedmr.training.dp_sgd import PrivateTrainer
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.environment import ROOT, circumstances

JOB = ROOT / "jobs" / "mscan_fedavg"
ANY = 1e12  # a budget that no setting here reaches
PERCENTILE = ((10, 0.01), (50, 5e-4), (80, 5e-4), (80, 1e-4), (95, 5e-4), (99, 5e-4))  # percentile, gamma
SVT = ((0.1, 0.1, 1e-5), (0.1, 40, 1e-4), (0.9, 4, 1e-4), (0.9, 40, 1e-4), (0.9, 40, 5e-4))  # share, noise_var, gamma
GAUSSIAN = ((8, 1e-4), (8, 3e-4), (8, 1e-3), (8, 3e-3), (8, 1e-2), (2, 1e-4), (2, 1e-3), (2, 3e-3), (2, 1e-2), (2, 1))
DP_SGD = (0.02, 0.1, 1.0)  # noise_multiplier; the other numbers are the job's
_NOTE = """Mean PSNR of the validation volumes after the last round. Cosine and norm ratio of what was sent to what was
true: means over sites and rounds, for DP-SGD of the steps' gradients. Epsilon after the last round at delta 1e-5, for
filters of a whole site, replaced, for DP-SGD of a slice, added or removed."""
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
    made["first layer excluded"] = lambda: StrictExcludeVars("^head")
    return made | {f"DP-SGD per slice, noise_multiplier {m:g}": lambda: None for m in DP_SGD}


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


def private(task: SuperResolutionTask, noise_multiplier: float) -> SuperResolutionTask:
    """The task with DP-SGD as in its job, but for the noise and the budget."""
    changed = {"noise_multiplier": noise_multiplier, "max_epsilon": ANY, "patches_per_unit": task.patches_per_slice}
    return replace(task, dp_sgd={**read_task(ROOT / "jobs" / "mscan_dpsgd")["dp_sgd"], **changed})


def start(folder: Path, task: Task, rounds: int) -> Site:
    """A site after the training of its first round."""
    volumes = task.load(folder, ("train", "val"))
    trainer = make_trainer(task, task.sampler(volumes), rounds=rounds)
    first = train(trainer, {k: v.clone() for k, v in trainer.net.state_dict().items()})
    return Site(folder.name, trainer, [v for v in volumes if v.split == "val"], first)


def context(home: Path) -> FLContext:
    """Stand in for FLARE towards a filter, at a site without an account yet."""
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
    """PSNR (dB) after the last round, and what the filter or DP-SGD did, mean over sites and rounds."""
    net, task = sites[0].trainer.net, sites[0].trainer.task
    weights, figures, epsilon = dict(initial), [], None
    with tempfile.TemporaryDirectory() as work:
        contexts = {site.name: context(Path(work) / site.name) for site in sites}
        for number in range(rounds):
            true = [train(site.trainer, weights) if number else site.first for site in sites]
            sent = [_filtered(u, site_filter, contexts[s.name]) for u, s in zip(true, sites, strict=True)]
            steps = [update.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND) for update in sent]
            for name in sent[0].data:
                mean = np.average([u.data[name].astype(np.float64) for u in sent], axis=0, weights=steps)
                weights[name] = weights[name] + torch.from_numpy(mean.astype(np.float32))
            figures += [_compared(t, u, s.trainer) for t, u, s in zip(true, sent, sites, strict=True)]
        record = Path(work) / sites[0].name / "job" / LOCAL_RECORD
        if record.exists():
            epsilon = json.loads(record.read_text().splitlines()[-1]).get("epsilon")
    if isinstance(sites[0].trainer, PrivateTrainer):
        epsilon = max(site.trainer.epsilon() for site in sites)
    means = {name: float(np.mean([f[name] for f in figures])) for name in figures[0]}
    net.load_state_dict(weights)
    figure = evaluate(net, [v for site in sites for v in site.val], task)["model"]["psnr"]
    return {"psnr": figure, "epsilon": epsilon, **means}


def _filtered(update: DXO, site_filter: StrictFilter | None, fl_ctx: FLContext) -> DXO:
    return from_shareable(site_filter.process(update.to_shareable(), fl_ctx)) if site_filter else update


def _compared(true: DXO, sent: DXO, trainer: Trainer) -> dict[str, float]:
    vector = to_vector(true.data)
    if isinstance(trainer, PrivateTrainer):  # its noise is in every step, not on the update
        return {"norm": float(np.linalg.norm(vector)), **trainer.distance()}
    whole = {name: sent.data.get(name, np.zeros_like(array)) for name, array in true.data.items()}
    return {"norm": float(np.linalg.norm(vector)), **compare(vector, to_vector(whole))}


def write(results: dict[str, Any], facts: dict[str, str], target: Path) -> None:
    """TARGET.json and the same as a table."""
    target.with_suffix(".json").write_text(json.dumps({"run": facts, "settings": results}, indent=1) + "\n")
    lines = [f"# {target.stem}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    best = results["no filter"]["psnr"]
    lines += [
        "| setting | cosine | norm ratio | epsilon | PSNR (dB) | against no filter |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        epsilon = f"{r['epsilon']:,.4g}" if r["epsilon"] else "none"
        update = f"{r['cosine']:.3f} | {r['norm_ratio']:.3g} | {epsilon}"
        lines.append(f"| {name} | {update} | {r['psnr']:.2f} | {r['psnr'] - best:+.2f} |")
    lines += ["", _NOTE]
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")


def draw(results: dict[str, Any], facts: dict[str, str], target: Path) -> None:
    """TARGET.png: PSNR against epsilon, a curve per filter and clip, between no filter and no training."""
    families: dict[str, list[tuple[float, float]]] = {}
    for name, r in results.items():
        if r["epsilon"]:
            family = re.split(r", noise_| fraction", name)[0]
            families.setdefault(family, []).append((r["epsilon"], r["psnr"]))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    floor = float(facts["untrained network, i.e. interpolation"].removesuffix(" dB"))
    axes.axhline(results["no filter"]["psnr"], color="black", label="no filter")
    axes.axhline(floor, color="gray", linestyle="--", label="no training")
    for family, points in families.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=family)
    axes.set(xscale="log", xlabel="epsilon, delta 1e-5", ylabel=f"PSNR (dB) after {facts['rounds']} round(s)")
    # what lies below is no image any more
    axes.set_ylim(floor - 1, results["no filter"]["psnr"] + 0.3)
    axes.legend(fontsize="small")
    figure.savefig(target.with_suffix(".png"), dpi=120)


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
    task = replace(build_task(read_task(JOB)), patches_per_slice=arguments.patches)
    facts = {"rounds": str(arguments.rounds), "patches_per_slice": str(arguments.patches), **circumstances()}
    schedule = read_num_rounds(JOB) if arguments.rounds == 1 else arguments.rounds
    folders = site_folders(arguments.data)
    initial = build(**task.network).state_dict()
    plain = [start(folder, task, schedule) for folder in folders]
    untrained = evaluate(build(**task.network), [v for site in plain for v in site.val], task)["model"]["psnr"]
    facts["untrained network, i.e. interpolation"] = f"{untrained:.2f} dB"
    results = {}
    for name, make in settings().items():
        if name.startswith(tuple(arguments.only.split(";"))):
            if name.startswith("DP-SGD"):
                sites = [start(folder, private(task, float(name.split()[-1])), schedule) for folder in folders]
            else:
                sites = copy.deepcopy(plain)
            results[name] = federate(sites, initial, arguments.rounds, make())
            print(name, json.dumps(results[name]), flush=True)
    write(results, facts, arguments.out)
    draw(results, facts, arguments.out)


if __name__ == "__main__":
    main()
