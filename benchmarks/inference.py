"""Seconds that `fedmr infer` needs for a volume, as a ratio to the plain loop over its slices.

    python benchmarks/inference.py [--model MODEL] [--slices 128]

The plain loop is PyTorch as one writes it first: contiguous NCHW, one slice at a time, 32 bits. The ways to compute
take turns on a few slices each until the volume is done, so that what else runs on the machine meets all of them alike.
Needs no data; the table goes to benchmarks/results.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from common import facts, table, write_page
from torch import Tensor, nn
from training_step import make, networks

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.federation.render import read_task
from fedmr.inference.infer import infer
from fedmr.inference.tiling import BATCH_PIXELS, SliceNetwork
from fedmr.nets import build
from fedmr.tasks.registry import build_task
from fedmr.tasks.super_resolution import super_resolve
from fedmr.utils.environment import ROOT

SIDE = 256
TURN = 4  # slices per turn
JOB = ROOT / "jobs" / "mscan_fedavg"

Way = Callable[[Tensor], Tensor]


def ways(model: Model, device: str) -> dict[str, Way]:
    """Functions from LR slices (S, h, w) to SR slices, by what they are; the plain loop first."""
    net, scale = model.net.to(device), model.task.scale
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format).eval()

    @torch.no_grad()
    def loop(network: Way, low: Tensor) -> Tensor:
        return torch.cat([network(part[None, None].to(device)).cpu()[0] for part in low]).clamp_min(0)

    def batched(network: SliceNetwork) -> Way:
        """In the batches of `infer_volume.SuperResolver`."""
        return lambda low: torch.cat([network(part) for part in low.split(max(1, BATCH_PIXELS // low[0].numel()))])

    fast = SliceNetwork(net, scale, exact=False)
    return {
        "plain loop over slices": partial(loop, plain),
        "the same, channels_last": partial(loop, net.eval()),
        "the same, torch.compile": partial(loop, torch.compile(plain)),
        "`training.super_resolve` (evaluation)": lambda low: super_resolve(
            net, low, (scale[0] * SIDE, scale[1] * SIDE)
        ),
        "`fedmr infer`, 32 bits": batched(SliceNetwork(net, scale)),
        f"`fedmr infer --fast`, {'16-bit convolutions' if fast.fast else '32 bits: no 16-bit hardware'}": batched(fast),
        "`fedmr infer --tile 128`, 32 bits": batched(SliceNetwork(net, scale, tile=128)),
    }


def by_size(size: str, device: str) -> dict[str, Way]:
    """Slices through networks of the benchmark of training, EDSR first."""
    others = [title for title in networks(size) if title not in ("EDSR", "U-Net")]
    return {f"{title}, {size} size": SliceNetwork(make(size, title).to(device), 2) for title in ("EDSR", *others)}


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


def rows(functions: dict[str, Way], volume: Tensor) -> list[list[str]]:
    """Per way milliseconds per slice, the median over turns of the ratio to the first, and the difference from it."""
    measured = measure(functions, volume)
    base = next(iter(measured.values()))[0]
    cells = []
    for name, (times, worst) in measured.items():
        faster = statistics.median(b / t for b, t in zip(base, times, strict=True))
        cells.append([name, f"{1000 * statistics.median(times) / TURN:.0f}", f"{faster:.2f}", f"{worst:.1g}"])
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--slices", type=int, default=128)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.model:
        model = load_model(arguments.model)
    else:
        task = build_task(read_task(JOB))
        model = Model(build(**task.network), make_card(task))
        nn.init.normal_(model.net.get_parameter("tail.weight"), std=0.01)
    # smooth, as scans are: noise alone would be the worst case for rounding
    noise = torch.rand(arguments.slices, 1, SIDE + 4, SIDE + 4, generator=torch.Generator().manual_seed(0))
    volume = nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0]
    by_way = rows(ways(model, device), volume)
    by_network = [row[:3] for size in ("demo", "paper") for row in rows(by_size(size, device), volume[: 4 * TURN])]
    whole = command_seconds(model, volume)
    known = facts(device=device) | {
        "network": str(dict(model.task.network)),
        "volume": f"{SIDE} x {SIDE} x {arguments.slices} voxels, x{model.task.scale[0]} in the slice plane",
        "threads": str(torch.get_num_threads()),
    }
    note = (
        f"Medians over turns of {TURN} slices. Differences are from the plain loop, of intensities about [0, 1]. The "
        f"whole of `fedmr infer` on a .nii.gz file, reading, writing and packing included: {whole:.1f} s. Networks: as "
        "`fedmr infer` runs them, 32 bits; sizes as in the benchmark of a training step."
    )
    head = ["way", "ms per slice", "times as fast", "largest difference"]
    peers = table(["network", "ms per slice", "times as fast as EDSR"], by_network)
    write_page("inference", "fedmr infer", known, table(head, by_way), peers, note)


if __name__ == "__main__":
    main()
