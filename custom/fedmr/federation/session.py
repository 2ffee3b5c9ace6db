"""An admin's session with the server of a federation, by FLARE's API, and what its answers mean."""

import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from nvflare.apis.fl_exception import FLCommunicationError
from nvflare.fuel.common.excepts import ConfigError
from nvflare.fuel.flare_api import api_spec
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.tool.cli_output import set_output_format

from fedmr.federation.kits import ConsortiumError, Kits

# FLARE's names of the ends of a job begin so; the one that succeeded is the first
COMPLETED, FINISHED = "FINISHED:COMPLETED", "FINISHED"
# FLARE calls a job that died with its server RUNNING for ever
INTERRUPTED = "INTERRUPTED"
_LOGIN = 10.0  # seconds that a login may take
_ANSWER = 60.0  # seconds that the server has for an answer; FLARE's 5 are too few on a busy machine
_DOWNLOAD = 600.0
_MONITORED = 600.0  # seconds of a login that waits
_QUIET = threading.Lock()  # standard error is the whole process's
_REFUSED = (api_spec.AuthenticationError, api_spec.AuthorizationError)
_FAILED = (
    *(api_spec.SessionClosed, api_spec.InvalidJobDefinition, api_spec.JobNotFound, api_spec.JobNotRunning),
    *(api_spec.JobNotDone, api_spec.InternalError, api_spec.NoClientsAvailable, api_spec.ClientsStillRunning),
    *(api_spec.InvalidTarget, api_spec.NoReply, api_spec.CommandError, api_spec.InvalidArgumentError),
    *(FLCommunicationError, ConfigError, RuntimeError),
)


class Admin:
    """An admin of a running federation. Every question is a login of its own, so that none has to be closed.

    Args:
        kits: the federation.
        name: of the admin; the project's first one by default.
    """

    def __init__(self, kits: Kits, name: str = "") -> None:
        self.kits, self.kit = kits, kits.admin(name)

    @contextmanager
    def session(self, seconds: float = _ANSWER) -> Iterator[Session]:
        """Log in and out again.

        Args:
            seconds: for the answer to a command.

        Raises:
            ConsortiumError: the server does not answer or refuses, at the login or in the block; with FLARE's words.
        """
        try:
            session = self._log_in(seconds)
            try:
                yield session
            finally:
                with suppress(Exception):  # the server may have gone meanwhile
                    session.close()
        except ConsortiumError:
            raise
        except ConnectionError as error:
            raise ConsortiumError(
                f"Could not connect to the FLARE server ({error}); start it by `fedmr poc start`, or see its log.txt"
            ) from None
        except _REFUSED as error:
            raise ConsortiumError(f"{self.kit.name} may not do that: {error or type(error).__name__}") from None
        except _FAILED as error:
            raise ConsortiumError(f"FLARE refuses: {error or type(error).__name__}") from None

    def _log_in(self, seconds: float) -> Session:
        set_output_format("json")  # FLARE's words go to standard error, for standard output is our commands' result
        with _QUIET, redirect_stderr(io.StringIO()):
            return new_secure_session(
                self.kit.name,
                str(self.kit.resolve()),
                timeout=_LOGIN,
                command_timeout=seconds,
                auto_login_max_tries=1,
            )

    def registered(self) -> list[str]:
        """Sites that the server knows.

        Raises:
            ConsortiumError: the server does not answer.
        """
        with self.session() as session:
            return sorted(client.name for client in session.get_connected_client_list())

    def jobs(self, name: str = "") -> list[dict[str, Any]]:
        """Jobs of the server, the newest last, with `job_id`, `job_name` and `status`: FLARE's, or `INTERRUPTED`."""
        with self.session() as session:
            found: list[dict[str, Any]] = session.list_jobs(limit=1000)
            alive = {job.job_id for job in session.get_system_info().job_info}
        for job in found:
            if job["status"] == "RUNNING" and job["job_id"] not in alive:
                job["status"] = INTERRUPTED
        return [job for job in found if not name or job["job_name"] == name]

    def status(self, job_id: str) -> str:
        """FLARE's name of the state of a job."""
        return str(self._meta(job_id)["status"])

    def _meta(self, job_id: str) -> dict[str, Any]:
        with self.session() as session:
            meta: dict[str, Any] = session.get_job_meta(job_id)
            return meta

    def wait(self, job_id: str) -> str:
        """Wait for the end of a job and return its state.

        Raises:
            ConsortiumError: the server does not answer any more.
        """
        while not (status := self.status(job_id)).startswith(FINISHED):
            with suppress(ConsortiumError), self.session() as session:  # a login may be over before the job is
                session.monitor_job_and_return_job_meta(job_id, timeout=_MONITORED, poll_interval=1.0)
        return status

    def reason(self, job_id: str) -> str:
        """Why a job was not run, by server and sites; empty if it was."""
        details = self._meta(job_id).get("job_deploy_detail", [])
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
        with self.session() as session:
            return str(session.submit_job(str(job.resolve())))

    def abort(self, job_id: str) -> None:
        """End a job; what it has got so far stays on the server."""
        with self.session() as session:
            session.abort_job(job_id)

    def shut_down(self) -> None:
        """Ask the server and all sites to end; they may take some seconds."""
        with self.session() as session:
            session.shutdown("all", wait=False)

    def download(self, job_id: str, folder: Path) -> Path:
        """Download what a job left on the server into FOLDER/JOB_ID, replacing an earlier download."""
        target = folder / job_id
        with self.session(_DOWNLOAD) as session:
            status = session.get_job_meta(job_id)["status"]
            if not status.startswith(FINISHED):
                raise ConsortiumError(f"job {job_id} is {status}; it can be collected when it has ended")
            shutil.rmtree(target, ignore_errors=True)
            location = session.download_job_result(job_id, str(folder.resolve()))
        if not location or not target.is_dir():
            raise ConsortiumError(f"the result of job {job_id} did not come; try again, or see the server's log.txt")
        return target
