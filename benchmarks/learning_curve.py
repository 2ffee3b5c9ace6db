"""Validation gain over training steps on real scans, pooled: how long a network must train until its curve is flat.

    python benchmarks/learning_curve.py ../shared/data --network mscan --rate 3e-3 --steps 30000

The rate is constant after a short warm-up and the averaged weights (EMA) are evaluated, so that every point of a curve
is a model that could have been kept. Only training and validation volumes are read. A curve is a JSON line per point
in runs/curves/NAME.jsonl; the same command goes on where it stopped.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from torch import nn

from fedmr.data.datalist import read_datalist
from fedmr.federation.render import read_task
from fedmr.hospital.prepare import Options, prepare
from fedmr.nets import count_parameters
from fedmr.tasks.base import Task
from fedmr.tasks.patches import Volume
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.environment import ROOT
from fedmr.utils.precision import training_autocast


def load(source: Path, data: Path, task: Task) -> list:
    """Return the training and validation volumes of all sites, prepared below `data` on the first call."""
    volumes = []
    for folder in sorted(source.glob("site-*")):
        site = data / folder.name
        if not (site / "datalist.json").is_file():
            prepare(
                folder, site=folder.name, out=data, options=Options(split_file=source / "split.csv", keep_grid=True)
            )
        there = {entry["split"] for entry in read_datalist(site)["volumes"]}
        volumes += task.load(site, tuple(s for s in ("train", "val") if s in there))
    return volumes


def thinned(volume: Volume) -> Volume:
    """Take every sixth slice of the middle two thirds, so that a point of the curve costs less than its training."""
    number = len(volume.hr)
    chosen = slice(number // 6, number - number // 6, 6)
    return replace(volume, hr=volume.hr[chosen], lr=volume.lr[chosen])


def run(trainer: Trainer, validation: list, base: float, log: Path, *, steps: int, every: int) -> None:
    """Train to `steps` and append a point every `every` steps, with a state beside the log."""
    state, step, seconds = log.with_suffix(".pt"), 0, 0.0
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        trainer.load_state_dict(saved["trainer"])
        step, seconds = saved["step"], saved["seconds"]
    net, task = trainer.net, trainer.task
    for epoch in count(trainer.epoch):
        started = time.process_time()
        net.train()
        for given, target in trainer.sampler.epoch(epoch):
            for group in trainer.optimizer.param_groups:
                group["lr"] = task.learning_rate * min(1.0, (step + 1) / 200)
            with training_autocast(given.device, task.precision):
                output = net(given.contiguous(memory_format=torch.channels_last))
            loss = trainer.loss(output.float(), target)
            trainer.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), task.clip_norm)
            trainer.optimizer.step()
            step += 1
            if step % every == 0 or step == steps:
                seconds += time.process_time() - started
                gain = evaluate(trainer.averaged.module, validation, task)["model"]["psnr"] - base
                with log.open("a") as handle:
                    handle.write(json.dumps({"step": step, "gain": gain, "cpu_seconds": seconds}) + "\n")
                trainer.epoch = epoch + 1
                torch.save({"trainer": trainer.state_dict(), "step": step, "seconds": seconds}, state)
                started = time.process_time()
                net.train()
            if step >= steps:
                return
        seconds += time.process_time() - started


def main() -> None:
    """Read the arguments, load the scans and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--network", default="mscan")
    parser.add_argument("--set", action="append", default=[], help="argument of the network, NAME=VALUE")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=32, help="side in LR pixels")
    parser.add_argument("--steps", type=int, default=30000)
    parser.add_argument("--every", type=int, default=1500)
    arguments = parser.parse_args()
    if not (arguments.source / "split.csv").is_file():
        sys.exit(f"skipped: {arguments.source} holds no split.csv, so there are no real scans here")
    torch.set_num_threads(1)
    network = {"name": arguments.network, "scale": 2, "seed": 0} | {
        name: json.loads(value) for name, _, value in (pair.partition("=") for pair in arguments.set)
    }
    values = read_task(ROOT / "jobs" / "mscan_fedavg") | {
        "network": network,
        "learning_rate": arguments.rate,
        "batch_size": arguments.batch,
        "patch_size": arguments.patch,
        "loss": {"l1": 1.0, "sgp": 0.05},
        "ema_decay": 0.999,
        "precision": "bfloat16",
    }
    task = build_task(values)
    volumes = load(arguments.source, ROOT / "runs" / "curves" / "data", task)
    validation = [thinned(volume) for volume in volumes if volume.split == "val"]
    trainer = Trainer(task, task.sampler(volumes), rounds=1)
    zero_filled = evaluate(trainer.net, validation, task, with_baselines=True)["zero_filled"]["psnr"]
    settings = "_".join(arguments.set).replace("=", "").replace('"', "")
    name = f"{arguments.network}_{settings}_{arguments.rate:g}_b{arguments.batch}_p{arguments.patch}"
    print(f"{name}: {count_parameters(trainer.net):,} parameters, zero-filled {zero_filled:.2f} dB", flush=True)
    log = ROOT / "runs" / "curves" / f"{name}.jsonl"
    run(trainer, validation, zero_filled, log, steps=arguments.steps, every=arguments.every)


if __name__ == "__main__":
    main()
