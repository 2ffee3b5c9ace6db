"""Latents of sites: what a U-Net's bottleneck makes of their slices, how far it tells the sites apart, and a picture.

FL-MRCM (Guo et al., CVPR 2021, figure 5) aligns them, so that a domain classifier should fail. The identifier of its
training says nothing about that, since the encoder was trained against it; here a fresh one is fitted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmr.nets.unet import UNet
from fedmr.tasks.base import Task, Volume
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.registry import expect
from fedmr.tasks.slices import KspaceVolume, SliceSampler

Points = NDArray[np.float32]
SPLITS = ("train", "test")  # of the volumes that a classifier is fitted with and tested on
_BATCH = 8
_STEPS = 2000  # of the classifier's optimiser, at most
_COLUMNS = 4  # of panels side by side


@torch.no_grad()
def latents_of(net: UNet, volumes: Sequence[Volume], task: Task) -> Points:
    """The latents (N, 4C) of the volumes' slices, as training sees them: standardised, at the task's size.

    Masks are drawn slice by slice from one seed, so that two networks are given the same images. Slices that are mostly
    background are left out.

    Args:
        net: U-Net.
        volumes: of a reconstruction, of any split.
        task: gives the size.

    Raises:
        DataError: no slice holds enough foreground.
        ValueError: the task is no reconstruction.
    """
    expected = expect(task, ReconstructionTask, f"latents are those of a reconstruction, not of a {task.purpose} task")
    device = next(net.parameters()).device
    sampler = SliceSampler([v for v in volumes if isinstance(v, KspaceVolume)], expected, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.stack([sampler.pair(*where, generator)[0] for where in sampler.slices]).unsqueeze(1)
    net.eval()
    return torch.cat([net.latent(batch) for batch in images.split(_BATCH)]).cpu().numpy()


def pca(points: Points, components: int = 2) -> NDArray[np.float64]:
    """Principal components (N, components) of points (N, D), by falling variance; N and D at least `components`.

    The sign of each is such that its largest value is positive.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]

    found = PCA(components, svd_solver="full").fit_transform(points.astype(np.float64))
    largest = found[np.abs(found).argmax(axis=0), np.arange(components)]
    signed: NDArray[np.float64] = found * np.where(largest < 0, -1, 1)
    return signed


def domain_accuracy(train: Mapping[str, Points], test: Mapping[str, Points]) -> float:
    """How often a fresh classifier names the right site: in [0, 1], the mean over sites; chance is 1 / sites.

    It is a logistic regression on standardised latents, in which every site counts the same.

    Args:
        train: latents (N, D) by site to fit it with.
        test: latents of other patients by site, of the same sites, two at least.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.metrics import balanced_accuracy_score  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    names = sorted(train)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS, class_weight="balanced"))
    classifier.fit(np.concatenate([train[n] for n in names]), np.repeat(names, [len(train[n]) for n in names]))
    truth = np.repeat(names, [len(test[n]) for n in names])
    return float(balanced_accuracy_score(truth, classifier.predict(np.concatenate([test[n] for n in names]))))


def pair_accuracy(target: str, train: Mapping[str, Points], test: Mapping[str, Points]) -> float:
    """`domain_accuracy` of one other site and the target, mean over the other sites; chance is 1/2."""
    pairs = [(site, target) for site in train if site != target]
    found = [domain_accuracy({s: train[s] for s in pair}, {s: test[s] for s in pair}) for pair in pairs]
    return float(np.mean(found))


def draw_latents(panels: Mapping[str, Mapping[str, Points]], path: Path) -> None:
    """Write a panel for each title: the latents (N, D) by site in the plane of their own principal components."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    size = 2.6 * columns + 0.9, 2.5 * lines
    fig, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in grid.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, sites) in zip(grid.flat, panels.items(), strict=False):
        _scatter(axis, sites)
        axis.set_title(title, fontsize=8)
    fig.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    fig.savefig(path, dpi=90)
    plt.close(fig)


def _scatter(axis: Any, sites: Mapping[str, Points]) -> None:
    plane = pca(np.concatenate(list(sites.values())))
    ends = np.cumsum([len(points) for points in sites.values()])
    for number, (site, own) in enumerate(zip(sites, np.split(plane, ends[:-1]), strict=True)):
        axis.scatter(*own.T, s=7, marker="osD^vP*X"[number % 8], color=f"C{number % 10}", alpha=0.7, label=site)
    axis.set_xticks([])
    axis.set_yticks([])
