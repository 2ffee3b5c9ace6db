"""Membership by a likelihood ratio with 64 shadow models on the demo hospitals, and canaries for DP-SGD.

    python benchmarks/membership.py [--data data] [--models 64]

Every model trains on half of the scans, drawn anew, each of them cut to its middle; small networks and few steps, so
that 64 of them take minutes. Scans stand for patients: the simulated hospitals have one a patient.
"""

import argparse
from pathlib import Path

import nibabel
import numpy as np
import torch
from common import facts, table, write_page

from fedmr.audit.canary import Setting, epsilon_at_least, scores
from fedmr.audit.likelihood_ratio import likelihood_ratios, power_of
from fedmr.data.datalist import read_datalist, site_folders
from fedmr.nets import build
from fedmr.physics.degradation import degrade
from fedmr.privacy.accountant import sampled_epsilon
from fedmr.utils.environment import ROOT

DELTA = 1e-3
SETTINGS = (Setting(1.0, 1.0, 3), Setting(1.0, 0.25, 12), Setting(2.0, 0.25, 12))


def examples(data: Path, size: int = 48) -> torch.Tensor:
    """The centre of every scan's middle slice, (N, 1, size, size), at most 1."""
    found = []
    for folder in site_folders(data):
        for entry in read_datalist(folder)["volumes"]:
            voxels = nibabel.load(folder / entry["image"]).dataobj
            image = np.asarray(voxels[:, :, voxels.shape[2] // 2], dtype=np.float32)
            y, x = ((n - size) // 2 for n in image.shape)
            found.append(image[y : y + size, x : x + size] / image.max())
    return torch.as_tensor(np.stack(found))[:, None]


def train(low: torch.Tensor, high: torch.Tensor, members: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """L1 loss on every example of a network that was trained on some."""
    net = build(name="mscan", scale=2, grid="pixel0", channels=8, blocks=1, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    rng, own = np.random.default_rng(seed), np.flatnonzero(members)
    for _ in range(steps):
        batch = rng.choice(own, size=4, replace=False)
        loss = (net(low[batch]) - high[batch]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return (net(low) - high).abs().mean(dim=(1, 2, 3)).double().numpy()


def membership_rows(data: Path, models: int) -> list[list[str]]:
    """Rows of the table: the loss alone, and the likelihood ratio, after few and many steps."""
    high = examples(data)
    low = degrade(high, 2)
    rows = []
    for steps in (30, 120):
        rng = np.random.default_rng(steps)
        members = np.stack([rng.permutation(len(high)) < len(high) // 2 for _ in range(models)])
        losses = np.stack([train(low, high, row, steps, seed) for seed, row in enumerate(members)])
        for name, found in (("loss", -losses), ("likelihood ratio", likelihood_ratios(losses, members))):
            power = power_of(found, members)
            interval = f"{power.low:.3f} to {power.high:.3f}"
            low_rate = f"{100 * power.at_low_rate:.1f} %"
            rows.append([str(steps), name, f"{power.auc:.3f}", interval, low_rate, str(power.trials)])
        print(rows[-2:], flush=True)
    return rows


def canary_rows(trainings: int = 2000) -> list[list[str]]:
    """Rows of the table: the stated epsilon and what the attack shows."""
    rows = []
    for setting in SETTINGS:
        rng = np.random.default_rng(0)
        present, absent = (scores(setting, trainings, present=there, rng=rng) for there in (True, False))
        stated = sampled_epsilon([(setting.noise_multiplier, setting.rate, setting.steps)], DELTA)
        shown = epsilon_at_least(present, absent, DELTA)
        numbers = [setting.noise_multiplier, setting.rate, setting.steps]
        rows.append([*(f"{n:g}" for n in numbers), f"{stated:.2f}", f"{shown:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--models", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    canaries = canary_rows()
    print(canaries, flush=True)
    rows = membership_rows(arguments.data, arguments.models)
    known = facts(models=str(arguments.models), delta=f"{DELTA:g}", trainings="2000 with the canary and 2000 without")
    write_page(
        "membership",
        "Membership and canaries",
        known,
        "Was a scan in the training data? Every model is attacked with all the others as shadows.",
        table(["steps", "score", "AUC", "95 %", "members found at 1 % false", "trials"], rows),
        "DP-SGD with a unit that always sends the largest gradient, and the epsilon that an attack on it shows with 95 "
        "% confidence; the stated one must be above it.",
        table(["noise", "rate", "steps", "stated epsilon", "shown at least"], canaries),
    )


if __name__ == "__main__":
    main()
