"""A run as one self-contained HTML page: what was trained, figures, curves, pictures, privacy, transfer, time."""

import hashlib
import statistics
from base64 import b64encode
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from fedmr.metrics import METRICS
from fedmr.reports.cross_site import Matrix, matrix_of
from fedmr.reports.html import sections
from fedmr.reports.html.downloads import downloads
from fedmr.runs.attendance import absences_of
from fedmr.runs.checks import RunError
from fedmr.runs.figures import METHODS, PERSONAL, summarise
from fedmr.runs.records import BEST_MODEL
from fedmr.runs.run import Run
from fedmr.runs.settings import argument
from fedmr.utils.text import one_line

if TYPE_CHECKING:
    from jinja2 import Template

_SHOWN = ("psnr", "ssim", "nmse", "psnr_foreground")
_METRICS = tuple((name, METRICS[name].label, METRICS[name].unit, METRICS[name].digits) for name in _SHOWN)


def write_html(run: Run, path: Path) -> None:
    """Write the page. An incomplete run gets one too, with a banner that says what is missing.

    Args:
        run: the run.
        path: .html to write; it needs no other file and makes no request.
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


def _gather(run: Run) -> dict[str, Any]:
    """Everything that the page shows, read from the run's files."""
    task, results = sections.describe(run.config("client")), run.results_of()
    network = task.network if task else "The network"
    gains = [s["model"]["psnr"] - s["zero_filled"]["psnr"] for s in results.values()]
    figures = summarise(results) if results else None
    return {
        "name": run.name,
        "meta": {key: one_line(run.meta[key]) for key in ("job_id", "status") if key in run.meta},
        "simulated": run.simulated,
        "problem": _problem(run),
        "alone": run.trained_alone,
        "matrix": _matrix(run),
        "expected": sorted(run.sites),
        "parts": run.parts,
        "task": task,
        "planned_rounds": argument(run.config("server"), "num_rounds"),
        "n_rounds": len(run.rounds),
        "widest_gain": max(map(abs, gains), default=0) or 1,
        "gains": (min(gains), max(gains), statistics.stdev(gains)) if len(gains) > 1 else None,
        "scans": sum(row["n_volumes"] for row in results.values()),
        "downloads": downloads(figures),
        "charts": sections.curves(run),
        "log": run.log,
        "sites": sections.sites(run),
        "traffic": run.traffic,
        "files": [(path.relative_to(run.path), path.stat().st_size) for path in run.model_files],
        "privacy": sections.privacy(run),
        "protection": sections.protection(run),
        "rejections": run.rejections,
        "written": datetime.now().astimezone(),
        "versions": {name: metadata.version(name) for name in ("fedmr", "nvflare", "monai", "torch")},
        **_figures(run, figures, network),
        **sections.pictures(run, network, task.measured if task else ""),
        "refused": run.refused.lines(),  # last: by now all was read
    }


def _figures(run: Run, figures: dict[str, Any] | None, network: str) -> dict[str, Any]:
    """Test figures of the page: of the final model by site, of the best one in the mean, and which there are."""
    best, mean = run.results_of(BEST_MODEL), figures["mean"] if figures else {}
    return {
        "figures": figures,
        "personal": PERSONAL if PERSONAL in mean else None,
        "methods": {m: label for m, label in (METHODS | {"model": network}).items() if not figures or m in mean},
        "metrics": [metric for metric in _METRICS if metric[0] in mean.get("model", {})],
        "best": run.best,
        "best_test": summarise(best)["mean"]["model"] if best else None,
    }


def _problem(run: Run) -> str:
    """Why the run is incomplete, with paths from the run's folder on; empty if it is complete."""
    absent = "".join(f" {site} {words}." for site, words in absences_of(run).items())
    try:
        if not run.problem and run.is_cross_site:
            matrix_of(run)
    except RunError as error:
        return str(error) + absent
    return f"{run.problem}{absent}".strip()


def _matrix(run: Run) -> Matrix | None:
    """Every model on every site's test scans; None if only global models were tested, or the matrix has a gap."""
    try:
        return matrix_of(run) if run.is_cross_site else None
    except RunError:
        return None


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
