"""Leakage audit: what attackers on the server's side can rebuild from what a site sends, with and without protection.

The site is real: its patches, its optimiser, its clipping. Of the update of a site that the server sees, attacks of
`audit.inversion` recover the low-resolution patch, the network's input. Where the attacker has a number to choose, the
strength of its smoothing, the audit takes the one that comes nearest to the private patch: a bound on what this attack
can do, not on what attacks can do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmr.audit import inversion
from fedmr.audit.inversion import LinearAttack, crafted_weights, gradient_from_adam, to_flat
from fedmr.audit.membership import membership
from fedmr.federation.render import read_task
from fedmr.metrics import psnr, ssim
from fedmr.nets import build
from fedmr.nets.mscan import MSCAN
from fedmr.privacy.mechanism import Protection
from fedmr.tasks.patches import PatchSampler, Volume
from fedmr.tasks.registry import build_task, expect
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.training.engine import fit
from fedmr.training.trainer import Trainer
from fedmr.utils.progress import Progress

RECOGNISABLE_PSNR, RECOGNISABLE_SSIM = 20.0, 0.5
SITES = 4  # whose mean a colluding site decrypts
BATCH = 8
_SLOPE = {"sgd": 1.0, "adam": 1e-6}  # gradients as large as clipping lets them be; about Adam's epsilon
_UNRELATED = 500  # patches of other patients


@dataclass(frozen=True)
class Row:
    """One attack: who attacked what, behind which protection, and how near the best match came (dB, [-1, 1])."""

    attacker: str
    sent: str
    protection: str
    psnr: float
    ssim: float
    private: Tensor
    recovered: Tensor

    @property
    def recognisable(self) -> bool:
        """Whether somebody would know the patch again."""
        return self.psnr >= RECOGNISABLE_PSNR and self.ssim >= RECOGNISABLE_SSIM

    def figures(self) -> dict[str, Any]:
        """Return the row without its images."""
        kept = {k: v for k, v in asdict(self).items() if not isinstance(v, Tensor)}
        return kept | {"recognisable": self.recognisable}


@dataclass(frozen=True)
class Audit:
    """Rows of the inversion, and of the membership test its AUCs."""

    rows: list[Row]
    membership: dict[str, float]


class Victim:
    """A site under attack: what it sends, given the server's weights.

    Args:
        task: of the job.
        volumes: the site's.
        seed: which patches are attacked.
    """

    def __init__(self, task: SuperResolutionTask, volumes: Sequence[Volume], seed: int = 0) -> None:
        self.task, self.seed = task, seed
        self.sampler = PatchSampler([v for v in volumes if v.split == "train"], task)
        self.others = PatchSampler([v for v in volumes if v.split != "train"], task)

    def patches(self, count: int, sampler: PatchSampler | None = None) -> tuple[Tensor, Tensor]:
        """LR (count, 1, p, p) and HR patches as training takes them; the first are the same for any count."""
        sampler = sampler or self.sampler
        low, high = [], []
        for number in range(count):
            generator = torch.Generator().manual_seed(1000 * self.seed + number)
            chosen = torch.randint(sampler.n_slices, (1,), generator=generator)
            where = torch.rand(1, generator=generator, dtype=torch.float64)
            pair = sampler.gather(chosen, where, torch.zeros(3, 1, dtype=torch.bool))
            low.append(pair[0])
            high.append(pair[1])
        return torch.cat(low), torch.cat(high)

    def trainer(self, weights: Mapping[str, Tensor]) -> Trainer:
        """Return a fresh trainer of the site with the received weights, shaped as in the network."""
        trainer = Trainer(self.task, self.sampler, rounds=10)
        trainer.net.load_state_dict(weights)
        return trainer

    def step(self, weights: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], optimizer: str) -> Tensor:
        """Return the update (parameters,) after one step on a batch of LR (N, 1, p, p) and HR (N, 1, s*p, s*p).

        The step is made by the site's own optimiser ("adam") or by plain SGD ("sgd").
        """
        trainer = self.trainer(weights)
        chosen, schedule = trainer.optimizer, trainer.schedule
        if optimizer == "sgd":
            chosen = torch.optim.SGD(trainer.net.parameters(), lr=self.task.learning_rate)
            schedule = torch.optim.lr_scheduler.ConstantLR(chosen, factor=1)
        before = to_flat(trainer.net.parameters())
        fit(trainer.net, [batch], trainer.loss, optimizer=chosen, schedule=schedule, clip_norm=self.task.clip_norm)
        return to_flat(trainer.net.parameters()) - before

    def epoch(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, int, nn.Module]:
        """Return the update (parameters,) after a full local epoch, its number of steps, and the trained network."""
        trainer = self.trainer(weights)
        before = to_flat(trainer.net.parameters())
        steps = trainer.run_epoch().steps
        return to_flat(trainer.net.parameters()) - before, steps, trainer.net

    @property
    def first_rate(self) -> float:
        """Learning rate of a round's first step."""
        return float(self.trainer(build(**self.task.network).state_dict()).optimizer.param_groups[0]["lr"])


def super_resolution_task(job: Path) -> SuperResolutionTask:
    """Return the task of a job.

    Raises:
        ValueError: the job does not train super-resolution.
        FileNotFoundError: no job there.
    """
    refusal = f"{job} does not train super-resolution; the audit's attacks are made for jobs such as mscan_fedavg"
    return expect(build_task(read_task(job)), SuperResolutionTask, refusal)


def audit(
    folder: Path,
    task: SuperResolutionTask,
    *,
    protections: Mapping[str, Protection],
    net: nn.Module | None = None,
    iterations: int = 300,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> Audit:
    """Attack a site.

    Args:
        folder: site folder; nothing is written there.
        task: super-resolution by MSCAN with Adam.
        protections: by name, what is done to an update before it leaves.
        net: model of a later round; if not given, the site trains a new one for an epoch.
        iterations: of the curious server's attack.
        seed: which patches are attacked.
        progress: called with what is done, parts done and all parts.

    Raises:
        DataError: a volume cannot be used, or one of the splits is empty.
        ValueError: the task is another.
    """
    empty = build(**task.network)
    if task.optimizer != "adam" or not task.loss.get("l1") or not isinstance(empty, MSCAN):
        raise ValueError("the audit's attacks are made for MSCAN, Adam and an L1 loss; give a job such as mscan_fedavg")
    volumes = task.load(folder)
    site = Victim(task, volumes, seed)
    if net is None:
        progress("training", 0, 1)
        net = site.epoch(empty.state_dict())[2]
    rows = [_knowing_nothing(site)]
    rows += _curious(site, net, iterations, progress)
    rows += _hostile(site, empty, protections, progress)
    progress("membership", 0, 1)
    return Audit(rows, membership(net, volumes, task))


def _knowing_nothing(site: Victim) -> Row:
    """Return the patch of another patient that is most like the private one."""
    private = site.patches(1)[0]
    return best_match(
        "nobody",
        "nothing",
        f"most like it of {_UNRELATED} others",
        private,
        list(site.patches(_UNRELATED, site.others)[0].split(1)),
    )


def _curious(site: Victim, net: nn.Module, iterations: int, progress: Progress) -> Iterator[Row]:
    low, high = site.patches(1)
    update = site.step(net.state_dict(), (low, high), "sgd")
    guess = inversion.match_gradients(
        net, -update, (1, 1, *low.shape[-2:]), iterations=iterations, progress=lambda *p: progress("curious server", *p)
    )
    yield best_match("curious server", "1 patch, 1 step of SGD", "none", low, [guess])


def _hostile(site: Victim, empty: MSCAN, protections: Mapping[str, Protection], progress: Progress) -> Iterator[Row]:
    crafted = {name: crafted_weights(empty, slope) for name, slope in _SLOPE.items()}
    empty.load_state_dict(crafted["sgd"])
    brightness = site.patches(_UNRELATED, site.others)[0].mean()
    attack = LinearAttack(empty, site.task.patch_size, lambda *p: progress("hostile server", *p))

    def row(sent: str, update: Tensor, private: Tensor, *, steps: int = 1, sgd: bool = False, by: str = "none") -> Row:
        shielded = update if by == "none" else _shield(protections[by], update, steps)
        gradient = -shielded if sgd else gradient_from_adam(shielded, site.first_rate)
        guesses = attack.recover(gradient)
        # where noise has drowned the scale, the attacker still knows how bright such patches are
        guesses += [guess * (brightness / guess.mean()) for guess in guesses]
        return best_match("hostile server", sent, by, private, guesses)

    low, high = site.patches(BATCH)
    single = {kind: site.step(crafted[kind], (low[:1], high[:1]), kind) for kind in crafted}
    for by in ("none", *protections):
        yield row("1 patch, 1 step of SGD", single["sgd"], low[:1], sgd=True, by=by)
    for by in ("none", *protections):
        yield row("1 patch, 1 step of Adam", single["adam"], low[:1], by=by)
    yield row(f"{BATCH} patches, 1 step of Adam", site.step(crafted["adam"], (low, high), "adam"), low)
    steps = [site.step(crafted["adam"], (low[i : i + 1], high[i : i + 1]), "adam") for i in range(SITES)]
    yield row(f"mean of {SITES} sites, each 1 patch, 1 step of Adam", torch.stack(steps).mean(dim=0), low[:SITES])
    update, count, _ = site.epoch(crafted["sgd"])
    everything = torch.cat([pair[0] for pair in site.sampler.epoch(0)])
    yield row("full local epoch", update, everything, steps=count, sgd=True)


def _shield(protection: Protection, update: Tensor, steps: int) -> Tensor:
    return torch.from_numpy(np.asarray(protection(update.double().numpy(), steps), dtype=np.float32))


def best_match(attacker: str, sent: str, protection: str, private: Tensor, guesses: Sequence[Tensor]) -> Row:
    """The guess and the private patch, of (N, 1, p, p) and several (1, 1, p, p), that are nearest to each other."""
    best: tuple[float, Tensor, Tensor] | None = None
    for guess in guesses:
        clean = guess.nan_to_num(0, 0, 0).clamp(0, 2)
        errors = (private - clean).square().mean(dim=(1, 2, 3)) / private.amax(dim=(1, 2, 3)).square()
        number = int(errors.argmin())
        if best is None or float(errors[number]) < best[0]:
            best = float(errors[number]), private[number], clean[0]
    assert best is not None
    _, target, found = best
    return Row(attacker, sent, protection, psnr(found, target), ssim(found, target), target[0], found[0])
