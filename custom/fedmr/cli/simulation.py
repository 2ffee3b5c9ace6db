"""`fedmr simulate` and `fedmr demo`: one command that federates."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from fedmr.cli.checks import Force, check_empty
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
    force: Force = False


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
    from fedmr.cli.reporting import report
    from fedmr.federation.render import locate_job
    from fedmr.federation.simulator import choose_sites

    job = locate_job(job)
    folder = run.out or Path("runs") / job.name
    root = data or _data_root(sites)
    names = choose_sites(root, sites)
    _make_room(folder, run.force)
    with TemporaryDirectory(prefix="fedmr-job-") as passing:
        changed = configured_job(job, Path(passing), settings=settings, init_from=init_from, rounds=rounds, code=code)
        _federate(changed, folder, root, names, threads=run.threads)
    report(folder)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("runs/demo"),
    data: Annotated[Path, typer.Option(help="Data root for the simulated hospitals.")] = _DEMO,
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 4,
    patients: Annotated[int, typer.Option(help="Patients per hospital, at least 3.")] = _PATIENTS,
    force: Force = False,
) -> None:
    """Simulate hospitals in DATA, federate over them, and leave table, page, picture and model in OUT."""
    _make_room(out, force)
    check_empty(out)
    from fedmr.checkpoints.export import export
    from fedmr.cli.hospital import demo_data
    from fedmr.cli.reporting import report
    from fedmr.federation.simulator import choose_sites

    demo_data(data, sites=sites, patients=patients)
    with TemporaryDirectory(prefix="fedmr-job-") as passing:
        job = configured_job(Path("mscan_fedavg"), Path(passing), settings=None, init_from=None)
        _federate(job, out, data, choose_sites(data, str(sites)))
    report(out, json_file=out / "figures.json", picture=out / "comparison.png")
    model = export(out, "pt", out=out / "model.pt")
    console.print(f"wrote {model}, which has seen simulated heads only. On a real scan use the model of the package:")
    console.print("  fedmr infer mscan-x2 SCAN.nii.gz RESULT.nii.gz    # or DICOM: SERIES_FOLDER OUT_FOLDER")


def _federate(job: Path, run: Path, data: Path, sites: list[str], *, threads: int = 0) -> None:
    """Run a job, a copy that may be changed, on sites of a data root, and leave the run in a new folder."""
    from fedmr.federation.configured import mean_sites
    from fedmr.federation.simulator import simulate as run_job

    mean_sites(job, sites)
    console.print(f"{job.name} with {', '.join(sites)} of {data}")
    run_job(job, run, data=data, sites=sites, threads=threads)


def _make_room(run: Path, force: bool) -> None:
    """Remove a run if `force` says so, and nothing else."""
    from fedmr.runs.checks import RunError

    if force and run.exists():
        if not (run / "server").is_dir():
            raise RunError(f"{run} is no run, so it is not replaced; remove it yourself")
        shutil.rmtree(run)


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
