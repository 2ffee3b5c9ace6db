"""A run as one self-contained HTML page: what was trained, figures, curves, pictures, privacy, transfer, time."""

import hashlib
from base64 import b64encode
from datetime import datetime
from functools import cache
from importlib import metadata
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from fedmr.aggregation.guard import read_rejections
from fedmr.metrics import METRICS
from fedmr.reports.cross_site import Matrix, is_cross_site, read_matrix, trained_alone
from fedmr.reports.html import sections
from fedmr.runs import facts
from fedmr.runs.attendance import absences_of
from fedmr.runs.run import (
    METHODS,
    PERSONAL,
    RunError,
    best_round,
    find_run,
    participants,
    parts_of_sites,
    read_events,
    read_figures,
    read_results,
    read_rounds,
    summarise,
)

if TYPE_CHECKING:
    from jinja2 import Template

BEST_MODEL = "SRV_best_FL_global_model.pt"
_SHOWN = ("psnr", "ssim", "nmse")
_METRICS = tuple((name, METRICS[name].label, METRICS[name].unit, METRICS[name].digits) for name in _SHOWN)


def write_html(run: Path, path: Path) -> None:
    """Write the page. An incomplete run gets one too, with a banner that says what is missing.

    Args:
        run: simulator workspace or downloaded job.
        path: .html to write; it needs no other file and makes no request.

    Raises:
        RunError: `run` is no run at all.
    """
    script = (Path(__file__).parent / "script.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # by its hash, this script and no other may run, so that nothing that slipped in from a run could
    text = _template().render(_gather(run), script=script, script_hash=f"sha256-{digest}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = Environment(
        loader=PackageLoader("fedmr.reports.html", "."),
        autoescape=True,  # names and texts come from other sites
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"signed": _signed, "size": _size, "duration": _duration}
    return page.get_template("report.html")


def _gather(run: Path) -> dict[str, Any]:
    """Everything that the page shows, read from the run's files."""
    folder, events, log = find_run(run), read_events(run), facts.read_log(run)
    rounds = read_rounds(run) if (folder / "metrics" / "round_metrics.jsonl").is_file() else []
    results, best_results = read_results(run), read_results(run, BEST_MODEL)
    client, server = facts.read_config(run, "client"), facts.read_config(run, "server")
    meta, task, expected = facts.read_meta(run), sections.describe(client), _expected(run)
    network = task.network if task else "The network"
    methods = METHODS | {"model": network}
    figures = summarise(results) if results else None
    gains = [s["model"]["psnr"] - s["zero_filled"]["psnr"] for s in results.values()]
    return {
        "name": meta.get("name") or run.resolve().name,
        "meta": meta,
        "simulated": facts.is_simulated(run),
        "problem": _problem(run),
        "alone": trained_alone(run),
        "personal": PERSONAL if figures and PERSONAL in figures["mean"] else None,
        "matrix": _matrix(run),
        "expected": expected,
        "parts": parts_of_sites(run),
        "task": task,
        "planned_rounds": facts.argument(server, "num_rounds"),
        "n_rounds": len(rounds),
        "methods": {m: label for m, label in methods.items() if not figures or m in figures["mean"]},
        "metrics": [metric for metric in _METRICS if figures and metric[0] in figures["mean"]["model"]],
        "figures": figures,
        "widest_gain": max(map(abs, gains), default=0) or 1,
        "best": _best(rounds),
        "best_test": summarise(best_results)["mean"]["model"] if best_results else None,
        "charts": sections.curves(rounds, events, log),
        "log": log,
        "sites": sections.sites(run, rounds, events, log, expected=expected),
        "traffic": facts.read_traffic(run),
        "files": [(p.relative_to(run), p.stat().st_size) for p in sorted((folder / "app_server").glob("*.pt"))],
        "privacy": sections.privacy(client, server),
        "protection": sections.protection(run, events),
        "rejections": read_rejections(folder),
        "written": datetime.now().astimezone(),
        "versions": {name: metadata.version(name) for name in ("fedmr", "nvflare", "monai", "torch")},
        **sections.pictures(events, network, task.measured if task else ""),
    }


def _best(rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The round of the best model; None if there is none, because no site validates."""
    best = best_round(rounds) if rounds else None
    return None if best is None or isnan(best["psnr"]) else best


def _problem(run: Path) -> str:
    """Why the run is incomplete, with paths from the run's folder on; empty if it is complete."""
    absent = "".join(f" {site} {words}." for site, words in absences_of(run).items())
    try:
        read_figures(run)
        if is_cross_site(run):
            read_matrix(run)
    except RunError as error:
        return str(error).replace(f"{run}/", "") + absent
    return absent.strip()


def _matrix(run: Path) -> Matrix | None:
    """Every model on every site's test scans; None if only global models were tested, or the matrix has a gap."""
    try:
        return read_matrix(run) if is_cross_site(run) else None
    except RunError:
        return None


def _expected(run: Path) -> list[str]:
    """Sites that the job was deployed to, as far as the run names them."""
    try:
        return sorted(participants(run))
    except RunError:
        return []


def _signed(value: float, decimals: int = 2) -> str:
    """With + or a true minus sign."""
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _size(n_bytes: float) -> str:
    return decimal(round(n_bytes))


def _duration(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
