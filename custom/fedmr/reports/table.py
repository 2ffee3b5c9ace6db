"""Figures, table and picture of a run. Reads what the server received; needs no site's data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from fedmr.aggregation.guard import read_rejections
from fedmr.federation.render import read_task
from fedmr.nets import title as title_of
from fedmr.tasks.config import Task
from fedmr.tasks.flmrcm_settings import Mrcm
from fedmr.tasks.registry import Volume, kind_of

# of all kinds of task; a reconstruction has no "interpolated"
METHODS = {"zero_filled": "zero-filled", "interpolated": "bicubic", "model": "MSCAN"}
# tiles of a comparison image, and the method whose figures belong to each; the first one's label is the kind's
TILES = {
    "low resolution": None,
    METHODS["zero_filled"]: "zero_filled",
    METHODS["model"]: "model",
    "reference": None,
}
FINAL_MODEL = "SRV_FL_global_model.pt"
PERSONAL = "personal"  # figures of a network that stays at its site; only some algorithms have one

Figures = dict[str, Any]


class RunError(RuntimeError):
    """A run is incomplete; the message says what is missing."""


def summarise(sites: dict[str, dict[str, Any]]) -> Figures:
    """Add the mean over sites: ``{"sites": {SITE: {"n_volumes", METHOD: {"psnr", ..}}}, "mean": {METHOD: ..}}``."""
    methods = [method for method in (*METHODS, PERSONAL) if all(method in site for site in sites.values())]
    mean = {
        method: {
            name: sum(site[method][name] for site in sites.values()) / len(sites)
            for name in next(iter(sites.values()))[method]
        }
        for method in methods
    }
    return {"sites": sites, "mean": mean}


def find_run(run: Path) -> Path:
    """The server's run folder in a simulator workspace, a downloaded job or that folder itself.

    Raises:
        RunError: nothing there.
    """
    for candidate in (run, run / "server" / "simulate_job", run / "workspace"):
        if (candidate / "app_server").is_dir():
            return candidate
    raise RunError(f"{run} is no run: it holds no app_server folder. Give a simulator workspace or a downloaded job")


def read_rounds(run: Path) -> list[dict[str, Any]]:
    """Per round, oldest first: ``{"round": r, "psnr": P, "sites": {SITE: {"steps": n, "psnr": dB, ..}}}``.

    Figures are of the model as received in that round, on validation volumes; P is their mean weighted by steps, by
    which FLARE selects the best model.
    """
    path = find_run(run) / "metrics" / "round_metrics.jsonl"
    if not path.is_file():
        raise RunError(f"{path} does not exist: no site finished a round. Look into the server's log.txt")
    rounds = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        sites = {
            s["name"]: {"steps": s["weight"]} | {m["name"]: m["value"] for m in s["metrics"]} for s in record["sites"]
        }
        steps = sum(site["steps"] for site in sites.values())
        mean = sum(site["steps"] * site["psnr"] for site in sites.values()) / steps
        rounds.append({"round": record["round"], "psnr": mean, "sites": sites})
    return rounds


def read_figures(run: Path) -> Figures:
    """Test figures of the final global model, as the sites reported them.

    Raises:
        RunError: a model is missing, or a site reported no figures or did not train in a round; but a site that the
            guard left out of a round is in its record.
    """
    folder = find_run(run)
    for name in ("FL_global_model.pt", "best_FL_global_model.pt"):
        if not (folder / "app_server" / name).is_file():
            raise RunError(f"{folder / 'app_server' / name} is missing: the job failed. Look into the server's log.txt")
    expected = participants(run)
    trained = expected - _outside(run)
    left_out = {(row["round"], row["site"]) for row in read_rejections(folder)}
    for record in read_rounds(run):
        silent = {site for site in trained - set(record["sites"]) if (record["round"], site) not in left_out}
        if silent:
            absent = ", ".join(sorted(silent))
            raise RunError(f"round {record['round']}: no contribution from {absent}. Look into that site's log.txt")
    results = read_results(run)
    absent = ", ".join(sorted(expected - set(results)))
    if absent:
        raise RunError(f"no test figures of the final model from {absent}. Look into that site's log.txt")
    return summarise({site: results[site] for site in sorted(expected)})


def read_algorithm(run: Path) -> dict[str, Any]:
    """The algorithm's block in a run's task; empty where the server kept no config or trained nothing."""
    config = find_run(run) / "app_server" / "config"
    algorithm: dict[str, Any] = read_task(config).get("algorithm", {}) if config.is_dir() else {}
    return algorithm


def _outside(run: Path) -> set[str]:
    """Sites that do not train: FL-MRCM's targets, if the job says so."""
    algorithm = read_algorithm(run)
    return set(Mrcm.from_dict(algorithm).outside) if algorithm.get("name") == "flmrcm" else set()


def read_results(run: Path, model: str = FINAL_MODEL) -> dict[str, Figures]:
    """Test figures of one of the server's models by site, as far as sites reported them."""
    path = find_run(run) / "cross_site_val" / "cross_val_results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    return {site: results[site][model] for site in sorted(results) if model in results[site]}


def participants(run: Path) -> set[str]:
    """Sites that a job was deployed to: in the simulator's meta.json, or in that of a downloaded job one level up.

    Raises:
        RunError: no meta.json names them.
    """
    folder = find_run(run)
    for path in (folder / "meta.json", folder.parent / "meta.json"):
        meta = json.loads(path.read_text()) if path.is_file() else {}
        if "job_clients" in meta:
            return {client["name"] for client in meta["job_clients"]}
        if "job_deploy_detail" in meta:
            return {detail.partition(":")[0] for detail in meta["job_deploy_detail"]} - {"server"}
    raise RunError(
        f"{folder / 'meta.json'} names no sites; download the whole job, with the meta.json beside workspace/"
    )


def best_round(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The round of `read_rounds` whose received model is `best_FL_global_model.pt`.

    FLARE never counts round 0, the untrained model.
    """
    return max(rounds[1:] or rounds, key=lambda record: record["psnr"])


def labels_of(task: Task | None) -> dict[str, str]:
    """`METHODS` with the name of the task's network; as it is where the task is not known."""
    return METHODS | ({"model": title_of(str(task.network["name"]))} if task else {})


def read_run_task(run: Path) -> Task | None:
    """The task of a run, None where the server kept no config."""
    config = find_run(run) / "app_server" / "config"
    return Task.from_dict(read_task(config)) if config.is_dir() else None


def table_rows(figures: Figures) -> list[list[str]]:
    """Cells of a row per site and of the mean: site, number of volumes, PSNR / SSIM per method, gain in dB."""
    total = sum(site["n_volumes"] for site in figures["sites"].values())
    rows = []
    for site, row in [*figures["sites"].items(), ("mean", {"n_volumes": total, **figures["mean"]})]:
        cells = [f"{row[m]['psnr']:.2f} / {row[m]['ssim']:.4f}" for m in METHODS if m in figures["mean"]]
        rows.append([site, str(row["n_volumes"]), *cells, f"{row['model']['psnr'] - row['zero_filled']['psnr']:+.2f}"])
    return rows


def table(figures: Figures, title: str, labels: Mapping[str, str] = METHODS) -> Table:
    """Sites by methods, PSNR in dB and SSIM, with the gain over zero-filled; `labels` names the methods."""
    view = Table(title=title, caption="PSNR (dB) / SSIM per volume, range = volume maximum, mean over volumes")
    view.add_column("site", no_wrap=True)
    for label in ("n", *(labels[m] for m in METHODS if m in figures["mean"]), "gain"):
        view.add_column(label, justify="right", no_wrap=True)
    *sites, mean = table_rows(figures)
    for row in sites:
        view.add_row(*row, end_section=row is sites[-1])
    view.add_row(*mean)
    return view


def personal_table(figures: Figures) -> Table | None:
    """Every site's personal model beside the global one on the site's own test volumes; None if there is none."""
    if PERSONAL not in figures["mean"]:
        return None
    view = Table(title="personal models, each on its own site", caption="PSNR (dB) / SSIM; the models stay there")
    for label in ("site", "global", "personal", "gain over global"):
        view.add_column(label, justify="left" if label == "site" else "right", no_wrap=True)
    rows = [*figures["sites"].items(), ("mean", figures["mean"])]
    for site, row in rows:
        cells = [f"{row[m]['psnr']:.2f} / {row[m]['ssim']:.4f}" for m in ("model", PERSONAL)]
        gain = f"{row[PERSONAL]['psnr'] - row['model']['psnr']:+.2f}"
        view.add_row(site, *cells, gain, end_section=site == rows[-2][0])
    return view


def comparison_image(net: nn.Module, volume: Volume, task: Task) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Middle slice as four tiles side by side: what was measured, zero-filled, network, reference.

    Returns:
        (1, H, 4*W) uint8, one window for all tiles: 0 to the reference slice's 99.9th percentile.
    """
    tiles = kind_of(task).tiles(net, volume, task)
    window = float(np.percentile(tiles[-1].numpy(), 99.9)) or 1.0
    image = torch.cat(tiles, dim=1).clamp(0, window) * (255 / window)
    return image.round().to(torch.uint8).numpy()[None]


def read_events(run: Path) -> dict[str, Any]:
    """TensorBoard's `EventAccumulator` of what each site streamed, complete, by site."""
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

    events = {}
    for folder in sorted((find_run(run) / "tb_events").glob("*")):
        events[folder.name] = EventAccumulator(str(folder), size_guidance={IMAGES: 0, SCALARS: 0})
        events[folder.name].Reload()
    return events


def read_images(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Comparison images of the final model by site, as far as sites share pixels: (H, 4*W) uint8."""
    return latest_images(read_events(run), f"test/{FINAL_MODEL}")


def latest_images(events: dict[str, Any], tag: str) -> dict[str, np.ndarray[Any, Any]]:
    """The last image of a tag by site, (H, W) uint8, of the sites in `read_events` that streamed one."""
    from io import BytesIO

    from PIL import Image

    streamed = {site: e.Images(tag)[-1] for site, e in events.items() if tag in e.Tags()["images"]}
    return {s: np.asarray(Image.open(BytesIO(i.encoded_image_string)).convert("L")) for s, i in streamed.items()}


def draw(images: dict[str, np.ndarray[Any, Any]], figures: Figures, path: Path) -> None:
    """Write one row per site: the reference with a box, then the box in the four tiles, enlarged.

    Args:
        images: (H, 4*W) tiles of `comparison_image` by site, not empty.
        figures: of the same sites; their PSNR stands over the tiles.
        path: .png to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    fig, axes = plt.subplots(len(images), 5, figsize=(12.5, 2.62 * len(images)), squeeze=False)
    for row, (site, image) in zip(axes, images.items(), strict=True):
        tiles = [np.rot90(tile) for tile in np.split(image, 4, axis=1)]  # anterior up, as scans are shown
        top, left, side = most_detailed_box(tiles[3])
        row[0].imshow(tiles[3], cmap="gray", vmin=0, vmax=255)
        row[0].add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="gold"))
        row[0].set_title(site, fontsize=9)
        for axis, tile, (label, method) in zip(row[1:], tiles, TILES.items(), strict=True):
            axis.imshow(tile[top : top + side, left : left + side], cmap="gray", vmin=0, vmax=255)
            value = f", {figures['sites'][site][method]['psnr']:.2f} dB" if method else ""
            axis.set_title(label + value, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    fig.tight_layout(pad=0.8, h_pad=1.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def most_detailed_box(image: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Top, left and side of the square with the largest sum of gradients, a third of the image and well inside it."""
    side = min(image.shape) // 3
    margin = side * 3 // 4  # past skull and scalp, whose edges are the strongest
    gradient = np.abs(np.diff(image.astype(float), axis=0))[:, 1:] + np.abs(np.diff(image.astype(float), axis=1))[1:]
    total = np.pad(gradient, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    inner = sums[margin:-margin, margin:-margin]
    top, left = np.unravel_index(inner.argmax(), inner.shape)
    return int(top) + margin, int(left) + margin, side
