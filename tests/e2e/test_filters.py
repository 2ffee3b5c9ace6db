"""A site's own privacy.json in a provisioned federation whose job has no filter. (FLARE's simulator does not apply it.)

The sites hardly learn here, so what reaches the server is noise alone and can be tested for its deviation.
"""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedmr.federation.render import CLIENT_CONFIG, read_task
from fedmr.nets import build
from fedmr.privacy.accountant import BUDGET_FILE, gaussian_epsilon
from fedmr.privacy.ledger import LOCAL_RECORD
from fedmr.runs.run import Run
from fedmr.tasks.registry import build_task
from poc import Consortium, consortium
from simulator import ROOT, ROUNDS, SITES, render_tiny_job

pytestmark = pytest.mark.e2e
TEMPLATE = (ROOT / "poc" / "site" / "privacy.json").read_text()
SETTINGS = json.loads(TEMPLATE)["scopes"][0]["task_result_filters"][0]["args"]
STILL = "task { learning_rate = 1e-12, final_learning_rate = 1e-13 }, guard.learning_rate = 1"
TWO = SITES[:2]


def epsilon(releases: int) -> float:
    return gaussian_epsilon({SETTINGS["noise_multiplier"]: releases}, SETTINGS["delta"])


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return render_tiny_job(tmp_path_factory.mktemp("job"), overlay=STILL)


@pytest.fixture(scope="module")
def poc(tmp_path_factory, hospitals):
    """Two running sites that enforce the template."""
    with consortium(tmp_path_factory.mktemp("poc"), hospitals, dict.fromkeys(TWO, TEMPLATE)) as running:
        yield running


@pytest.fixture(scope="module")
def run(poc, job) -> Path:
    """Downloaded folder of the first job."""
    status, folder = poc.run(job)
    assert status == "FINISHED:COMPLETED"
    return folder


def test_the_template_noises_every_update_though_the_job_has_no_filter(run, job):
    assert "fedmr.flare.filters" not in (job / CLIENT_CONFIG).read_text()
    assert (run / "workspace" / "log.txt").read_text().count("ACCEPTED by the aggregator") == ROUNDS * len(TWO)
    initial = build(**build_task(read_task(job)).network).state_dict()
    final = torch.load(run / "workspace" / "app_server" / "FL_global_model.pt", weights_only=True)["model"]
    change = torch.cat([(torch.as_tensor(final[name]) - initial[name]).double().flatten() for name in initial])
    deviation = SETTINGS["noise_multiplier"] * SETTINGS["clip"]
    # the sites' weights in the mean are their shares of the steps, so the sum of their squares is from 1/2 to 0.6
    share, chance = float(change.var()) / (ROUNDS * deviation**2), 6.2 * (2 / len(change)) ** 0.5  # once in 10^9 runs
    assert 0.5 * (1 - chance) < share < 0.6 * (1 + chance)


def test_the_sites_accounts_and_records_hold_every_round(poc, run):
    for site in TWO:
        account = json.loads((poc.kits / site / "local" / BUDGET_FILE).read_text())
        assert account["gaussian"] == {repr(SETTINGS["noise_multiplier"]): ROUNDS}
        record = (poc.kits / site / run.name / LOCAL_RECORD).read_text().splitlines()
        rows = [json.loads(line) for line in record]
        assert [row["release"] for row in rows] == list(range(1, ROUNDS + 1))
        assert all(abs(row["cosine"]) < 0.2 and row["norm_ratio"] > 1e3 for row in rows)


def test_the_server_sees_epsilon_by_round_and_nothing_of_the_record(run):
    for site in TWO:
        events = EventAccumulator(str(run / "workspace" / "tb_events" / site)).Reload()
        assert [e.value for e in events.Scalars("privacy/epsilon")] == pytest.approx(
            [epsilon(n) for n in range(1, ROUNDS + 1)]
        )
    for path in run.rglob("*"):
        assert not path.is_file() or b"norm_ratio" not in path.read_bytes(), path


def test_the_figures_of_the_global_model_leave_rounded(run):
    figures = Run(run).figures()["sites"]
    assert set(figures) == set(TWO)
    for site in figures.values():
        assert site["model"]["psnr"] == float(f"{site['model']['psnr']:.4g}")


def test_a_budget_that_an_earlier_job_used_up_stops_the_next_job(poc: Consortium, run, job):
    budget = epsilon(ROUNDS + 1)
    policy = json.loads(TEMPLATE)
    policy["scopes"][0]["task_result_filters"][0]["args"]["max_epsilon"] = budget
    for site in TWO:
        (poc.kits / site / "local" / "privacy.json").write_text(json.dumps(policy))
    status, folder = poc.run(job)
    assert status == "FINISHED:EXECUTION_EXCEPTION"
    for site in TWO:
        account = json.loads((poc.kits / site / "local" / BUDGET_FILE).read_text())
        assert account["releases"] == ROUNDS + 1
    logs = [(poc.kits / site / folder.name / "log.txt").read_text() for site in TWO]
    assert any("the privacy budget is spent" in log for log in logs)  # the first refusal ends the job for both
    assert (folder / "workspace" / "log.txt").read_text().count("ACCEPTED by the aggregator") == len(TWO)
