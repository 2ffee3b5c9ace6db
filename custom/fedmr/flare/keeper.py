"""A site's own component that holds every job to the site's policy, before anything of the job runs."""

from pathlib import Path

from nvflare.apis.app_validation import AppValidationKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.workspace import Workspace
from nvflare.widgets.widget import Widget

from fedmr.federation.job_policy import problems_of
from fedmr.privacy.policy import PolicyError, read_policy


class PolicyKeeper(Widget):
    """Lets no job start that asks for more than `local/fedmr_policy.json` allows.

    It belongs into the kit's `local/resources.json` and runs in the process that launches jobs: no code of a job is
    there. It takes the launcher away, so that FLARE reports the job as failed.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look at the job that is about to start."""
        if event_type != EventType.BEFORE_JOB_LAUNCH:
            return
        try:
            problems = self._problems(fl_ctx)
        except PolicyError as error:
            problems = [str(error)]
        except Exception as error:  # FLARE would go on with the job
            problems = [f"the job cannot be checked ({type(error).__name__})"]
        if problems:
            # no list: a launcher that comes after this component cannot add itself
            fl_ctx.set_prop(FLContextKey.JOB_LAUNCHER, (), private=True, sticky=False)
            self.log_error(fl_ctx, f"the site refuses the job: {'; '.join(problems)}", fire_event=False)

    @staticmethod
    def _problems(fl_ctx: FLContext) -> list[str]:
        meta = fl_ctx.get_prop(FLContextKey.JOB_META)
        number = meta[JobMetaKey.JOB_ID.value]
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        if workspace is None:
            root = fl_ctx.get_prop(FLContextKey.WORKSPACE_ROOT) or fl_ctx.get_engine().get_workspace().get_root_dir()
            workspace = Workspace(root_dir=root, site_name=fl_ctx.get_identity_name())
        config = Path(workspace.get_app_config_dir(number))
        if not config.is_dir():
            return ["its configs are missing"]
        policy = read_policy(Path(workspace.get_site_config_dir()))
        return problems_of(config, policy, code=bool(meta.get(AppValidationKey.BYOC)))
