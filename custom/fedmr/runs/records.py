"""The records that FLARE's server keeps of what sites sent: rounds, test figures, and what the guard left out."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmr.metrics import METRICS
from fedmr.runs.checks import (
    RecordError,
    Refused,
    listed,
    mapping,
    metrics,
    number,
    read_json_lines,
    site_name,
    whole,
)
from fedmr.runs.figures import METHODS, PERSONAL, Figures, weighted_mean
from fedmr.utils.text import one_line

REJECTIONS = "guard.jsonl"  # in the server's run folder; `fedmr.flare.guard` writes it
ONLY_EVALUATES = "it has no training volumes: it only evaluates"  # the reason there of a site, which is not a fault
NO_VOLUMES = {"n_volumes": 0}  # in the place of figures, of a site that has no volumes of a split
OF_SERVER = "SRV_"  # FLARE's mark on the models that are the server's
FINAL_MODEL = f"{OF_SERVER}FL_global_model.pt"
BEST_MODEL = f"{OF_SERVER}best_FL_global_model.pt"
_MOST_STEPS = 10**9
_MOST_ROUNDS = 10**6
_MOST_VOLUMES = 10**6
_NEEDED = ("psnr", "ssim")  # of every method in tables


def read_rounds(lines: Iterable[tuple[int, Any]], sites: Collection[str], refused: Refused) -> list[dict[str, Any]]:
    """Check the records of rounds.

    Args:
        lines: number and content of the lines of FLARE's round_metrics.jsonl.
        sites: of the job; any if empty.
        refused: takes what is left out.

    Returns:
        per round, in order: ``{"round": r, "psnr": P, "sites": {SITE: {"steps": n, "psnr": dB, ..}}}``, P the mean
        weighted by steps, nan if no site has validation volumes; rounds in which no site's record is left are missing.
        A site without validation volumes has n_volumes 0 and no metrics.
    """
    rounds: dict[int, dict[str, Any]] = {}
    for line, record in lines:
        place = f"round_metrics.jsonl, line {line}"
        try:
            number_of_round = whole(mapping(record, "it").get("round"), "round", 0, _MOST_ROUNDS)
            entries = listed(record.get("sites"), "sites")
            if number_of_round in rounds:
                raise RecordError(f"round {number_of_round} stands there twice")
            if not entries:
                raise RecordError(f"round {number_of_round} names no site")
        except RecordError as error:
            refused.add(place, error)
            continue
        found = _sites_of_round(entries, number_of_round, sites, refused)
        mean = weighted_mean(found.values(), "psnr")
        if found:
            psnr = math.nan if mean is None else mean
            rounds[number_of_round] = {"round": number_of_round, "psnr": psnr, "sites": found}
    return list(rounds.values())


def _sites_of_round(
    entries: list[Any], number_of_round: int, sites: Collection[str], refused: Refused
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    named: Counter[str] = Counter()
    for entry in entries:
        name = "?"
        try:
            name = _of_job(mapping(entry, "a site's record").get("name"), sites)
            named[name] += 1
            found[name] = _round_of_site(entry)
        except RecordError as error:
            refused.add(f"round {number_of_round}, {name}", error, (number_of_round, name))
    for name in [name for name, times in named.items() if times > 1]:
        found.pop(name, None)
        twice = "it stands there twice, and one of them is not its own"
        refused.add(f"round {number_of_round}, {name}", twice, (number_of_round, name))
    return found


def _round_of_site(entry: Any) -> dict[str, float]:
    """Steps and metrics of one site in one round.

    Raises:
        RecordError: a value that is none, or no PSNR.
    """
    steps = number(entry.get("weight"), "steps", 0, _MOST_STEPS)
    if steps == 0:
        raise RecordError("steps is 0; it must be above")
    sent = [mapping(metric, "a metric") for metric in listed(entry.get("metrics"), "metrics")]
    values = {one["name"]: one.get("value") for one in sent if isinstance(one.get("name"), str)}
    if values == NO_VOLUMES:
        return {"steps": steps} | NO_VOLUMES
    found = metrics(values)
    if "psnr" not in found:
        raise RecordError("it has no psnr")
    return {"steps": steps} | found


def _of_job(value: object, sites: Collection[str]) -> str:
    name = site_name(value)
    if sites and name not in sites:
        raise RecordError(f"{name} is no site of this job")
    return name


def read_results(raw: Any, sites: Collection[str], refused: Refused) -> dict[str, dict[str, Figures]]:
    """Check the test figures that sites reported.

    Args:
        raw: content of FLARE's cross_val_results.json.
        sites: of the job; any if empty.
        refused: takes what is left out.

    Returns:
        site -> model -> ``{"n_volumes": n, METHOD: {"psnr": dB, ..}}``, or `NO_VOLUMES`; models are the server's or
        sites' own.
    """
    found: dict[str, dict[str, Figures]] = {}
    if not isinstance(raw, dict):
        refused.add("cross_val_results.json", "it is no table of sites")
        return found
    for site in sorted(raw):
        try:
            models = mapping(raw[_of_job(site, sites)], "what it sent")
        except RecordError as error:
            refused.add(f"test figures of {one_line(site, 60)}", error, (FINAL_MODEL, site))
            continue
        found[site] = {}
        for model, values in models.items():
            place = f"test figures of {one_line(model, 60)} from {site}"
            try:
                name = model if model.startswith(OF_SERVER) else _of_job(model, sites)
                if values or not isinstance(values, dict):  # {}: a model that the site did not test
                    found[site][one_line(name, 60)] = _results_of_site(values)
            except RecordError as error:
                refused.add(place, error, (model, site))
                continue
            if extra := _unknown(values):
                refused.add(place, f"figures that are not known were dropped: {', '.join(extra)}")
    return found


def _results_of_site(values: object) -> Figures:
    """Figures of one model at one site.

    Raises:
        RecordError: a value that is none, or a figure that tables need is missing.
    """
    sent = mapping(values, "it")
    if sent == NO_VOLUMES:
        return dict(NO_VOLUMES)
    found: Figures = {"n_volumes": whole(sent.get("n_volumes"), "n_volumes", 1, _MOST_VOLUMES)}
    if "model" not in sent:
        raise RecordError("it has no figures of the model")
    for method in (method for method in (*METHODS, PERSONAL) if method in sent):
        found[method] = metrics(mapping(sent[method], method), f"{method}.")
        if absent := [name for name in _NEEDED if name not in found[method]]:
            raise RecordError(f"it has no {', '.join(absent)} of {method}")
    return found


def _unknown(values: Mapping[str, Any]) -> list[str]:
    """Names of the first few figures that no table has."""
    tables = [values[method] for method in (*METHODS, PERSONAL) if method in values]
    names = set(values) - {"n_volumes", *METHODS, PERSONAL} | {n for one in tables for n in one} - set(METRICS)
    return [one_line(name, 30) for name in sorted(names)[:5]]


def read_rejections(folder: Path, refused: Refused | None = None) -> list[dict[str, Any]]:
    """Return what the guard left out, in order: ``{"round": r, "site": SITE, "reason": text, "norm": L2 or None}``.

    Args:
        folder: the server's run folder; without a record in it nothing was left out.
        refused: takes lines that are no records.
    """
    path, refused = folder / REJECTIONS, refused or Refused()
    found = []
    for line, record in read_json_lines(path, refused) if path.is_file() else ():
        try:
            row = mapping(record, "it")
            norm = row.get("norm")
            found.append(
                {
                    "round": whole(row.get("round"), "round", 0, _MOST_ROUNDS),
                    "site": one_line(row.get("site"), 60),
                    "reason": one_line(row.get("reason")),
                    "norm": None if norm is None else number(norm, "norm", 0, float("1e308")),
                }
            )
        except RecordError as error:
            refused.add(f"{REJECTIONS}, line {line}", error)
    return found


def evaluating_sites(rejections: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the sites that said that they only evaluate, from the rows of `read_rejections`."""
    return {row["site"] for row in rejections if row["reason"] == ONLY_EVALUATES}
