"""The figures of sites, and how they are summed up."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

# of all kinds of task; a reconstruction has no "interpolated"
METHODS = {"zero_filled": "zero-filled", "interpolated": "bicubic", "model": "MSCAN"}
PERSONAL = "personal"  # figures of a network that stays at its site; only some algorithms have one
Figures = dict[str, Any]


def summarise(sites: dict[str, dict[str, Any]]) -> Figures:
    """Add the mean over sites, of what all sites have: ``{"sites": {SITE: {"n_volumes", METHOD: {"psnr", ..}}},
    "mean": {METHOD: ..}}``."""
    rows = list(sites.values())
    methods = [method for method in (*METHODS, PERSONAL) if all(method in site for site in rows)]
    mean = {
        method: {
            name: sum(site[method][name] for site in rows) / len(rows)
            for name in rows[0][method]
            if all(name in site[method] for site in rows)
        }
        for method in methods
    }
    return {"sites": sites, "mean": mean}


def weighted_mean(sites: Iterable[Mapping[str, float]], metric: str) -> float | None:
    """Return the mean of a metric weighted by steps, by which FLARE selects the best model; None if no site has it."""
    rows = [site for site in sites if metric in site]
    steps = sum(row["steps"] for row in rows)
    return sum(row["steps"] * row[metric] for row in rows) / steps if steps else None


def best_round(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the round of `Run.rounds` whose received model is `best_FL_global_model.pt`.

    FLARE never counts round 0, the untrained model.
    """
    return max(rounds[1:] or rounds, key=lambda record: -math.inf if math.isnan(record["psnr"]) else record["psnr"])
