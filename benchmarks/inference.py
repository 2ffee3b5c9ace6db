"""Seconds that `fedmr infer` needs for a volume, as a ratio to the plain loop over its slices.

    python benchmarks/inference.py [--model MODEL] [--slices 128]

The plain loop is PyTorch as one writes it first: contiguous NCHW, one slice at a time, 32 bits. The ways to compute
take turns on a few slices each until the volume is done, so that what else runs on the machine meets all of them alike.
Needs no data; the table goes to benchmarks/results.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from fedmr.card import make_card
from fedmr.circumstances import ROOT, circumstances
from fedmr.config import Task
from fedmr.infer import infer
from fedmr.jobs import read_task
from fedmr.models import Model, load_model, save_model
from fedmr.nets import build
from fedmr.super_resolution import super_resolve
from fedmr.tiles import BATCH_PIXELS, SliceNetwork

SIDE = 256
TURN = 4  # slices per turn
JOB = ROOT / "jobs" / "mscan_fedavg"

Way = Callable[[Tensor], Tensor]


def ways(model: Model, device: str) -> dict[str, Way]:
    """Functions from LR slices (S, h, w) to SR slices, by what they are; the plain loop first."""
    net, scale = model.net.to(device), model.task.scale
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format).eval()

    @torch.no_grad()
    def loop(low: Tensor) -> Tensor:
        return torch.cat([plain(part[None, None].to(device)).cpu()[0] for part in low]).clamp_min(0)

    def batched(network: SliceNetwork) -> Way:
        """In the batches of `infer_volume.SuperResolver`."""
        return lambda low: torch.cat([network(part) for part in low.split(max(1, BATCH_PIXELS // low[0].numel()))])

    fast = SliceNetwork(net, scale, exact=False)
    return {
        "plain loop over slices": loop,
        "`training.super_resolve` (evaluation)": lambda low: super_resolve(net, low, (scale * SIDE, scale * SIDE)),
        "`fedmr infer`, 32 bits": batched(SliceNetwork(net, scale)),
        f"`fedmr infer --fast`, {'16-bit convolutions' if fast.fast else '32 bits: no 16-bit hardware'}": batched(fast),
        "`fedmr infer --tile 128`, 32 bits": batched(SliceNetwork(net, scale, tile=128)),
    }


def measure(functions: dict[str, Way], volume: Tensor) -> dict[str, tuple[list[float], float]]:
    """Seconds per turn, and the largest difference from the first way."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    worst = dict.fromkeys(functions, 0.0)
    for function in functions.values():
        function(volume[:1])  # the first call sets up kernels and memory
    for part in volume.split(TURN):
        results = {}
        for name, function in functions.items():
            started = time.perf_counter()
            results[name] = function(part)
            times[name].append(time.perf_counter() - started)
        reference = next(iter(results.values()))
        worst = {name: max(worst[name], float((r - reference).abs().max())) for name, r in results.items()}
    return {name: (times[name], worst[name]) for name in functions}


def command_seconds(model: Model, volume: Tensor) -> float:
    """Time of `fedmr infer` on a compressed file, reading and writing included, program start not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model.pt", model)
        voxels = (1000 * volume.permute(1, 2, 0).numpy()).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.5, 1.0])), folder / "in.nii.gz")
        started = time.perf_counter()
        infer(folder / "model.pt", folder / "in.nii.gz", folder / "out.nii.gz")
        return time.perf_counter() - started


def rows(functions: dict[str, Way], volume: Tensor) -> list[str]:
    """The table: per way seconds per volume and the median over turns of the ratio to the plain loop."""
    measured = measure(functions, volume)
    base = next(iter(measured.values()))[0]
    lines = ["| way | seconds per volume | times as fast | largest difference |", "|---|---|---|---|"]
    for name, (times, worst) in measured.items():
        faster = statistics.median(b / t for b, t in zip(base, times, strict=True))
        lines.append(f"| {name} | {statistics.median(times) * len(times):.1f} | {faster:.2f} | {worst:.1g} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--slices", type=int, default=128)
    arguments = parser.parse_args()
    facts, device = circumstances(), "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.model:
        model = load_model(arguments.model)
    else:
        task = Task.from_dict(read_task(JOB))
        model = Model(build(**task.network), make_card(task))
        nn.init.normal_(model.net.get_parameter("tail.weight"), std=0.01)
    # smooth, as scans are: noise alone would be the worst case for rounding
    noise = torch.rand(arguments.slices, 1, SIDE + 4, SIDE + 4, generator=torch.Generator().manual_seed(0))
    volume = nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0]
    lines = rows(ways(model, device), volume)
    whole = command_seconds(model, volume)
    facts |= {
        "network": str(dict(model.task.network)),
        "volume": f"{SIDE} x {SIDE} x {arguments.slices} voxels, x{model.task.scale} in the slice plane",
        "device": f"{device}, {torch.get_num_threads()} threads, load of the machine {os.getloadavg()[0]:.1f}",
    }
    head = ["# fedmr infer", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    tail = [
        "",
        f"Medians over turns of {TURN} slices. Differences are from the plain loop, of intensities about [0, 1].",
        f"The whole of `fedmr infer` on a .nii.gz file, reading, writing and packing included: {whole:.1f} s.",
    ]
    target = ROOT / "benchmarks" / "results" / ("inference.md" if device == "cpu" else f"inference_{device}.md")
    target.write_text("\n".join([*head, *lines, *tail, ""]))
    print(target.read_text())


if __name__ == "__main__":
    main()
