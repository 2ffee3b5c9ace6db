"""Who was meant to take part in a run against who did, from what the server has."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmr.federation.configured import read_meant
from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from fedmr.utils.text import one_line

_OK = ": OK"  # how FLARE ends the line of a site that took the job


def refusals(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return why sites did not take a job, by site, from FLARE's description of the job.

    Args:
        meta: of the job; its "job_deploy_detail" holds a line per site, "SITE: OK" or "SITE: reason".
    """
    details = meta.get("job_deploy_detail")
    found: dict[str, str] = {}
    for line in details if isinstance(details, list) else []:
        site, sign, reason = str(line).partition(": ")
        if sign and site != "server" and not str(line).endswith(_OK):
            found[one_line(site, 100)] = one_line(reason)
    return found


def absences(
    folder: Path,
    meta: Mapping[str, Any],
    *,
    deployed: Collection[str],
    rounds: Iterable[Mapping[str, Any]],
    rejections: Iterable[Mapping[str, Any]],
    tested: Collection[str],
    excused: Collection[str] = (),
) -> dict[str, str]:
    """Return what sites that were meant to take part missed, in words, by site; empty if all were there throughout.

    Args:
        folder: the server's folder of the run.
        meta: FLARE's description of the job.
        deployed: sites that the job was deployed to.
        rounds: records with "round" and "sites" by name.
        rejections: rows with "round", "site" and "reason" of the guard.
        tested: sites that reported figures of the final model, or that they have no test volumes.
        excused: sites that need not train.
    """
    meant, refused = set(read_meant(folder / "app_server")) | set(deployed), refusals(meta)
    records, reasons = list(rounds), _reasons(rejections)
    found: dict[str, str] = {}
    for site in sorted(meant | set(refused)):
        if site in refused:
            found[site] = f"refused the job: {refused[site]}"
        elif site not in deployed:
            found[site] = "took no part: it was not connected when the job started"
        else:
            lacking = [r["round"] for r in records if site not in r["sites"] and site not in excused]
            parts = [_of_rounds(lacking, len(records), reasons.get(site, {}))] if lacking else []
            parts += ["did not test the final model"] if site not in tested else []
            if parts:
                found[site] = " and ".join(parts)
    return found


def _reasons(rejections: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for row in rejections:
        found.setdefault(str(row["site"]), {})[row["round"]] = one_line(row["reason"])
    return found


def _of_rounds(lacking: list[int], number: int, reasons: Mapping[int, str]) -> str:
    said = list(dict.fromkeys(reasons[r] for r in lacking if r in reasons))
    why = f" ({'; '.join(said[:3])})" if said else ""
    which = f"round {lacking[0]}" if len(lacking) == 1 else f"{len(lacking)} of {number} rounds, the first {lacking[0]}"
    return f"has no part in {which}{why}"


def absences_of(run: Run) -> dict[str, str]:
    """Return `absences` of a run; who sent a record that had to be refused was there."""
    refused = run.refused.records if run.rounds or run.results else set()
    rounds = [
        {"round": record["round"], "sites": set(record["sites"]) | {s for r, s in refused if r == record["round"]}}
        for record in run.rounds
    ]
    return absences(
        run.folder,
        run.meta,
        deployed=run.sites - set(refusals(run.meta)),
        rounds=rounds,
        rejections=run.rejections,
        tested={*run.results_of(), *run.without_test, *(site for model, site in refused if model == FINAL_MODEL)},
        excused=run.evaluating | run.outside,
    )
