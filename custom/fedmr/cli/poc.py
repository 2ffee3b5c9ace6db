"""`fedmr poc`: a provisioned federation on this machine."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedmr.cli.app import App
from fedmr.cli.checks import Force, check_free
from fedmr.cli.grouped import grouped
from fedmr.cli.options import InitFrom, Settings, configured_job

if TYPE_CHECKING:
    from fedmr.federation.session import Admin

app = App(no_args_is_help=True, help="A provisioned federation on this machine: TLS, one process per site.")
console = Console(soft_wrap=True, highlight=False)

_Workspace = Annotated[Path, typer.Option(help="Folder of the startup kits.")]
_Admin = Annotated[str, typer.Option(help="Who acts; the project's first admin by default.")]
_Wait = Annotated[bool, typer.Option("--wait", help="Until the job ends; exit code 4 if it failed.")]
_JobId = Annotated[str, typer.Argument(help="As `submit` gave it; the newest by default.")]
_HERE = Path("runs/poc")


@app.command()
def provision(
    project: Annotated[Path, typer.Option(help="What to provision.")] = Path("poc/project.yml"),
    workspace: _Workspace = _HERE,
    data: Annotated[Path | None, typer.Option(help="Data root of all sites of this machine.")] = None,
) -> None:
    """Make startup kits for server, sites and admins by `nvflare provision`; kits that are there are kept."""
    from fedmr.federation.kits import provision as make

    kits, new = make(project, workspace, data=data)
    console.print(
        f"{'made' if new else 'kept'} the kits of {', '.join(kits.sites)} in {kits.folder}; ports {kits.ports}"
    )


@app.command()
def site(
    kit: Annotated[Path, typer.Argument(help="Startup kit of a site or of the server.")],
    data: Annotated[Path | None, typer.Option(help="Data root; the site's data are in DATA/SITE.")] = None,
    forbid_code: Annotated[bool, typer.Option("--forbid-code", help="Refuse jobs that bring code.")] = False,
    gpus: Annotated[int | None, typer.Option(help="GPUs that jobs may use; none in a new kit.")] = None,
    gpu_memory: Annotated[int | None, typer.Option(help="Memory of each, GiB.")] = None,
) -> None:
    """Fill a startup kit with what only its owner knows, before its first start; restart it after a change."""
    from fedmr.federation.kits import fill_kit

    fill_kit(kit, data=data, forbid_code=forbid_code, gpus=gpus, gpu_memory=gpu_memory)
    console.print(f"{kit.name} is ready; start it with {kit}/startup/start.sh")


@app.command()
def start(
    workspace: _Workspace = _HERE, timeout: Annotated[float, typer.Option(help="Seconds to wait for the sites.")] = 120
) -> None:
    """Start server and sites, and wait until all are registered."""
    from fedmr.federation.kits import open_kits
    from fedmr.federation.processes import start as start_all

    start_all(open_kits(workspace), timeout=timeout, say=console.print)
    console.print("all sites are registered")


@dataclass(frozen=True)
class _Meant:
    """Options of `submit` that say who takes part."""

    sites: Annotated[str, typer.Option(help="Who is meant to take part, with commas; all by default.")] = ""
    require: Annotated[str, typer.Option(help="Sites without which it must not start, with commas.")] = ""


@app.command()
@grouped
def submit(
    job: Annotated[Path, typer.Argument(help="Job folder, or the name of a job of the package.")],
    workspace: _Workspace = _HERE,
    admin: _Admin = "",
    again: Annotated[bool, typer.Option("--again", help="Also while a job of this name is under way.")] = False,
    wait: _Wait = False,
    settings: Settings = None,
    init_from: InitFrom = None,
    *,
    meant: _Meant,
) -> None:
    """Submit a job and print its id.

    Who is meant to take part and is not there is named at once, and with --wait at the end, with the reason: exit code
    3 if somebody was missing, 4 if the job failed.
    """
    from fedmr.federation.kits import open_kits
    from fedmr.federation.session import Admin
    from fedmr.federation.submission import invite

    kits = open_kits(workspace)
    session = Admin(kits, admin)
    with TemporaryDirectory(prefix="fedmr-job-") as folder:
        changed = configured_job(job, Path(folder), settings=settings, init_from=init_from)
        wanted, required = ([name for name in text.split(",") if name] for text in (meant.sites, meant.require))
        absent = invite(changed, kits.sites, session.registered(), wanted=wanted, required=required)
        for name in absent:
            console.print(f"{name} is not connected: the job starts without it")
        number = session.submit(changed, again=again)
    console.print(number)
    if wait:
        _wait(session, number)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A job's id, or the folder that `collect` made of it.")],
    workspace: _Workspace = _HERE,
    admin: _Admin = "",
    wait: _Wait = False,
) -> None:
    """Submit the rounds that an interrupted job still lacks; model and sites go on from where they were."""
    from fedmr.federation.kits import open_kits
    from fedmr.federation.session import Admin
    from fedmr.runs.resume import resumed_job, unfinished_run

    kits = open_kits(workspace)
    job = resumed_job(Path(run) if Path(run).is_dir() else unfinished_run(kits, run), workspace / "resumed")
    session = Admin(kits, admin)
    number = session.submit(job)
    console.print(number)
    if wait:
        _wait(session, number)


def _wait(session: "Admin", number: str) -> None:
    """Until a job ends.

    Raises:
        typer.Exit: with code 4 if it failed.
    """
    from fedmr.federation.session import COMPLETED

    with console.status("the job runs"):
        status = session.wait(number)
    console.print(status)
    if status != COMPLETED:
        console.print(session.reason(number), markup=False)
    absent = _absent(session, number)
    for name, words in absent.items():
        console.print(f"{name} {words}", style="red", markup=False)
    if status != COMPLETED or absent:
        raise typer.Exit(4 if status != COMPLETED else 3)


def _absent(session: "Admin", number: str) -> dict[str, str]:
    """Say what sites that were meant to take part missed, by site, from the job's folder on the server."""
    from fedmr.federation.kits import ConsortiumError
    from fedmr.runs.attendance import absences_of
    from fedmr.runs.checks import RunError
    from fedmr.runs.run import Run

    with TemporaryDirectory(prefix="fedmr-ended-") as folder:
        try:
            return absences_of(Run(session.download(number, Path(folder))))
        except (ConsortiumError, RunError) as error:  # e.g. it was deployed to nobody, or this admin may not
            console.print(f"who took part is not known: {error}", markup=False)
            return {}


@app.command()
def status(workspace: _Workspace = _HERE, admin: _Admin = "") -> None:
    """Say who runs, who is registered, and what became of the jobs."""
    from fedmr.federation.kits import ConsortiumError, open_kits
    from fedmr.federation.processes import processes
    from fedmr.federation.session import Admin

    kits = open_kits(workspace)
    session = Admin(kits, admin)
    try:
        registered, jobs = session.registered(), session.jobs()
    except ConsortiumError as error:
        registered, jobs = [], []
        console.print(str(error))
    table = Table("name", "processes", "registered")
    for name in (kits.server["name"], *kits.sites):
        known = "" if name not in kits.sites else "yes" if name in registered else "no"
        table.add_row(name, str(len(processes(kits.folder / name))), known)
    console.print(table)
    for job in jobs:
        console.print(f"{job['job_id']}  {job['job_name']}  {job['status']}")


@app.command()
def collect(
    job_id: _JobId = "",
    workspace: _Workspace = _HERE,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for OUT/JOB_ID.")] = Path("runs/collected"),
    admin: _Admin = "",
    force: Force = False,
) -> None:
    """Download a job: global model, metrics and TensorBoard in one folder, which `fedmr report` reads."""
    from fedmr.federation.kits import ConsortiumError, open_kits
    from fedmr.federation.session import Admin

    session = Admin(open_kits(workspace), admin)
    jobs = session.jobs()
    if not jobs:
        raise ConsortiumError("the server has no job; submit one with `fedmr poc submit`")
    number = job_id or jobs[-1]["job_id"]
    check_free(out / number, force=force)
    console.print(session.download(number, out))


@app.command()
def stop(workspace: _Workspace = _HERE) -> None:
    """Stop server and sites; nothing is left running."""
    from fedmr.federation.kits import open_kits
    from fedmr.federation.processes import stop as stop_all

    stop_all(open_kits(workspace), say=console.print)
