"""How large FL-MRCM's adversarial gradient is beside that of the reconstruction, at one source site over four rounds.

    python benchmarks/studies/reconstruction_gradients.py runs/real_small --source site-1 --target site-4

The site trains plainly, as in the study of reconstruction: the adversarial term, at weight 1, is measured and left out,
while the identifier learns. The target's latents are renewed every round, as they are in a job.
"""

import argparse
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from fedmr.algorithms.flmrcm import LATENTS, CrossSiteModelling
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.registry import build_task
from fedmr.tasks.slices import SliceSampler
from fedmr.training.target_latents import site_latents
from fedmr.training.trainer import Trainer

ROUNDS, VECTORS = 4, 64
TASK = {
    "network": {"name": "unet", "channels": 8, "skip": True, "seed": 0},
    "mask": {"kind": "random", "acceleration": 4, "center_fraction": 0.08},
    "size": 96, "batch_size": 2, "local_epochs": 2, "learning_rate": 4e-3, "final_learning_rate": 1e-5,
}  # fmt: skip
_ENCODER = ("down", "bottleneck")


class Probe(CrossSiteModelling):
    """Keeps the norms of both gradients at the encoder, and the cosine between them."""

    def __init__(self) -> None:
        super().__init__(weight=1.0)
        self.steps: list[tuple[float, float, float]] = []

    def add_loss(self, net: nn.Module, loss: Tensor) -> Tensor:
        """The loss as it was."""
        encoder = [p for name, p in net.named_parameters() if name.startswith(_ENCODER)]
        own = _gradient(loss, encoder)
        adversarial = _gradient(super().add_loss(net, loss) - loss, encoder)
        cosine = nn.functional.cosine_similarity(own, adversarial, dim=0)
        self.steps.append((float(own.norm()), float(adversarial.norm()), float(cosine)))
        return loss


def _gradient(value: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data root that smaller_scans.py made")
    parser.add_argument("--source", default="site-1")
    parser.add_argument("--target", default="site-4")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = build_task(TASK)
    assert isinstance(task, ReconstructionTask)
    source, target = (task.load(arguments.data / s, ("train",)) for s in (arguments.source, arguments.target))
    probe, given = Probe(), SliceSampler(target, task)
    trainer = Trainer(task, task.sampler(source), rounds=ROUNDS, hooks=[probe])
    print("| round | reconstruction | adversarial, weight 1 | ratio | cosine |\n| --- | ---: | ---: | ---: | ---: |")
    for number in range(ROUNDS):
        probe.steps.clear()
        probe.receive({LATENTS: site_latents(trainer.net, given, vectors=VECTORS, number=number)})
        trainer.run_round()
        steps = [step for step in probe.steps if step[0]]  # the decoder's zero head passes nothing on in the first step
        own, adversarial, cosine = (median(column) for column in zip(*steps, strict=True))
        ratio = median(a / o for o, a, _ in steps)
        print(f"| {number} | {own:.3f} | {adversarial:.3f} | {ratio:.0f} | {cosine:+.2f} |", flush=True)


if __name__ == "__main__":
    main()
