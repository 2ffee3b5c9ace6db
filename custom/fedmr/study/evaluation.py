"""The models of a finished cell on every test volume, of seen and unseen sites, and the latents of its global one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedmr.checkpoints.model_file import load_model
from fedmr.metrics import detail_metrics, volume_metrics
from fedmr.nets.unet import UNet
from fedmr.runs.run import Run
from fedmr.study import Cell
from fedmr.tasks.base import Task, Volume
from fedmr.tasks.registry import build_task
from fedmr.training.latents import SPLITS, latents_of


@dataclass(frozen=True)
class _Tested:
    """A network, by what method it came, and the sites it was trained on and is tested on."""

    net: nn.Module
    method: str
    trained: tuple[str, ...]
    sites: tuple[str, ...]


def evaluate_cell(cell: Cell, run: Path, *, data: Path, panel: Path) -> Iterator[dict[str, Any]]:
    """Test a cell's final models where they would be used, and the methods without a network as well.

    The global model is tested on all sites. A site's own model is tested on that site, and if the sites trained alone,
    in which case there is no global model, on all others: as "local" on its own site and on those that nobody trained
    on, as "elsewhere" on the others.

    Args:
        cell: the cell.
        run: its finished run, i.e. the simulator's workspace.
        data: data root with seen and unseen sites.
        panel: file for four pictures (4, H, W) float16 of the middle slice of one test volume, and whose it is.

    Yields:
        columns of `results` from "method" to the metrics, a row per test volume and model.
    """
    task = build_task(cell.task)
    models = list(_models(cell, run, task))
    for site in (*cell.sites, *cell.unseen):
        for number, volume in enumerate(task.load(data / site, ("test",))):
            where = {"site": site, "volume": volume.name}
            for method, image in task.baselines(volume).items():
                seen = {"seen": site in cell.sites}
                yield {"method": method, "model_of": "", **where, **seen, **_figures(image, volume)}
            present = [model for model in models if site in model.sites]
            for model in present:
                image = task.restore(model.net, volume)
                whose = {"model_of": "+".join(model.trained), "seen": site in model.trained}
                yield {"method": model.method, **whose, **where, **_figures(image, volume)}
            if number == 0 and site == min(cell.sites + cell.unseen):
                tiles = [tile.cpu().numpy() for tile in task.panels(present[0].net, volume)]
                what = {"site": site, "volume": volume.name, "method": present[0].method}
                np.savez_compressed(panel, tiles=np.stack(tiles).astype(np.float16), **what)


def write_latents(cell: Cell, run: Path, *, data: Path, path: Path) -> None:
    """Write the global model's latents of the sites' training and test slices, if it is a U-Net that reconstructs.

    Args:
        cell: the cell.
        run: its finished run.
        data: data root with seen and unseen sites.
        path: .npz with (N, 4C) float16 as SPLIT:SITE.
    """
    task = build_task(cell.task)
    net = next((model.net for model in _models(cell, run, task) if model.method == "global"), None)
    if not task.takes_kspace or not isinstance(net, UNet):
        return
    arrays: dict[str, Any] = {}
    for site in sorted(cell.sites + cell.unseen):
        for split in SPLITS:
            volumes = task.load(data / site, (split,))
            arrays[f"{split}:{site}"] = latents_of(net, volumes, task).astype(np.float16)
    np.savez_compressed(path, **arrays)


def _figures(image: torch.Tensor, volume: Volume) -> dict[str, float]:
    return volume_metrics(image, volume.reference) | detail_metrics(image, volume.reference)


def _models(cell: Cell, run: Path, task: Task) -> Iterator[_Tested]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    alone = task.algorithm.get("name") == "local"
    if not alone:
        net = load_model(run).net.to(device)
        yield _Tested(net, "global", cell.sites, (*cell.sites, *cell.unseen))
    for site in cell.sites:
        for path in Run(run).personal_models(site):  # if the algorithm makes one
            net = load_model(path).net.to(device)
            yield _Tested(net, "local" if alone else "personal", (site,), (site, *cell.unseen) if alone else (site,))
            if alone and (others := tuple(name for name in cell.sites if name != site)):
                yield _Tested(net, "elsewhere", (site,), others)
