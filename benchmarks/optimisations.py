"""Savings of each optimisation, before and after in one run, and by how much the result differs.

    python benchmarks/optimisations.py [--turns 40]

Needs no data; the table goes to benchmarks/results.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from common import alone, facts, memory, table, write_page
from pyhocon import ConfigFactory, ConfigTree
from torch import Tensor, nn

from fedmr.federation.render import CLIENT_CONFIG
from fedmr.losses import WeightedSum
from fedmr.metrics import ssim
from fedmr.nets import build, mscan
from fedmr.nets.mscan import Fusion
from fedmr.utils.environment import ROOT
from fedmr.utils.hocon import read_hocon
from fedmr.utils.optimizers import OPTIMIZERS

SIZES = {"demo": {"channels": 32, "blocks": 4}, "paper": {"channels": 64, "blocks": 8}}
Step = Callable[[], Tensor]


class WeighedFeatures(nn.Conv2d):
    """The 1x1 convolution as it was: gains multiply the features."""

    def forward(self, features: Tensor, gains: Tensor) -> Tensor:
        return super().forward(features * gains[:, :, None, None])


def gradient_step(net: nn.Module) -> Step:
    """Forward and backward pass on a batch of the demo; returns the gradient."""
    generator, loss = torch.Generator().manual_seed(0), WeightedSum({"l1": 1.0, "sgp": 0.005})
    low, high = (torch.rand(4, 1, side, side, generator=generator) for side in (24, 48))

    def step() -> Tensor:
        net.zero_grad()
        loss(net(low), high).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    return step


def moved(size: str) -> nn.Module:
    """MSCAN away from its start, where attention and the last layer are zero."""
    net = build("mscan", **SIZES[size])
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
    return net


def fusions(size: str) -> tuple[Step, Step]:
    """MSCAN with attention's gains on the features, and in the weights."""
    after = moved(size)
    before = copy.deepcopy(after)
    for module in before.modules():
        if isinstance(module, Fusion):
            module.__class__ = WeighedFeatures
    return gradient_step(before), gradient_step(after)


def means(size: str) -> tuple[Step, Step]:
    """MSCAN with the features' averages by torch's mean, and by a sum."""
    after = gradient_step(moved(size))

    def before() -> Tensor:
        ours, mscan.spatial_mean = mscan.spatial_mean, lambda features: features.mean(dim=(2, 3))
        gradient = after()
        mscan.spatial_mean = ours
        return gradient

    return before, after


def adam(net: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> Step:
    """Steps on one gradient; returns the weights."""
    optimizer = make(net.parameters(), lr=2e-3)
    gradient_step(net)()

    def step() -> Tensor:
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    return step


def adams(size: str) -> tuple[Step, Step]:
    """torch's Adam as it comes, and ours."""
    net = build("mscan", **SIZES[size])
    return adam(copy.deepcopy(net), torch.optim.Adam), adam(net, OPTIMIZERS["adam"])


def similarities() -> tuple[Step, Step]:
    """SSIM of a demo volume in batches of 16 slices, and as it comes."""
    noise = torch.rand(24, 1, 204, 236, generator=torch.Generator().manual_seed(0))
    reference = nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0]
    prediction = 0.99 * reference
    return (
        lambda: torch.tensor(ssim(prediction, reference, batch=16)),
        lambda: torch.tensor(ssim(prediction, reference)),
    )


def configs() -> tuple[Step, Step]:
    """A job's config parsed for every reader, and for the first one; returns its text."""
    path = ROOT / "jobs" / "mscan_fedavg" / CLIENT_CONFIG

    def text(tree: ConfigTree) -> Tensor:
        return torch.tensor(list(str(tree).encode()), dtype=torch.float)

    return lambda: text(ConfigFactory.parse_file(path)), lambda: text(read_hocon(path))


def compare(before: Step, after: Step, turns: int) -> list[str]:
    """Cells: milliseconds before and after, ratio, largest difference of results."""
    seconds: list[tuple[float, float]] = []
    worst = 0.0
    for turn in range(turns + 3):
        taken, results = [], []
        for step in (before, after):
            started = time.process_time()
            results.append(step())
            taken.append(time.process_time() - started)
        worst = max(worst, float((results[0] - results[1]).abs().max()))
        if turn >= 3:  # the first set up kernels and memory
            seconds.append((taken[0], taken[1]))
    cells = [f"{1000 * statistics.median(column):.2f} ms" for column in zip(*seconds, strict=True)]
    return [*cells, f"{statistics.median(a / b for b, a in seconds):.2f}", f"{worst:.1g}"]


def first_step(ours: bool) -> tuple[float, float]:
    """Seconds of the processor and bytes that the first step of an optimiser costs a process."""
    net = build("mscan", **SIZES["demo"])
    gradient_step(net)()
    before, started = memory()[0], time.process_time()
    adam(net, OPTIMIZERS["adam"] if ours else torch.optim.Adam)()
    return time.process_time() - started, memory()[0] - before


def import_time(name: str) -> tuple[float, float]:
    """Seconds of the processor and bytes that an import costs a process that has torch."""
    before, started = memory()[0], time.process_time()
    __import__(name)
    return time.process_time() - started, memory()[0] - before


def at_start() -> list[list[str]]:
    """Rows of what a process saves once."""
    measured = {
        "a site without torch's compiler": (alone(first_step, False), alone(first_step, True)),
        "server and sites without scipy.special": (alone(import_time, "scipy.special"), (0.0, 0.0)),
    }
    rows = []
    for name, pair in measured.items():
        cells = [f"{seconds:.2f} s, {size / 2**20:.0f} MB" for seconds, size in pair]
        rows.append([name, *cells, f"{pair[1][0] / pair[0][0]:.2f}", "0"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    known, rows = facts(), []
    for size in SIZES:
        steps = fusions(size)
        rows.append([f"{size} size: attention's gains in the weights, not on the features", *compare(*steps, turns)])
        rows.append([f"{size} size: attention's averages by a sum", *compare(*means(size), turns)])
        rows.append([f"{size} size: Adam in one kernel", *compare(*adams(size), turns)])
    rows.append(["SSIM of few slices at a time", *compare(*similarities(), max(turns // 4, 1))])
    rows.append(["a job's config, read again", *compare(*configs(), max(turns // 4, 1))])
    head = ["optimisation", "before", "after", "after / before", "largest difference"]
    note = (
        "One thread, in turns, medians of the processor's time; batches of 4 patches of 24 x 24. Attention: forward "
        "and backward pass, difference of the gradient. Adam: a step on a kept gradient, difference of the weights "
        "over all steps. SSIM: of 24 slices of 200 x 232. Config: difference of the text. The last rows: what a "
        "process pays once, in seconds of the processor and memory."
    )
    write_page("optimisations", "Optimisations", known, table(head, [*rows, *at_start()]), note)


if __name__ == "__main__":
    main()
