"""Hostile sites among four demo hospitals: what the final model is worth at the honest ones, and who was named.

    python benchmarks/hostile.py [--data data] [--rounds 6] [--rows NAME ...]

One process, without a network: FLARE's own controller, executor and messages, the job's guard, aggregator and learner.
The data are made by `fedmr demo-data` with six sites, of which the middle is taken; site-1 to site-4 are honest. The
network is smaller than the job's too, so that a row takes seconds. The table goes to benchmarks/results.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import torch
from common import facts, table, write_page
from nvflare.apis.dxo import DXO, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.executors.learner_executor import LearnerExecutor

from fedmr.data.datalist import DATA_ROOT_VARIABLE, present_splits
from fedmr.federation.render import read_task
from fedmr.flare.aggregators import WeightedAggregator
from fedmr.flare.guard import ServerGuard
from fedmr.flare.learner import SiteLearner
from fedmr.flare.messages import VALIDATION_SPLIT
from fedmr.nets import build
from fedmr.runs.records import read_rejections
from fedmr.tasks.base import Task
from fedmr.tasks.registry import build_task
from fedmr.training.trainer import evaluate
from fedmr.utils.environment import ROOT

sys.path.append(str(ROOT / "tests" / "support"))
from server import UndoingServer

HONEST = ("site-1", "site-2", "site-3", "site-4")
SMALL = {"patches_per_slice": 3, "network": {"channels": 16, "blocks": 2}}

# changes an update in place; gets its round and number of rounds
Attack = Callable[[DXO, int, int, dict[str, Any]], None]


def _times(factor: float, rounds: Callable[[int, int], bool] = lambda _, __: True) -> Attack:
    def attack(dxo: DXO, number: int, last: int, _: dict[str, Any]) -> None:
        if rounds(number, last):
            dxo.data = {name: value * np.float32(factor) for name, value in dxo.data.items()}

    return attack


def _steps(factor: int, norm: float = 1.0) -> Attack:
    def attack(dxo: DXO, number: int, last: int, memory: dict[str, Any]) -> None:
        _times(norm)(dxo, number, last, memory)
        steps = dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)
        dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, factor * steps)

    return attack


def _noise(dxo: DXO, number: int, *_: Any) -> None:
    """Three times as long as the update."""
    rng = np.random.default_rng(number)
    drawn = {name: rng.normal(size=np.shape(value)) for name, value in dxo.data.items()}
    length = [np.sqrt(sum(float(np.square(v).sum()) for v in values.values())) for values in (dxo.data, drawn)]
    dxo.data = {name: np.float32(value * 3 * length[0] / length[1]) for name, value in drawn.items()}


def _replay(dxo: DXO, _: int, __: int, memory: dict[str, Any]) -> None:
    dxo.data = memory.setdefault("first", dxo.data)


def _signs(dxo: DXO, *_: Any) -> None:
    dxo.data = {name: np.sign(value).astype(np.int8) for name, value in dxo.data.items()}


def _false_psnr(dxo: DXO, number: int, *_: Any) -> None:
    dxo.set_meta_prop(MetaKey.INITIAL_METRICS, {"psnr": 99.0 if number == 1 else 1.0})


def _together(dxo: DXO, number: int, *_: Any) -> None:
    """The same for all that take part: minus three times the first one's length in one direction."""
    rng = np.random.default_rng(7)
    dxo.data = {
        name: np.float32(-3 * np.abs(value) * np.sign(rng.normal(size=np.shape(value))))
        for name, value in dxo.data.items()
    }


ATTACKS: dict[str, Attack] = {
    "zeros": _times(0),
    "sign flip": _times(-1),
    "-6 times": _times(-6),
    "-8 times": _times(-8),
    "-9 times": _times(-9),
    "-30 times": _times(-30),
    "-8 times in round 0 only": _times(-8, lambda number, _: number == 0),
    "-8 times in the last round only": _times(-8, lambda number, last: number == last),
    "60 times the steps": _steps(60),
    "60 times the steps, -1 times": _steps(60, -1),
    "300 times the norm, 60 times the steps": _steps(60, 300),
    "noise": _noise,
    "replay of the first update": _replay,
    "int8 signs": _signs,
    "false PSNR": _false_psnr,
    "rotated training images": _times(1),
    "inverted training images": _times(1),
}
IMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rotated training images": lambda image: image[::-1, ::-1],
    "inverted training images": lambda image: image.max() - image,
}


class Site:
    """A site in this process: FLARE's executor and the learner, with an attack on what it sends."""

    def __init__(self, home: Path, task: Task, rounds: int, attack: Attack | None) -> None:
        for folder in ("startup", "local", "job"):
            (home / folder).mkdir(parents=True)
        workspace = Workspace(str(home), site_name=home.name)
        learner = SiteLearner(task.to_dict(), threads=1)
        engine = SimpleNamespace(
            get_workspace=lambda: workspace, get_component=lambda _: learner, get_all_components=dict
        )
        self.attack, self.last, self.memory = attack, rounds - 1, dict[str, Any]()
        self.executor, self.fl_ctx = LearnerExecutor("learner"), FLContext()
        self.fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True)
        self.fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, home.name)
        self.fl_ctx.set_prop(ReservedKey.RUN_NUM, "job")

    def __call__(self, message: Shareable) -> Shareable:
        name = "validate" if message.get_header(VALIDATION_SPLIT) else "train"
        reply = self.executor.execute(name, message, self.fl_ctx, Signal())
        if self.attack is None or name == "validate":
            return reply
        dxo = from_shareable(reply)
        self.attack(dxo, message.get_header(AppConstants.CURRENT_ROUND), self.last, self.memory)
        return dxo.to_shareable()


def run(task: Task, sites: dict[str, Attack | None], rounds: int, aggregator: Aggregator) -> dict[str, Any]:
    """Final dB at the honest sites' test volumes, and who was left out how often."""
    folder = Path(tempfile.mkdtemp())
    answers = {name: Site(folder / name, task, rounds, attack) for name, attack in sites.items()}
    guard = ServerGuard({"learning_rate": task.learning_rate}, 2)
    server = UndoingServer(folder / "server", answers, guard, aggregator=aggregator, rounds=rounds)
    initial = {name: value.numpy() for name, value in build(**task.network).state_dict().items()}
    weights = server.train(initial)
    net = build(**task.network)
    net.load_state_dict({name: torch.as_tensor(np.asarray(value)) for name, value in weights.items()})
    root = Path(os.environ[DATA_ROOT_VARIABLE])
    honest = [site for site, attack in sites.items() if attack is None]
    tested = [site for site in honest if "test" in present_splits(root / site)]
    found = {site: evaluate(net, task.load(root / site, ("test",)), task)["model"]["psnr"] for site in tested}
    left_out = [record["site"] for record in read_rejections(server.run_folder)]
    shutil.rmtree(folder)
    return {
        "psnr": float(np.mean(list(found.values()))),
        "by site": found,
        "left out": {site: left_out.count(site) for site in sorted(set(left_out))},
        "ended": server.panic,
    }


def middle(image: np.ndarray) -> np.ndarray:
    """64 x 64 pixels of four slices around the centre."""
    kept = tuple(slice(max(n // 2 - m, 0), n // 2 + m) for n, m in zip(image.shape, (32, 32, 2), strict=True))
    return image[kept]


def with_images(data: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The data root with the middle of every scan, those of site-5 changed."""
    shutil.copytree(data, target)
    for path in target.rglob("*.nii.gz"):
        image = nibabel.load(path)
        taken = middle(np.asarray(image.dataobj))
        taken = np.ascontiguousarray(change(taken) if "site-5" in path.parts else taken)
        nibabel.save(nibabel.Nifti1Image(taken, image.affine), path)
    return target


def rows_of(task: Task, data: Path, rounds: int, wanted: list[str]) -> dict[str, dict[str, Any]]:
    """All rows; the first is the run without a hostile site."""
    results = {}
    cases: dict[str, dict[str, Attack | None]] = {"without": dict.fromkeys(HONEST)}
    cases |= {name: dict.fromkeys(HONEST) | {"site-5": attack} for name, attack in ATTACKS.items()}
    cases["a pair against four"] = dict.fromkeys(HONEST) | {"site-5": _together, "site-6": _together}
    cases["two of the four, without"] = dict.fromkeys(HONEST[:2])
    cases["two of the four"] = dict.fromkeys(HONEST[:2]) | {"site-3": _together, "site-4": _together}
    for name, sites in cases.items():
        if wanted and name not in wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            root = with_images(data, Path(folder) / "data", IMAGES.get(name, np.asarray))
            os.environ[DATA_ROOT_VARIABLE] = str(root)
            results[name] = run(task, sites, rounds, WeightedAggregator())
        print(name, json.dumps(results[name]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", nargs="*", default=[])
    parser.add_argument(
        "--write", type=Path, nargs="*", help="make the page of rows that were printed into these files"
    )
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    task = read_task(ROOT / "jobs" / "mscan_fedavg")
    task = build_task(task | SMALL | {"network": task["network"] | SMALL["network"]})
    if arguments.write:
        printed = [line for path in arguments.write for line in path.read_text().splitlines() if '"psnr"' in line]
        lines = [line.partition(" {") for line in printed]
        known = {name: json.loads("{" + rest) for name, _, rest in lines}
        order = ["without", *ATTACKS, *(name for name in known if name not in ATTACKS)]
        results = {name: known[name] for name in dict.fromkeys(order) if name in known}
    else:
        results = rows_of(task, arguments.data.resolve(), arguments.rounds, arguments.rows)
    if "without" in results:
        write(results, arguments.rounds)


def write(results: dict[str, dict[str, Any]], rounds: int) -> None:
    """Write benchmarks/results/hostile.md."""
    rows = []
    for name, found in results.items():
        base = results["two of the four, without" if name.startswith("two") else "without"]["psnr"]
        named = ", ".join(f"{site} in {times}" for site, times in found["left out"].items()) or "-"
        rows.append([name, f"{found['psnr']:.2f}", f"{found['psnr'] - base:+.2f}", named, found["ended"] or "-"])
    known = facts(rounds=str(rounds), sites="four honest, and the hostile", network=json.dumps(SMALL))
    text = (
        "Mean PSNR of the final model over the honest sites' test volumes, and who was left out in how many rounds. Of "
        "what a site that is not left out can do the caps on weight and norm are the bound. "
        "Two that agree against two cannot be told from them, by anybody."
    )
    head = ["site-5 sends", "dB", "against without", "left out, rounds", "job ended"]
    write_page("hostile", "Hostile sites", known, text, table(head, rows))


if __name__ == "__main__":
    main()
