"""A server's own component that finds sites which started anew while a job runs."""

import time

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.widgets.widget import Widget

_AGAIN = 60.0  # seconds; every workflow of a job must hear of it


class ReturnedSites(Widget):
    """Tells a running job that a site of it has started anew, so that the job goes on without it.

    A site whose host starts again registers under its name with a new token, and knows nothing of the job. FLARE
    2.9.0 watches tokens and names apart: the old token is missed only after the heartbeats' time, and the name is
    there all along, so a round would wait until `train_timeout`. FLARE gives a site that is reported here a minute to
    ask for its task, and then counts it out of the job.

    It belongs into the `local/resources.json` of the server's kit. What a site says of itself is not used, only the
    names that FLARE has verified.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reported: dict[tuple[str, str], float] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look through the running jobs whenever a site has registered or shown that it is there."""
        if event_type not in (EventType.CLIENT_REGISTER_PROCESSED, EventType.CLIENT_HEARTBEAT_PROCESSED):
            return
        engine = fl_ctx.get_engine()
        now: dict[str, set[str]] = {}
        for client in engine.get_clients():
            now.setdefault(client.name, set()).add(client.token)
        for job, process in list(engine.run_processes.items()):
            for token, client in (process.get(RunProcessKey.PARTICIPANTS) or {}).items():
                due = self._reported.get((job, token), -_AGAIN) + _AGAIN <= time.monotonic()
                if due and now.get(client.name, {token}) - {token}:
                    self._reported[job, token] = time.monotonic()
                    self._report(job, client.name, fl_ctx)

    def _report(self, job: str, site: str, fl_ctx: FLContext) -> None:
        self.log_warning(
            fl_ctx, f"{site} has started anew while job {job} runs; the job goes on without it", fire_event=False
        )
        engine = fl_ctx.get_engine()
        engine.notify_dead_job(job, site, "the site has started anew")
        engine.job_runner.resolve_client_outcome(job, site)  # else the end of the job would wait for its word
