"""The pooled baseline trains one site that holds all data; with more it would be a federation under a wrong name."""

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext


class OneSiteOnly(FLComponent):
    """End the job before its first round if it was deployed to more than one site; a component of the server."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Count the sites at the start of the run."""
        if event_type != EventType.START_RUN:
            return
        sites = sorted(client.name for client in fl_ctx.get_engine().get_clients())
        if len(sites) > 1:
            self.system_panic(
                f"this job is the pooled baseline and takes one site, not {len(sites)} ({', '.join(sites)}). Make one "
                "of them by `fedmr pool DATA --out POOLED`, or submit mscan_fedavg",
                fl_ctx,
            )
