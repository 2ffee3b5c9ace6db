"""A federation in FLARE's simulator: all sites on this machine, run as `nvflare simulator` does when typed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from fedmr.data.datalist import DATA_ROOT_VARIABLE, present_splits, site_folders
from fedmr.federation.configured import needs_keys
from fedmr.federation.old_paths import refuse_old_job
from fedmr.federation.render import PACKAGED_CONFIGS, locate_job
from fedmr.utils.errors import DataError


class SimulationError(RuntimeError):
    """The simulator did not come to its end."""


def choose_sites(data: Path, wanted: str = "") -> list[str]:
    """Return the names of the sites that take part.

    Args:
        data: data root.
        wanted: a number of sites, of which the first are taken, or names with commas; all by default.

    Raises:
        DataError: the root has no such site, or fewer, or none that trains.
    """
    folders = {folder.name: folder for folder in site_folders(data)}
    if wanted.isdigit():
        if not 1 <= int(wanted) <= len(folders):
            raise DataError(f"{data} has {len(folders)} sites, not {wanted}: {', '.join(folders)}")
        names = list(folders)[: int(wanted)]
    else:
        names = [name for name in wanted.split(",") if name] or list(folders)
    if absent := [name for name in names if name not in folders]:
        raise DataError(f"{data} has no site {', '.join(absent)}; it has {', '.join(folders)}")
    if not any("train" in present_splits(folders[name]) for name in names):
        raise DataError(f"none of {', '.join(names)} in {data} has training volumes; give at least one")
    return names


def simulate(
    job: Path, run: Path, *, data: Path, sites: Sequence[str], threads: int = 0, log: Path | None = None
) -> None:
    """Run a job; the workspace is a new folder.

    FLARE ends with success even where every site failed: whether the run is complete its files must tell.

    Args:
        job: job folder, or the name of a job of the package.
        run: workspace to make.
        data: data root with the sites.
        sites: their names.
        threads: sites at work at once; all by default.
        log: file for what FLARE prints; the terminal by default.

    Raises:
        FileExistsError: the workspace is there.
        ValueError: the job encrypts, or names classes by the paths of an earlier version.
        SimulationError: FLARE ended with an error.
    """
    if run.exists() and any(run.iterdir()):
        raise FileExistsError(f"{run} holds something; name another folder, or replace it by --force")
    refuse_old_job(locate_job(job))
    if needs_keys(job):
        raise ValueError(f"{job} encrypts, for which provisioning makes the keys: run it over TLS, see `fedmr poc`")
    with _without_spaces(run.resolve()) as workspace:
        command = ["simulator", locate_job(job).resolve(), "-w", workspace, "-c", ",".join(sites)]
        command += ["-t", threads or len(sites), "-l", PACKAGED_CONFIGS / "log_config.json"]
        code = run_flare(command, workspace, environment={DATA_ROOT_VARIABLE: str(data.resolve())}, log=log)
    if code:
        raise SimulationError(f"FLARE's simulator ended with code {code}; see {log or run / 'server' / 'log.txt'}")


def run_flare(
    arguments: Sequence[object],
    workspace: Path,
    *,
    environment: dict[str, str],
    log: Path | None = None,
    seconds: float | None = None,
) -> int:
    """Run an `nvflare` command and end whatever it leaves at work in the workspace; return its exit code.

    Args:
        arguments: of `nvflare`.
        workspace: the folder that its processes name in their commands.
        environment: variables in addition to this process's.
        log: file for what it prints; the terminal by default.
        seconds: after which it is ended.

    Raises:
        subprocess.TimeoutExpired: it was.
    """
    command = [str(part) for part in (Path(sys.executable).parent / "nvflare", *arguments)]
    output = log.open("w") if log else None
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # FLARE's processes kill their whole group when they lose their parent
        )
        return process.wait(seconds)
    finally:
        end_processes(workspace)
        if output:
            output.close()


def end_processes(workspace: Path) -> None:
    """Kill the simulator's processes that work in a workspace; they name it and FLARE in their command."""
    for process in psutil.process_iter(["cmdline"]):
        command: list[str] = process.info["cmdline"] or []
        inside = any(part == str(workspace) or part.startswith(f"{workspace}/") for part in command)
        if inside and any("nvflare" in part for part in command):
            process.kill()


@contextmanager
def _without_spaces(run: Path) -> Iterator[Path]:
    """Give the workspace, or one elsewhere that is moved there: FLARE's simulator fails at a path with a space."""
    if not any(character.isspace() for character in str(run)):
        yield run
        return
    with TemporaryDirectory(prefix="fedmr-simulate-") as folder:
        try:
            yield Path(folder) / "run"
        finally:
            if (Path(folder) / "run").exists():
                shutil.copytree(Path(folder) / "run", run, dirs_exist_ok=True)
