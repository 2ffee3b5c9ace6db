"""Checks on the FLARE site's own folder: what its owner allows, and who can read what."""

from pathlib import Path

from fedmr.data.readers.folder import PRIVATE
from fedmr.federation.job_policy import problems_of
from fedmr.hospital.preflight.site import Check, judge, some
from fedmr.privacy.policy import PolicyError, read_policy
from fedmr.utils.class_path import POLICY_FILE

_SECRETS = ("*.key", "client_context.tenseal")  # in the kit's `startup`


def kit_checks(workspace: Path, job: Path | None, folders: list[Path]) -> list[Check]:
    """Rows on a kit; none if the workspace is not a kit.

    Args:
        workspace: folder of the FLARE site.
        job: job to come, with its configs, None to look at no job.
        folders: the site's data.
    """
    if not (workspace / "local").is_dir() or not (workspace / "startup").is_dir():
        return []
    return [policy(workspace, job), secrets(workspace), other_user(workspace, folders)]


def policy(workspace: Path, job: Path | None) -> Check:
    """The owner has said what a job may ask for, and the job to come stays within it."""
    remedy = (
        f"`fedmr poc site` writes local/{POLICY_FILE}; change its numbers to what you allow, then ask for another job"
    )
    local = workspace / "local"
    try:
        allowed = read_policy(local)
    except PolicyError as error:
        return Check("policy", "fail", str(error), f"mend local/{POLICY_FILE}: until then no job starts")
    missing = [] if (local / POLICY_FILE).is_file() else [f"no local/{POLICY_FILE}: every job sets its own limits"]
    config = job / "app" / "config" if job else None
    problems = problems_of(config, allowed) if config and config.is_dir() else []
    fails = [f"the site would refuse this job: {problem}" for problem in problems]
    most = ", ".join(f"{unit} {epsilon:g}" for unit, epsilon in allowed.max_epsilon.items()) or "left to the job"
    good = f"largest epsilon: {most}; at least {allowed.min_patients} patient(s) in statistics"
    return judge("policy", good, remedy, fails=fails, warns=missing)


def secrets(workspace: Path) -> Check:
    """The site's keys are its owner's alone."""
    files = sorted(path for pattern in _SECRETS for path in (workspace / "startup").glob(pattern))
    open_to_all = [f"startup/{path.name}" for path in files if path.stat().st_mode & 0o077]
    fails = [f"others can read {some(open_to_all)}: who has them can be this site"] if open_to_all else []
    remedy = f"chmod 600 {' '.join(open_to_all)} in {workspace}"
    return judge("keys", f"{len(files)} keys, none of which others can read", remedy, fails=fails)


def other_user(workspace: Path, folders: list[Path]) -> Check:
    """FLARE runs as a user who cannot read the key of the pseudonyms."""
    owner = workspace.stat().st_uid
    private = [folder / PRIVATE for folder in folders if (folder / PRIVATE).is_dir()]
    same = [str(path) for path in private if path.stat().st_uid == owner]
    warns = [f"the kit's owner also owns {some(same)}: FLARE's processes can read who is who"] if same else []
    remedy = "run FLARE as a user of its own: docs/operator.md, 'FLARE as another user'"
    return judge("user", "the kit's owner does not own the key of the pseudonyms", remedy, warns=warns)
