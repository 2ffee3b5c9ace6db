"""FLARE's command line with an admin's startup kit, and what its answers mean."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedmr.federation.kits import ConsortiumError, Kits, environment, tool

# FLARE's names of the ends of a job begin so; the one that succeeded is the first
COMPLETED, FINISHED = "FINISHED:COMPLETED", "FINISHED"
_MONITORED = 600  # seconds of a login that waits
# FLARE calls a job that died with its server RUNNING for ever
INTERRUPTED = "INTERRUPTED"


class Admin:
    """An admin of a running federation.

    Args:
        kits: the federation.
        name: of the admin; the project's first one by default.
    """

    def __init__(self, kits: Kits, name: str = "") -> None:
        self.kits, self.kit = kits, kits.admin(name)

    def call(self, *words: object, timeout: float = 120) -> Any:
        """Run `nvflare WORDS` and return what it says.

        Raises:
            ConsortiumError: with FLARE's own message and hint.
        """
        command = [tool("nvflare"), "--format", "json", *map(str, words), "--startup-kit", str(self.kit.resolve())]
        said = " ".join(str(word) for word in words)
        try:
            result = subprocess.run(
                command,
                env=environment(self.kits.workspace),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConsortiumError(f"`nvflare {said}` did not answer in {timeout:.0f} s") from None
        answer = _last_json(result.stdout)
        if answer.get("status") != "ok":
            reason = " ".join(filter(None, (answer.get("message"), answer.get("hint")))) or result.stderr.strip()[-500:]
            raise ConsortiumError(f"`nvflare {said}` failed: {reason}")
        return answer["data"]

    def registered(self) -> list[str]:
        """Sites that the server knows.

        Raises:
            ConsortiumError: the server does not answer.
        """
        return sorted(client["client_name"] for client in self.call("system", "status", timeout=60)["clients"])

    def jobs(self, name: str = "") -> list[dict[str, Any]]:
        """Jobs of the server, the newest last, with `job_id`, `job_name` and `status`: FLARE's, or `INTERRUPTED`."""
        found = self.call("job", "list", "-m", 1000)
        alive = {job["job_id"] for job in self.call("system", "status", timeout=60)["jobs"]}
        for job in found:
            if job["status"] == "RUNNING" and job["job_id"] not in alive:
                job["status"] = INTERRUPTED
        return [job for job in found if not name or job["job_name"] == name]

    def status(self, job_id: str) -> str:
        """FLARE's name of the state of a job."""
        return str(self.call("job", "meta", job_id)["status"])

    def wait(self, job_id: str) -> str:
        """Wait for the end of a job and return its state.

        Raises:
            ConsortiumError: the server does not answer any more.
        """
        while not (status := self.status(job_id)).startswith(FINISHED):
            # FLARE answers with an error also if the job fails, or if the time or the login is over
            with suppress(ConsortiumError):
                self.call("job", "monitor", job_id, "--timeout", _MONITORED, "--interval", 1, timeout=2 * _MONITORED)
        return status

    def reason(self, job_id: str) -> str:
        """Why a job was not run, by server and sites; empty if it was."""
        details = self.call("job", "meta", job_id).get("job_deploy_detail", [])
        reason = "; ".join(d for d in details if not d.endswith(": OK"))
        if "BYOC" in reason:
            reason += (
                ". That site forbids jobs with code (byoc in its authorization.json). Submit the job "
                "without, by `fedmr jobs bundle --no-code`; FedMR must then be there and allowed (`fedmr poc site`)"
            )
        return reason

    def submit(self, job: Path, *, again: bool = False) -> str:
        """Submit a job folder and return its id.

        Args:
            job: job folder.
            again: also if a job of that name has not ended yet.

        Raises:
            ConsortiumError: no job, or one of that name is under way.
            ValueError: the job names classes by the paths of an earlier version.
        """
        from fedmr.federation.job_bundle import read_name
        from fedmr.federation.old_paths import refuse_old_job

        name = read_name(job)
        refuse_old_job(job)
        under_way = [j for j in self.jobs(name) if not j["status"].startswith((FINISHED, INTERRUPTED))]
        if under_way and not again:
            raise ConsortiumError(
                f"job {name} is under way as {under_way[-1]['job_id']} ({under_way[-1]['status']}); wait for it, stop "
                "it with `nvflare job abort`, or submit it a second time with --again"
            )
        return str(self.call("job", "submit", "-j", job.resolve())["job_id"])

    def download(self, job_id: str, folder: Path) -> Path:
        """Download what a job left on the server into FOLDER/JOB_ID, replacing an earlier download."""
        folder.mkdir(parents=True, exist_ok=True)
        self.call("job", "download", job_id, "-o", folder.resolve(), "--force", timeout=600)
        return folder / job_id


def _last_json(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(answer, dict):
            return answer
    return {}
