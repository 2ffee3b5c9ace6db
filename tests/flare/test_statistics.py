"""The job's statistics through FLARE's own handler, filter and server functions; only messages are stood in for."""

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import StatisticsConstants as StC
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_common.statistics.numeric_stats import get_global_stats
from nvflare.fuel.utils import fobs
from pyhocon import ConfigFactory

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.data.statistics import INTENSITY, PER_PATIENT, PER_VOLUME, Sample
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.privacy.policy import POLICY_FILE
from fedmr.runs.run import STATISTICS
from phantoms import write_site

JOB = Path(__file__).parents[2] / "jobs" / "federated_stats"
CLIENT, SERVER = (ConfigFactory.parse_file(JOB / c).as_plain_ordered_dict() for c in (CLIENT_CONFIG, SERVER_CONFIG))
CONTROLLER = SERVER["workflows"][0]
FILTER = CLIENT["task_result_filters"][0]["filters"][0]
EXECUTOR = CLIENT["executors"][0]["executor"]
MINIMUM = 5

common_decomposers.register()  # as FLARE's client process does


def build(node: dict):
    module, _, name = node["path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**node["args"])


class Site:
    """One site's part of the job: components, executor and filter as the rendered job configures them."""

    def __init__(self, name: str, root: Path | None = None, samples=None, local: Path = Path("no-policy")):
        self.components = {node["id"]: build(node) for node in CLIENT["components"]}
        if samples:  # instead of volumes
            self.components["generator"].initialize = lambda fl_ctx: None
            self.components["generator"]._samples = samples
        owners = SimpleNamespace(get_site_config_dir=lambda: str(local))
        workspace = Workspace(str(root), site_name=name) if root else owners
        engine = SimpleNamespace(get_component=self.components.get, get_workspace=lambda: workspace)
        self.fl_ctx = FLContext()
        self.fl_ctx.set_prop(ReservedKey.ENGINE, engine, private=True)
        self.fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, name)
        self.fl_ctx.set_prop(ReservedKey.RUN_NUM, "job")
        self.executor = build(EXECUTOR)
        self.executor.initialize(self.fl_ctx)

    def reply(self, inputs: Shareable, result_filter=None) -> Shareable:
        reply = self.executor.execute(StC.FED_STATS_TASK, inputs, self.fl_ctx, Signal())
        return (result_filter or build(FILTER)).process(reply, self.fl_ctx)


def federate(sites: dict[str, Site]) -> dict:
    """Both rounds of FLARE's controller: feature -> statistic -> site or Global -> data set."""
    server = build(CONTROLLER)
    for task in (StC.STATS_1st_STATISTICS, StC.STATS_2nd_STATISTICS):
        inputs = server._prepare_inputs(task)
        for name, site in sites.items():
            for statistic, values in fobs.loads(from_shareable(site.reply(inputs)).data[task]).items():
                server.client_statistics.setdefault(statistic, {})[name] = values
        server.global_statistics = get_global_stats(
            server.global_statistics, server.client_statistics, task, server.statistic_configs, server.precision
        )
    assert server._validate_min_clients(len(sites), server.client_statistics), "FLARE would abort the job"
    return server._combine_all_statistics() | {"ranges": server.client_statistics}


def samples(records, patients=MINIMUM) -> dict[str, dict[str, Sample]]:
    features = {name: Sample.of(records) for name in (INTENSITY, *PER_VOLUME)}
    return {"all": features | {PER_PATIENT: Sample.of([1.0] * patients)}}


LISTS = st.lists(st.lists(st.floats(0, 2000, width=32), min_size=MINIMUM, max_size=30), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(LISTS)
def test_the_global_statistics_are_those_of_the_pooled_records(parts):
    result = federate({f"site-{k}": Site(f"site-{k}", samples=samples(part)) for k, part in enumerate(parts)})
    pooled = np.concatenate(parts)
    intensity = {statistic: values["Global"]["all"] for statistic, values in result[INTENSITY].items() if values}
    assert intensity["count"] == len(pooled)
    assert intensity["mean"] == pytest.approx(pooled.mean(), abs=1e-6)
    assert intensity["stddev"] == pytest.approx(pooled.std(ddof=1), abs=1e-4)
    for k, part in enumerate(parts):
        assert result["slices"]["stddev"][f"site-{k}"]["all"] == pytest.approx(np.std(part, ddof=1), abs=1e-4)


def test_the_global_histogram_is_that_of_the_pooled_records():
    rng = np.random.default_rng(0)
    parts = {f"site-{k}": rng.normal(300 * k, 200, 1000) for k in range(1, 4)}
    result = federate({name: Site(name, samples=samples(part)) for name, part in parts.items()})
    bins = np.array(result[INTENSITY]["histogram"]["Global"]["all"])
    expected, edges = np.histogram(np.concatenate(list(parts.values())).clip(0, 1250), 50, (0, 1250))
    assert np.array_equal(bins[:, 2], expected)
    assert np.allclose(bins[:, 0], edges[:-1])


def test_a_site_with_few_patients_leaves_only_zeros_and_does_not_change_the_others():
    rng = np.random.default_rng(1)
    visible = {f"site-{k}": Site(f"site-{k}", samples=samples(rng.normal(500, 90, 2000))) for k in (1, 2)}
    alone = federate(visible)
    result = federate(visible | {"site-3": Site("site-3", samples=samples(rng.normal(900, 9, 5000), MINIMUM - 1))})
    for feature in (INTENSITY, *PER_VOLUME, PER_PATIENT):
        assert result[feature]["count"]["site-3"] == {"all": 0}
        for statistic in ("sum", "mean", "stddev", "histogram"):
            assert "site-3" not in result[feature].get(statistic, {})
            if feature != "white_level" or statistic != "histogram":  # its range is drawn at random
                assert result[feature].get(statistic, {}).get("Global") == alone[feature].get(statistic, {}).get(
                    "Global"
                )
    for statistic, by_site in result["ranges"].items():
        assert statistic == "count" or by_site["site-3"] == {"all": {}}


def test_with_every_site_hidden_the_job_ends_without_statistics():
    result = federate({f"site-{k}": Site(f"site-{k}", samples=samples([1.0] * 50, 1)) for k in (1, 2)})
    assert result[INTENSITY] == {"count": {s: {"all": 0} for s in ("site-1", "site-2", "Global")}}


def test_a_site_without_volumes_of_a_data_set_is_hidden_too():
    empty = {"all": dict.fromkeys((INTENSITY, *PER_VOLUME, PER_PATIENT), Sample.of([]))}
    with pytest.warns(RuntimeWarning, match="invalid value"):
        result = federate(
            {"site-1": Site("site-1", samples=samples([2.0] * 9)), "site-2": Site("site-2", samples=empty)}
        )
    assert result["slices"]["mean"] == {"site-1": {"all": 2.0}, "Global": {"all": 2.0}}
    assert result["slices"]["count"]["site-2"] == {"all": 0}


@pytest.mark.parametrize("draw", range(5))
def test_no_sites_smallest_or_largest_value_leaves_exactly(draw):
    records = [110.0, 130.0, 150.0, 160.0, 190.0]
    ranges = federate({"site-1": Site("site-1", samples=samples(records))})["ranges"]
    low, high = (ranges[statistic]["site-1"]["all"] for statistic in ("min", "max"))
    assert 110 * 0.7 <= low["white_level"] <= 110 * 0.9
    assert 190 * 1.1 <= high["white_level"] <= 190 * 1.3
    configured = CONTROLLER["args"]["statistic_configs"]["histogram"]
    assert {name for name in configured if "range" not in configured[name]} == {"white_level"}
    for name, config in configured.items():
        if "range" in config:  # what leaves is the job's own range, blurred
            assert abs(low[name]) <= 1e-5
            assert high[name] == pytest.approx(config["range"][1] * 1.2, rel=0.1)


@pytest.mark.parametrize(("volumes", "leaves"), [(105, False), (106, True)])
def test_histograms_of_volumes_leave_only_with_many_volumes(volumes, leaves):
    result = federate({"site-1": Site("site-1", samples=samples(list(map(float, range(volumes)))))})
    assert ("site-1" in result["slices"].get("histogram", {})) is leaves
    assert "site-1" in result["slices"]["mean"]


def test_every_cleanser_is_applied_and_one_that_is_missing_stops_the_site():
    ids = FILTER["args"]["result_cleanser_ids"]
    site = Site("site-1", samples=samples([1.0] * 9))
    inputs = build(CONTROLLER)._prepare_inputs(StC.STATS_1st_STATISTICS)
    for missing in ids:
        with_typo = build(FILTER | {"args": {"result_cleanser_ids": [i if i != missing else f"{i}s" for i in ids]}})
        with pytest.raises(ValueError, match=f"{missing}s"):
            site.reply(inputs, with_typo)
    with pytest.raises(ValueError, match="not all"):
        site.reply(inputs, build(FILTER | {"args": {"result_cleanser_ids": []}}))


def test_the_job_and_the_report_agree_on_place_and_features():
    assert SERVER["components"][0]["args"]["output_path"] == str(STATISTICS)
    assert set(CONTROLLER["args"]["statistic_configs"]["histogram"]) == {INTENSITY, *PER_VOLUME, PER_PATIENT}
    assert {"count", "sum", "mean", "stddev", "histogram"} == set(CONTROLLER["args"]["statistic_configs"])
    assert CLIENT["task_result_filters"][0]["tasks"] == CLIENT["executors"][0]["tasks"] == [StC.FED_STATS_TASK]


@pytest.fixture
def root(tmp_path, monkeypatch):
    for folder in ("startup", "local", "job"):
        (tmp_path / "flare" / "site-1" / folder).mkdir(parents=True)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "flare" / "site-1"


def test_the_volumes_of_the_sites_own_folder_are_measured_and_hidden_if_few(site, root):
    started = Site("site-1", root)
    assert started.components["generator"].count("all", "slices") == 3
    result = federate({"site-1": started})
    assert result["slices"] == {"count": {"site-1": {"all": 0}, "Global": {"all": 0}}}


def test_data_that_cannot_be_used_end_the_job_with_one_line_that_names_the_file(site, root, caplog):
    (site / "sub-1" / "anat" / "sub-1_T1w.nii.gz").unlink()
    started = Site("site-1", root)
    for task in (StC.STATS_1st_STATISTICS, StC.STATS_2nd_STATISTICS):
        reply = started.reply(build(CONTROLLER)._prepare_inputs(task))
        assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
        assert build(CONTROLLER).abort_job_in_error[ReturnCode.EXECUTION_EXCEPTION]
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1
    assert "site-1 cannot take part: sub-1/anat/sub-1_T1w.nii.gz does not exist" in errors[0]
    assert str(site) not in errors[0]


def test_a_site_without_data_says_so(root, caplog):
    Site("site-1", root)
    assert "site-1 cannot take part: no data for site 'site-1'" in caplog.text


def test_what_the_executor_sends_is_what_the_filter_cleanses():
    """FLARE's filter passes other kinds of data on as they are."""
    assert build(EXECUTOR).get_data_kind() in build(FILTER).data_kinds


def test_no_job_lowers_the_sites_own_least_number_of_patients(tmp_path):
    (tmp_path / POLICY_FILE).write_text('{"min_patients": 7}')
    inputs = build(CONTROLLER)._prepare_inputs(StC.STATS_1st_STATISTICS)
    for patients, count in ((MINIMUM, 0), (7, 9)):
        site = Site("site-1", samples=samples([1.0] * 9, patients), local=tmp_path)
        sent = fobs.loads(from_shareable(site.reply(inputs)).data[StC.STATS_1st_STATISTICS])
        assert sent["count"]["all"][INTENSITY] == count
    for missing in FILTER["args"]["result_cleanser_ids"]:
        rest = [name for name in FILTER["args"]["result_cleanser_ids"] if name != missing]
        with pytest.raises(ValueError, match="min_patients"):
            site.reply(inputs, build(FILTER | {"args": {"result_cleanser_ids": rest}}))


def test_no_job_gets_exact_ends_or_fine_bins_where_a_policy_names_min_patients(tmp_path):
    (tmp_path / POLICY_FILE).write_text('{"min_patients": 5}')
    site = Site("site-1", samples=samples([1.0] * 9, 6), local=tmp_path)
    noise, bins = site.components["min_max_noise"], site.components["histogram_bins"]
    noise.noise_level, bins.max_bins_percent = (0.0, 0.0), 100
    site.reply(build(CONTROLLER)._prepare_inputs(StC.STATS_1st_STATISTICS))
    assert noise.noise_level == (0.1, 0.3)
    assert bins.max_bins_percent == 10


def test_a_job_whose_cohort_differs_by_one_patient_from_an_earlier_one_gets_nothing(root, caplog):
    (root / "local" / POLICY_FILE).write_text('{"min_patients": 5}')
    folder = write_site(root.parents[1] / "data", "site-1", seed=1, patients=6)
    assert not Site("site-1", root).components["generator"].failed
    shutil.rmtree(folder)
    write_site(root.parents[1] / "data", "site-1", seed=1, patients=7)
    again = Site("site-1", root)
    reply = again.reply(build(CONTROLLER)._prepare_inputs(StC.STATS_1st_STATISTICS))
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert "differs by the scans of 1 patient(s)" in caplog.text
    assert "sub-6" not in caplog.text
