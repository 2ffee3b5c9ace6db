"""Jobs for sites: with FedMR's code inside, or without any for sites that have it installed and forbid other code."""

import shutil
from pathlib import Path

from fedmr.federation.old_paths import refuse_old_job
from fedmr.federation.render import PACKAGED_CONFIGS, PACKAGED_JOBS, locate_job
from fedmr.utils.files import replace_folder
from fedmr.utils.hocon import read_hocon

PACKAGE = Path(__file__).parents[1]
_CUSTOM = Path("app/custom")
_WEIGHTS = "weights"  # of the package's models, which no job needs


def read_name(job: Path) -> str:
    """Return the name of a job folder.

    Raises:
        FileNotFoundError: the folder is not a job.
    """
    if not (job / "meta.conf").is_file():
        raise FileNotFoundError(f"{job} is no job folder: meta.conf is missing. Give one such as jobs/mscan_fedavg")
    return str(read_hocon(job / "meta.conf")["name"])


def bundle(job: Path, out: Path, *, code: bool = True, force: bool = False) -> Path:
    """Copy a job with the code it needs, or with none.

    Args:
        job: rendered job folder.
        out: folder to hold it; the result is OUT/NAME.
        code: put FedMR's code into the job. It then runs at sites without FedMR, if they allow custom code; without,
            it runs at sites that forbid custom code, if FedMR is installed there and on the site's allow-list.
        force: replace what is there.

    Raises:
        FileNotFoundError: the folder is not a job.
        FileExistsError: OUT/NAME exists and `force` is false.
        ValueError: OUT/NAME is the job itself, or the job names classes by the paths of an earlier version.
    """
    job = locate_job(job)
    refuse_old_job(job)
    target = out / read_name(job)
    if target.resolve() == job.resolve():
        raise ValueError(f"{target} is the job itself; name another folder for the bundle")
    if target.exists():
        if not force:
            raise FileExistsError(f"{target} exists; name another folder, or replace it by --force")
        read_name(target)  # no other folder is ever removed
    with replace_folder(target) as passing:
        shutil.copytree(job, passing, ignore=shutil.ignore_patterns("custom", ".__nvfl*"), dirs_exist_ok=True)
        if code:
            for file in sorted((job / _CUSTOM).glob("*.py")):
                (passing / _CUSTOM).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, passing / _CUSTOM / file.name)
            junk = shutil.ignore_patterns("__pycache__", PACKAGED_JOBS.name, PACKAGED_CONFIGS.name, _WEIGHTS)
            shutil.copytree(PACKAGE, passing / "app" / "custom" / PACKAGE.name, ignore=junk)
    return target
