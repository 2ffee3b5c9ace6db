"""The filters of committed jobs and of a site's own policy."""

import importlib
import re
from pathlib import Path

import pytest
from nvflare.apis.dxo import DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import FilterKey, ReturnCode
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.fed.utils.fed_utils import create_job_processing_context_properties
from nvflare.private.privacy_manager import PrivacyService
from pyhocon import ConfigFactory

from fedmr.federation.render import CLIENT_CONFIG, check, render
from fedmr.flare.filters import GaussianPrivacy
from fedmr.privacy.accountant import BUDGET_FILE, Budget
from filter_run import reply, through_flare

ROOT = Path(__file__).parents[2]


JOBS = ("mscan_dp", "mscan_percentile", "mscan_svt")


TEMPLATE = ROOT / "poc" / "site" / "privacy.json"


def job_filters(name: str) -> list:
    chains = ConfigFactory.parse_file(ROOT / "jobs" / name / CLIENT_CONFIG)["task_result_filters"]
    assert len(chains) == 1
    assert set(chains[0]["tasks"]) == {"train", "validate", "submit_model"}
    nodes = [(node["path"].rpartition("."), node["args"]) for node in chains[0]["filters"]]
    return [getattr(importlib.import_module(m), c)(**a.as_plain_ordered_dict()) for (m, _, c), a in nodes]


@pytest.mark.parametrize("name", JOBS)
def test_a_committed_jobs_filters_protect_every_task(name, fl_ctx):
    made = job_filters(name)
    assert from_shareable(through_flare(reply(), made, fl_ctx)).meta[MetaKey.FILTER_HISTORY] == [
        type(made[-1]).__name__
    ]
    sent = through_flare(reply(kind=DataKind.WEIGHTS), made, fl_ctx)
    assert sent.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR


def test_the_sites_template_loads_into_flares_policy_for_clients_alone(workspace):
    (Path(workspace.get_site_config_dir()) / "privacy.json").write_text(TEMPLATE.read_text())
    scope = create_privacy_manager(workspace, names_only=False).get_scope(None)
    assert [type(f) for f in scope.task_result_filters[FilterKey.OUT]] == [GaussianPrivacy]
    server = create_privacy_manager(workspace, names_only=False, is_server=True).get_scope(None)
    assert server.task_result_filters[FilterKey.IN] == []


def test_flare_applies_the_sites_template_though_the_job_has_no_filter(workspace, fl_ctx):
    """FLARE's simulator reads privacy.json and does not apply it; a real client takes its policy as here."""
    (Path(workspace.get_site_config_dir()) / "privacy.json").write_text(TEMPLATE.read_text())
    Path(workspace.get_job_meta_path("job")).write_text("{}")
    PrivacyService.initialize(create_privacy_manager(workspace, names_only=False))
    try:
        for key, value in create_job_processing_context_properties(workspace, "job").items():
            fl_ctx.set_prop(key, value, private=True, sticky=True)
    finally:
        PrivacyService.initialize(None)
    sent = from_shareable(through_flare(reply(), [], fl_ctx))
    assert sent.meta[MetaKey.FILTER_HISTORY] == ["GaussianPrivacy"]
    assert Budget(Path(workspace.get_site_config_dir()) / BUDGET_FILE).read().releases == 1


def test_a_job_with_a_filter_after_the_encryptor_or_a_task_left_out_is_not_rendered(tmp_path):
    source = (ROOT / "app_configs" / "mscan_percentile.conf").read_text()
    encryptor = "{ path = nvflare.app_opt.he.model_encryptor.HEModelEncryptor, args {} }, { path = fedmr.flare.filters"
    changed = source.replace("{ path = fedmr.flare.filters", encryptor).replace(
        "train, validate, submit_model", "train"
    )
    assert changed.count("Encryptor") == 1
    (tmp_path / "app_configs").mkdir()
    for path in ("base.conf", "tasks/sr_x2.conf"):
        (tmp_path / "app_configs" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "app_configs" / path).write_text((ROOT / "app_configs" / path).read_text())
    (tmp_path / "app_configs" / "mscan_percentile.conf").write_text(changed)
    (tmp_path / "jobs").mkdir()
    problems = check(tmp_path / "app_configs", tmp_path / "jobs")
    for expected in (
        "StrictPercentilePrivacy comes after nvflare.app_opt.he.model_encryptor.HEModelEncryptor",
        "no privacy filter covers submit_model, validate",
        "no SiteGuard comes before the encryption",
    ):
        assert any(expected in problem for problem in problems), expected
        with pytest.raises(ValueError, match=re.escape(expected)):
            render(tmp_path / "app_configs", tmp_path / "jobs")
    assert list((tmp_path / "jobs").iterdir()) == []
