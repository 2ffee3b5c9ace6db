"""The site's keeper as FLARE's own launcher calls it."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobLauncherSpec, add_launcher
from nvflare.apis.workspace import Workspace
from nvflare.private.event import fire_event
from nvflare.private.fed.utils.fed_utils import get_job_launcher

from fedmr.federation.render import CLIENT_CONFIG
from fedmr.flare.keeper import PolicyKeeper
from fedmr.privacy.policy import POLICY_FILE
from simulator import ROOT

META = {"job_id": "0123"}
WITH_CODE = META | {"byoc": True}


class Launcher(JobLauncherSpec):
    """FLARE's, but for the process."""

    def launch_job(self, job_meta, fl_ctx):
        raise NotImplementedError

    def handle_event(self, event_type, fl_ctx):
        if event_type == EventType.BEFORE_JOB_LAUNCH:
            add_launcher(self, fl_ctx)


@pytest.fixture(params=["keeper last", "keeper first"])
def launch(request, tmp_path):
    """Launch a job of this name at a site with this policy; it raises if the site refuses."""
    for folder in ("startup", "local"):
        (tmp_path / folder).mkdir()
    workspace = Workspace(str(tmp_path), site_name="site-1")
    handlers = [Launcher(), PolicyKeeper()]
    if request.param == "keeper first":
        handlers.reverse()

    def context() -> FLContext:
        fl_ctx = FLContext()
        fl_ctx.set_prop(FLContextKey.WORKSPACE_OBJECT, workspace, private=True)
        fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, "site-1")
        fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True)
        return fl_ctx

    engine = SimpleNamespace(
        new_context=lambda: contextlib.nullcontext(context()),
        fire_event=lambda kind, fl_ctx: fire_event(kind, handlers, fl_ctx),
    )

    def run(job: str, policy: dict | str, meta=META, custom: bool = False):
        text = policy if isinstance(policy, str) else json.dumps(policy)
        (tmp_path / "local" / POLICY_FILE).write_text(text)
        shutil.copytree((ROOT / "jobs" / job / CLIENT_CONFIG).parent, workspace.get_app_config_dir("0123"))
        if custom:
            Path(workspace.get_app_custom_dir("0123")).mkdir()
        return get_job_launcher(meta, context())

    return run


def test_a_job_within_the_policy_starts(launch):
    assert isinstance(launch("mscan_fedavg_he_packed", {"encryption": True}), Launcher)


@pytest.mark.parametrize("policy", [{"encryption": True}, {"required_filters": ["a.B"]}, "{", '{"typo": 1}'])
def test_a_job_beyond_it_or_a_policy_that_cannot_be_read_starts_nothing(launch, policy):
    with pytest.raises(RuntimeError, match="no job launcher"):
        launch("mscan_fedavg", policy)


def test_code_that_flare_knows_of_starts(launch):
    assert isinstance(launch("mscan_fedavg", {}, WITH_CODE, custom=True), Launcher)


def test_code_that_flare_does_not_know_of_starts_nothing(launch):
    with pytest.raises(RuntimeError, match="no job launcher"):
        launch("mscan_fedavg", {}, META, custom=True)


def test_a_job_that_cannot_be_found_starts_nothing(launch, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copytree", lambda *_: None)
    with pytest.raises(RuntimeError, match="no job launcher"):
        launch("mscan_fedavg", {})
