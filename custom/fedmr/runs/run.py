"""Reader of a run's folder: read from what the server received; needs no data of a site."""

import json
import math
from pathlib import Path
from typing import Any

from fedmr.aggregation.guard import evaluating_sites, read_rejections
from fedmr.algorithms.flmrcm import Mrcm
from fedmr.federation.render import read_task
from fedmr.tasks.base import Task
from fedmr.tasks.registry import build_task

# of all kinds of task; a reconstruction has no "interpolated"
METHODS = {"zero_filled": "zero-filled", "interpolated": "bicubic", "model": "MSCAN"}
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
    which FLARE selects the best model. A site without validation volumes has no psnr; P is nan if none has one.
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
        judging = [site for site in sites.values() if "psnr" in site]
        steps = sum(site["steps"] for site in judging)
        mean = sum(site["steps"] * site["psnr"] for site in judging) / steps if steps else math.nan
        rounds.append({"round": record["round"], "psnr": mean, "sites": sites})
    return rounds


def read_figures(run: Path, *, complete: bool = True) -> Figures:
    """Test figures of the final global model, as the sites reported them.

    Args:
        run: simulator workspace or downloaded job.
        complete: whether all sites must be there; else the figures are of those that are.

    Raises:
        RunError: a model is missing, or a site reported no figures or did not train in a round; but a site that the
            guard left out of a round is in its record.
    """
    folder = find_run(run)
    _require(folder / "app_server" / "FL_global_model.pt")
    rounds, rejections = read_rounds(run), read_rejections(folder)
    if any(not math.isnan(record["psnr"]) for record in rounds[1:]):  # else FLARE selects none
        _require(folder / "app_server" / "best_FL_global_model.pt")
    expected = participants(run)
    trained = expected - sites_outside(run) - evaluating_sites(rejections)
    left_out = {(row["round"], row["site"]) for row in rejections}
    for record in rounds if complete else []:
        silent = {site for site in trained - set(record["sites"]) if (record["round"], site) not in left_out}
        if silent:
            absent = ", ".join(sorted(silent))
            raise RunError(f"round {record['round']}: no contribution from {absent}. Look into that site's log.txt")
    results = read_results(run)
    absent = ", ".join(sorted(expected - set(results) - without_test(run)))
    if absent and complete:
        raise RunError(f"no test figures of the final model from {absent}. Look into that site's log.txt")
    if not results:
        raise RunError(f"no site of {run} has test volumes, so there are no figures. Evaluate its model elsewhere")
    return summarise({site: results[site] for site in sorted(results)})


def _require(model: Path) -> None:
    if not model.is_file():
        raise RunError(f"{model} is missing: the job failed. Look into the server's log.txt")


def read_algorithm(run: Path) -> dict[str, Any]:
    """The algorithm's block in a run's task; empty where the server kept no config or trained nothing."""
    config = find_run(run) / "app_server" / "config"
    algorithm: dict[str, Any] = read_task(config).get("algorithm", {}) if config.is_dir() else {}
    return algorithm


def sites_outside(run: Path) -> set[str]:
    """Sites that do not train: FL-MRCM's targets, if the job says so."""
    algorithm = read_algorithm(run)
    return set(Mrcm.from_dict(algorithm).outside) if algorithm.get("name") == "flmrcm" else set()


def read_results(run: Path, model: str = FINAL_MODEL) -> dict[str, Figures]:
    """Test figures of one of the server's models by site, as far as sites reported them and have test volumes."""
    results = _tested(run)
    return {site: results[site][model] for site in sorted(results) if "model" in results[site].get(model, {})}


def without_test(run: Path) -> set[str]:
    """Return the sites that said that they have no test volumes."""
    return {site for site, row in _tested(run).items() if {"n_volumes": 0} in row.values()}


def _tested(run: Path) -> dict[str, dict[str, Figures]]:
    path = find_run(run) / "cross_site_val" / "cross_val_results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def parts_of_sites(run: Path) -> dict[str, str]:
    """Return in words what sites have no part in, by site, for want of volumes; a site with all parts is not in it."""
    folder = find_run(run)
    found: dict[str, list[str]] = {site: ["does not train"] for site in evaluating_sites(read_rejections(folder))}
    recorded = (folder / "metrics" / "round_metrics.jsonl").is_file()
    for record in read_rounds(run)[:1] if recorded else []:
        for site, row in record["sites"].items():
            if row.get("n_volumes") == 0:
                found.setdefault(site, []).append("does not validate")
    for site in sorted(without_test(run)):
        found.setdefault(site, []).append("does not test")
    return {site: f"{' and '.join(found[site])}: it has no volumes for that" for site in sorted(found)}


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
    return max(rounds[1:] or rounds, key=lambda record: -math.inf if math.isnan(record["psnr"]) else record["psnr"])


def read_run_task(run: Path) -> Task | None:
    """The task of a run, None where the server kept no config."""
    config = find_run(run) / "app_server" / "config"
    return build_task(read_task(config)) if config.is_dir() else None


def read_events(run: Path) -> dict[str, Any]:
    """TensorBoard's `EventAccumulator` of what each site streamed, complete, by site."""
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

    events = {}
    for folder in sorted((find_run(run) / "tb_events").glob("*")):
        events[folder.name] = EventAccumulator(str(folder), size_guidance={IMAGES: 0, SCALARS: 0})
        events[folder.name].Reload()
    return events
