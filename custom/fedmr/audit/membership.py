"""Membership test for the leakage audit: can the loss tell a patch that was trained on from one that was not?

Yeom et al., "Privacy risk in machine learning" (CSF 2018, arXiv 1709.01604): trained-on examples have a lower loss.
An easy patch has a low loss too, so the loss is also taken relative to that of interpolation (difficulty calibration,
Watson et al., ICLR 2022, arXiv 2111.08440).
"""

from collections.abc import Sequence

import torch
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from torch import Tensor, nn

from fedmr.physics.degradation import interpolate
from fedmr.tasks.patches import PatchSampler, Volume
from fedmr.tasks.super_resolution import SuperResolutionTask


def auc(members: Tensor, others: Tensor) -> float:
    """Chance that a member's score is above another's (area under the ROC curve); ties count half.

    Args:
        members: (M,) scores.
        others: (N,) scores.

    Raises:
        ValueError: one of them is empty.
    """
    if not len(members) or not len(others):
        raise ValueError("a membership test needs scores of members and of others")
    truth = [1] * len(members) + [0] * len(others)
    return float(roc_auc_score(truth, torch.cat([members, others]).double().numpy()))


@torch.no_grad()
def patch_losses(net: nn.Module, volume: Volume, task: SuperResolutionTask) -> tuple[Tensor, Tensor]:
    """L1 losses of the network and of interpolation on patches of a volume, (P,) each."""
    net.eval()
    losses, easy = [], []
    for low, high in PatchSampler([volume], task).epoch(0):
        losses.append((net(low) - high).abs().mean(dim=(1, 2, 3)))
        easy.append((interpolate(low, task.scale, task.grid) - high).abs().mean(dim=(1, 2, 3)))
    return torch.cat(losses), torch.cat(easy)


def membership(net: nn.Module, volumes: Sequence[Volume], task: SuperResolutionTask) -> dict[str, float]:
    """AUC of telling training patches, and training volumes, from others; 0.5 is guessing.

    Args:
        net: trained network.
        volumes: those of the split train are the members.
        task: of the network.

    Returns:
        by loss and by loss relative to interpolation's, of patches and of volumes (mean over their patches), and the
        numbers of volumes.
    """
    scores: dict[str, tuple[list[Tensor], list[Tensor]]] = {"loss": ([], []), "relative": ([], [])}
    for volume in volumes:
        loss, easy = patch_losses(net, volume, task)
        group = 0 if volume.split == "train" else 1
        scores["loss"][group].append(-loss)
        scores["relative"][group].append(-loss / easy.clamp_min(1e-6))
    result: dict[str, float] = {}
    for name, (members, others) in scores.items():
        result[f"{name}_patches"] = auc(torch.cat(members), torch.cat(others))
        result[f"{name}_volumes"] = auc(
            torch.stack([m.mean() for m in members]), torch.stack([o.mean() for o in others])
        )
    return result | {"members": len(scores["loss"][0]), "others": len(scores["loss"][1])}
