"""Sections of the page, from what a `Run` holds."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmr.nets import build, count_parameters, name_of, title
from fedmr.physics.degradation import scale_text
from fedmr.reports.html.charts import MEAN, Chart, chart
from fedmr.reports.html.panels import make_panels
from fedmr.runs.figures import weighted_mean
from fedmr.runs.protection import distances, epsilons
from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from fedmr.runs.settings import argument, filters
from fedmr.runs.streams import Stream, latest_pictures
from fedmr.tasks.base import Task
from fedmr.tasks.registry import build_task
from fedmr.utils.hocon import components

_TIMES = "\N{MULTIPLICATION SIGN}"
_OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop"}
_HE_WORDS = (".he.", "encrypt", "ckks")


@dataclass(frozen=True)
class Description:
    """The task in words: names for headings, (term, text) rows, and every number as it stood in the job."""

    network: str
    scale: str | None
    measured: str
    rows: list[tuple[str, str]]
    numbers: list[tuple[str, str]]
    update_bytes: int | None


def describe(client: dict[str, Any]) -> Description | None:
    """Return what was trained, from the job's client config; None if it is not there or has no task."""
    numbers = argument(client, "task")
    if not isinstance(numbers, dict):
        return None
    network = numbers.get("network")
    named = str(network.get("name", "network")) if isinstance(network, dict) else "network"
    flat = list(_flatten(numbers).items())
    try:
        task = build_task(numbers)
        net = build(**task.network)
    except (ValueError, TypeError):  # made by another version of fedmr: its numbers can be shown, not put into words
        return Description(title({"name": named}), None, "", [], flat, None)
    name, scale = title(task.network), scale_text(task.network.get("scale", 1))
    times = f" {_TIMES}{scale}" if scale != "1" else ""
    rest = ", ".join(f"{k} {v}" for k, v in task.network.items() if k not in ("name", "_target_", "scale", "seed"))
    rows = [
        ("Network", f"{name}{times}, {count_parameters(net):,} parameters ({rest})"),
        task.describe_input(),
        ("Loss", " + ".join(_loss_term(name, value) for name, value in task.loss.items())),
        (
            "Optimiser",
            f"{_optimizer(task)}, {_course(task)}; gradient norm at most {task.clip_norm:g}",
        ),
        (
            "Each round",
            f"{task.local_epochs} local epoch{'s' if task.local_epochs > 1 else ''}, batches of {task.batch_size} "
            f"{task.describe_batch()}",
        ),
    ]
    size = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    return Description(name, scale if scale != "1" else None, task.measured, rows, flat, size)


def _loss_term(name: str, value: Any) -> str:
    """Return weight and name of a loss, of a class path its class."""
    if not isinstance(value, Mapping):
        return f"{value:g} · {name}"
    return f"{value['weight']:g} · {name_of(value)}"


def _optimizer(task: Task) -> str:
    chosen = task.optimizer
    return _OPTIMIZERS[chosen] if isinstance(chosen, str) else name_of(chosen)


def _course(task: Task) -> str:
    """Return the course of the learning rate in words."""
    if task.schedule:
        return f"{name_of(task.schedule)} from {task.learning_rate:g}"
    return f"{task.warmup_steps} steps of warm-up to {task.learning_rate:g}, cosine to {task.final_learning_rate:g}"


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, value in node.items():
        rows |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return rows


def curves(run: Run) -> list[Chart]:
    """Charts over rounds, as far as there are values: validation PSNR and SSIM, loss, time."""
    best = run.best["round"] if run.best else None
    loss = {s: one.scalars["train/loss"] for s, one in run.streams.items() if "train/loss" in one.scalars}
    turns: dict[str, dict[int, float]] = {}
    for number, phase in (run.log.rounds if run.log else {}).items():
        for site, seconds in phase.turns.items():
            turns.setdefault(site, {})[number] = seconds
    charts = [
        chart("Validation PSNR", _metric(run, "psnr"), unit="dB", best=best),
        chart("Validation SSIM", _metric(run, "ssim"), decimals=4, best=best),
        chart("Training loss", loss, decimals=5, x_name="epoch"),
        chart("Time per round at a site", dict(sorted(turns.items())), unit="s", decimals=1),
    ]
    return [one for one in charts if one]


def protection(run: Run) -> list[Chart]:
    """Charts of what filters and DP-SGD did, as far as there are values: epsilon, sent against true updates."""
    far = distances(run)
    charts = [
        *(
            chart(f"Epsilon so far, per {unit}", curves, x_name="release", decimals=3)
            for unit, curves in epsilons(run.streams).items()
        ),
        chart("Cosine of sent and true update", far.get("cosine", {}), x_name="update", decimals=4),
        chart("Norm of the sent by that of the true update", far.get("norm_ratio", {}), x_name="update", decimals=3),
    ]
    return [one for one in charts if one]


def _metric(run: Run, name: str) -> dict[str, dict[int, float]]:
    """A validation metric by site and round, with the mean weighted by steps, by which FLARE selects."""
    lines: dict[str, dict[int, float]] = {}
    for record in run.rounds:
        for site, row in sorted(record["sites"].items()):
            if name in row:
                lines.setdefault(site, {})[record["round"]] = row[name]
        mean = weighted_mean(record["sites"].values(), name)
        if mean is not None:
            lines.setdefault(MEAN, {})[record["round"]] = mean
    return lines


def sites(run: Run) -> list[dict[str, Any]]:
    """Per site, expected ones that sent nothing included: accepted updates, steps per round, median times, and number
    and bytes of what it streamed."""
    names = {site for record in run.rounds for site in record["sites"]} | {*run.streams, *run.results, *run.sites}
    rows = []
    for site in sorted(names):
        steps = [record["sites"][site]["steps"] for record in run.rounds if site in record["sites"]]
        turns = [phase.turns[site] for phase in run.log.rounds.values() if site in phase.turns] if run.log else []
        speed, stream = run.step_times(site), run.streams.get(site, Stream())
        rows.append(
            {
                "name": site,
                "updates": len(steps),
                "steps": statistics.median(steps) if steps else None,
                "seconds": statistics.median(turns) if turns else None,
                "step_ms": statistics.median(speed) if speed else None,
                "values": stream.n_values,
                "scalars": list(stream.scalars),
                "pictures": stream.n_pictures,
                "picture_bytes": stream.picture_bytes,
            }
        )
    return rows


def pictures(run: Run, network: str, measured: str = "") -> dict[str, Any]:
    """Panels of the final model on test scans; where there are none, of the last received model on validation scans."""
    choices = (
        (f"test/{FINAL_MODEL}", {"split": "test", "model": "the final global model"}),
        ("val", {"split": "validation", "model": "the global model that the site received last"}),
    )
    for tag, pictured in choices:
        images = latest_pictures(run.streams, tag)
        if images:
            interpolated = run.task.interpolated_panel if run.task else None
            panels, scale = make_panels(images, network, measured, interpolated)
            return {"panels": panels, "scale": scale, "pictured": pictured}
    return {"panels": [], "scale": None, "pictured": None}


def privacy(run: Run) -> dict[str, Any]:
    """Return what the job's configs say about what leaves a site."""
    client, server = run.config("client"), run.config("server")
    paths = [component["path"].lower() for component in components([client, server])]
    return {
        "known": bool(client and server),
        "kind": argument(server, "expected_data_kind"),
        "weighted": bool(argument(server, "weigh_by_local_iter")),
        "filters": filters(client, "task_result_filters"),
        "dp_sgd": run.task.to_dict().get("dp_sgd") if run.task else None,
        "encrypted": any(word in path for path in paths for word in _HE_WORDS),
    }
