"""A site's privacy ledger in a FLARE job."""

from collections.abc import Callable
from pathlib import Path

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo

from fedmr.flare.sites import local_folder
from fedmr.privacy.ledger import Ledger


def site_ledger(
    component: FLComponent, fl_ctx: FLContext, stream: Callable[[str, float, int], None] | None = None
) -> Ledger:
    """The ledger of the site that a component works for.

    Args:
        component: logs, and unless `stream` is given, streams.
        fl_ctx: of the job.
        stream: takes tag, value and step; by default an analytics event, which goes to the server if the job has
            `ConvertToFedEvent`.
    """
    engine = fl_ctx.get_engine()
    workspace = engine.get_workspace()

    def send(tag: str, value: float, step: int) -> None:
        point = create_analytic_dxo(tag, value, AnalyticsDataType.SCALAR, global_step=step)
        with engine.new_context() as context:
            send_analytic_dxo(component, point, context)

    return Ledger(
        local_folder(fl_ctx),
        Path(workspace.get_run_dir(fl_ctx.get_job_id())),
        log=lambda text: component.log_info(fl_ctx, f"{fl_ctx.get_identity_name()} | {text}"),
        stream=stream or send,
    )
