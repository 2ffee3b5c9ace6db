"""Sections of the page, from what `report` and `facts` read."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmr.nets import build, count_parameters, title
from fedmr.physics.degradation import scale_text
from fedmr.reports.html.charts import MEAN, Chart, chart
from fedmr.reports.html.panels import make_panels
from fedmr.reports.pictures import latest_images
from fedmr.runs import facts
from fedmr.runs.protection import distances, epsilons
from fedmr.runs.run import FINAL_MODEL, best_round, read_results
from fedmr.tasks.registry import build_task

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
    numbers = facts.argument(client, "task")
    if not isinstance(numbers, dict):
        return None
    flat = list(_flatten(numbers).items())
    try:
        task = build_task(numbers)
        net = build(**task.network)
    except ValueError:  # made by another version of fedmr: its numbers can be shown, but not put into words
        return Description(title({"name": "network"} | dict(numbers.get("network", {}))), None, "", [], flat, None)
    name, scale = title(task.network), scale_text(task.network.get("scale", 1))
    times = f" {_TIMES}{scale}" if scale != "1" else ""
    rest = ", ".join(f"{k} {v}" for k, v in task.network.items() if k not in ("name", "_target_", "scale", "seed"))
    rows = [
        ("Network", f"{name}{times}, {count_parameters(net):,} parameters ({rest})"),
        task.describe_input(),
        ("Loss", " + ".join(f"{weight:g} · {loss}" for loss, weight in task.loss.items())),
        (
            "Optimiser",
            f"{_OPTIMIZERS[task.optimizer]}, {task.warmup_steps} steps of warm-up to {task.learning_rate:g}, cosine to "
            f"{task.final_learning_rate:g}; gradient norm at most {task.clip_norm:g}",
        ),
        (
            "Each round",
            f"{task.local_epochs} local epoch{'s' if task.local_epochs > 1 else ''}, batches of {task.batch_size} "
            f"{task.describe_batch()}",
        ),
    ]
    size = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    return Description(name, scale if scale != "1" else None, task.measured, rows, flat, size)


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, value in node.items():
        rows |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return rows


def curves(rounds: list[dict[str, Any]], events: Mapping[str, Any], log: facts.ServerLog | None) -> list[Chart]:
    """Charts over rounds, as far as there are values: validation PSNR and SSIM, loss, time."""
    best = best_round(rounds)["round"] if rounds else None
    loss = _scalars(events, "train/loss")
    turns: dict[str, dict[int, float]] = {}
    for number, phase in (log.rounds if log else {}).items():
        for site, seconds in phase.turns.items():
            turns.setdefault(site, {})[number] = seconds
    charts = [
        chart("Validation PSNR", _metric(rounds, "psnr"), unit="dB", best=best),
        chart("Validation SSIM", _metric(rounds, "ssim"), decimals=4, best=best),
        chart("Training loss", loss, decimals=5, x_name="epoch"),
        chart("Time per turn", dict(sorted(turns.items())), unit="s", decimals=1),
    ]
    return [one for one in charts if one]


def protection(run: Path, events: Mapping[str, Any]) -> list[Chart]:
    """Charts of what filters and DP-SGD did, as far as there are values: epsilon, sent against true updates."""
    far = distances(run)
    charts = [
        *(
            chart(f"Epsilon so far, per {unit}", curves, x_name="release", decimals=3)
            for unit, curves in epsilons(events).items()
        ),
        chart("Cosine of sent and true update", far.get("cosine", {}), x_name="update", decimals=4),
        chart("Norm of the sent by that of the true update", far.get("norm_ratio", {}), x_name="update", decimals=3),
    ]
    return [one for one in charts if one]


def _metric(rounds: list[dict[str, Any]], name: str) -> dict[str, dict[int, float]]:
    """A validation metric by site and round, with the mean weighted by steps, by which FLARE selects."""
    lines: dict[str, dict[int, float]] = {}
    for record in rounds:
        rows = {site: row for site, row in sorted(record["sites"].items()) if name in row}
        for site, row in rows.items():
            lines.setdefault(site, {})[record["round"]] = row[name]
        steps = sum(row["steps"] for row in rows.values())
        if steps:
            mean = sum(row["steps"] * row[name] for row in rows.values()) / steps
            lines.setdefault(MEAN, {})[record["round"]] = mean
    return lines


def _scalars(events: Mapping[str, Any], tag: str) -> dict[str, dict[int, float]]:
    return {
        site: {value.step: value.value for value in e.Scalars(tag)}
        for site, e in sorted(events.items())
        if tag in e.Tags()["scalars"]
    }


def sites(
    run: Path,
    rounds: list[dict[str, Any]],
    events: Mapping[str, Any],
    log: facts.ServerLog | None,
    *,
    expected: Iterable[str],
) -> list[dict[str, Any]]:
    """Per site, expected ones that sent nothing included: accepted updates, steps per round, median times, and number
    and bytes of what it streamed."""
    names = {site for record in rounds for site in record["sites"]} | {*events, *read_results(run), *expected}
    rows = []
    for site in sorted(names):
        steps = [record["sites"][site]["steps"] for record in rounds if site in record["sites"]]
        turns = [phase.turns[site] for phase in log.rounds.values() if site in phase.turns] if log else []
        speed = facts.read_step_times(run, site)
        tags = events[site].Tags() if site in events else {"images": [], "scalars": []}
        pictures = [image for tag in tags["images"] for image in events[site].Images(tag)]
        rows.append(
            {
                "name": site,
                "updates": len(steps),
                "steps": statistics.median(steps) if steps else None,
                "seconds": statistics.median(turns) if turns else None,
                "step_ms": statistics.median(speed) if speed else None,
                "values": sum(len(events[site].Scalars(tag)) for tag in tags["scalars"]),
                "scalars": tags["scalars"],
                "pictures": len(pictures),
                "picture_bytes": sum(len(image.encoded_image_string) for image in pictures),
            }
        )
    return rows


def pictures(events: Mapping[str, Any], network: str, measured: str = "") -> dict[str, Any]:
    """Panels of the final model on test scans; where there are none, of the last received model on validation scans."""
    choices = (
        (f"test/{FINAL_MODEL}", {"split": "test", "model": "the final global model"}),
        ("val", {"split": "validation", "model": "the global model that the site received last"}),
    )
    for tag, pictured in choices:
        images = latest_images(dict(sorted(events.items())), tag)
        if images:
            panels, scale = make_panels(images, network, measured)
            return {"panels": panels, "scale": scale, "pictured": pictured}
    return {"panels": [], "scale": None, "pictured": None}


def privacy(client: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    """Return what the job's configs say about what leaves a site."""
    paths = [component["path"].lower() for component in facts.components([client, server])]
    return {
        "known": bool(client and server),
        "kind": facts.argument(server, "expected_data_kind"),
        "weighted": bool(facts.argument(server, "weigh_by_local_iter")),
        "filters": facts.filters(client, "task_result_filters"),
        "dp_sgd": (facts.argument(client, "task") or {}).get("dp_sgd"),
        "encrypted": any(word in path for path in paths for word in _HE_WORDS),
    }
