"""The server's record of what does not count, for its log, its reports and those who look after a job."""

import json
import math
from pathlib import Path

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import AppConstants

from fedmr.runs.records import REJECTIONS
from fedmr.utils.text import one_line


def note_left_out(component: FLComponent, fl_ctx: FLContext, site: str, reason: str, norm: float | None = None) -> None:
    """Write one line to the log and one record to `guard.jsonl` in the run folder.

    Args:
        component: that speaks in the log.
        fl_ctx: of the round.
        site: that is left out of it.
        reason: on one line, whatever it holds.
        norm: L2, if it is known.
    """
    number, reason = fl_ctx.get_prop(AppConstants.CURRENT_ROUND), one_line(reason)
    component.log_error(fl_ctx, f"{site} | round {number} | left out: {reason}", fire_event=False)
    known = norm if norm is not None and math.isfinite(norm) else None
    record = {"round": number, "site": site, "reason": reason, "norm": known}
    folder = Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
    with (folder / REJECTIONS).open("a") as log:
        log.write(json.dumps(record) + "\n")
