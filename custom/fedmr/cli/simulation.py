"""`fedmr simulate`: one command that federates."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from fedmr.cli.grouped import grouped
from fedmr.cli.options import Code, InitFrom, Settings, configured_job

console = Console(soft_wrap=True, highlight=False)

_DEMO = Path("data")
_PATIENTS = 6


@dataclass(frozen=True)
class _Run:
    """Options of `simulate` that say where and how it runs."""

    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME by default.")] = None
    threads: Annotated[int, typer.Option(help="Sites at work at once; all by default.")] = 0
    force: Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")] = False


@grouped
def simulate(
    job: Annotated[Path, typer.Argument(help="Job folder, or the name of a job of the package.")],
    sites: Annotated[str, typer.Option(help="How many, or names with commas; all of DATA by default.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="Data root; $FEDMR_DATA_ROOT or data/ by default, else demo data are made.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; the job's by default.")] = 0,
    settings: Settings = None,
    init_from: InitFrom = None,
    code: Code = None,
    *,
    run: _Run,
) -> None:
    """Federate on this machine in FLARE's simulator, then show the table and write the page: OUT/report.html."""
    from fedmr.cli.training import report
    from fedmr.federation.configured import mean_sites
    from fedmr.federation.render import locate_job
    from fedmr.federation.simulator import choose_sites
    from fedmr.federation.simulator import simulate as run_job
    from fedmr.runs.checks import RunError

    job = locate_job(job)
    folder = run.out or Path("runs") / job.name
    root = data or _data_root(sites)
    names = choose_sites(root, sites)
    if run.force and folder.exists():
        if not (folder / "server").is_dir():
            raise RunError(f"{folder} is no run, so it is not replaced; remove it yourself")
        shutil.rmtree(folder)
    with TemporaryDirectory(prefix="fedmr-job-") as passing:
        changed = configured_job(job, Path(passing), settings=settings, init_from=init_from, rounds=rounds, code=code)
        mean_sites(changed, names)
        console.print(f"{job.name} with {', '.join(names)} of {root}")
        run_job(changed, folder, data=root, sites=names, threads=run.threads)
    report(folder)


def _data_root(sites: str) -> Path:
    from fedmr.data.datalist import DATA_ROOT_VARIABLE

    if os.environ.get(DATA_ROOT_VARIABLE):
        return Path(os.environ[DATA_ROOT_VARIABLE])
    if not _DEMO.exists():
        from fedmr.hospital.simulation import make_hospitals

        number = int(sites) if sites.isdigit() else 4
        with console.status("simulating hospitals"):
            make_hospitals(_DEMO, sites=number, patients=_PATIENTS)
        console.print(f"no data here: made {number} simulated hospitals in {_DEMO}/; name your own by --data")
    return _DEMO
