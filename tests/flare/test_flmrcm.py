"""The job unet_flmrcm at tiny size, in one process: who gets latents and when, and what leaves a site."""

import json
import logging
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.fuel.utils import fobs

from federation import federate
from fedmr.algorithms.flmrcm import LATENTS
from fedmr.flare.learner import STATE_FILE
from fedmr.flare.messages import unpack
from fedmr.nets import build
from fedmr.privacy.accountant import BUDGET_FILE, gaussian_epsilon
from fedmr.runs.records import read_rejections
from fedmr.runs.run import Run
from fedmr.tasks.slices import SliceSampler, load_volumes
from fedmr.training.target_latents import site_latents
from latents_example import ALGORITHM, ROUNDS, VECTORS, WIDTH
from phantoms import write_site
from simulator import render_tiny_job

SITES = ("site-1", "site-2", "site-3")


NOISE = {"clip": 2.0, "noise_multiplier": 4.0, "delta": 1e-5}
GOLDEN = Path(__file__).parent / "golden_flmrcm.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sites that keep their pictures to themselves."""
    root = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES, start=1):
        folder = write_site(root, site, seed=number, patients=2 + number, shape=(40 + number, 40, 3))
        content = json.loads((folder / "datalist.json").read_text())
        (folder / "datalist.json").write_text(json.dumps(content | {"share_images": False}))
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Run the job with other settings of its algorithm, or a job without the algorithm."""

    @cache
    def job(name, overlay):
        return render_tiny_job(tmp_path_factory.mktemp("job"), ROUNDS, job=name, overlay=overlay)

    def make(overlay="", job_name="unet_flmrcm", *, sites=SITES, restart=False, late=lambda *_: False, **algorithm):
        if job_name == "unet_flmrcm":
            overlay = f"task.algorithm = null\ntask.algorithm = {json.dumps(ALGORITHM | algorithm)}\n{overlay}"
        home = tmp_path_factory.mktemp("run") / "w"
        return federate(job(job_name, overlay), home, data, sites=sites, restart=restart, late=late)

    return make


@pytest.fixture(scope="module")
def aligned(run):
    return run()


@pytest.fixture(scope="module")
def plain(run):
    """FL-MR on the same sites."""
    return run(job_name="unet_flmr")


def global_model(federation):
    path = federation.home / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    return {name: torch.as_tensor(value) for name, value in torch.load(path, weights_only=True)["model"].items()}


def equal(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def train_tasks(federation):
    """Per round: the weights, and the latents by site that got a train task; None where it got none with it."""
    rounds = {}
    for site, task, message, _ in federation.messages:
        if task == "train":
            number = fobs.loads(message).get_header("current_round")
            weights, beside = unpack(fobs.loads(message))
            rounds.setdefault(number, (weights, {}))[1][site] = beside.get(LATENTS)
    return [rounds[number] for number in sorted(rounds)]


def states(federation):
    return {site: torch.load(federation.state(site) / STATE_FILE, weights_only=True) for site in federation.sites}


@pytest.mark.e2e
def test_the_sources_get_the_targets_latents_of_the_weights_they_train_from(aligned, data):
    for number, (weights, given) in enumerate(train_tasks(aligned)):
        task = aligned.sites["site-3"].components["learner"]._task
        net = build(**task.network)
        net.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
        sampler = SliceSampler(load_volumes(data / "site-3", task, ("train",)), task)
        expected = site_latents(net, sampler, vectors=VECTORS, number=number).numpy()
        assert given["site-3"] is None
        for site in SITES[:2]:
            assert np.array_equal(given[site], given["site-1"])
            assert np.allclose(given[site], expected, atol=1e-5)


@pytest.mark.e2e
def test_every_message_holds_weights_steps_metrics_and_bounded_latents_only(aligned):
    """All that FLARE carries in a run. No array could be an image: each is a weight by name and shape, or latents."""
    network = aligned.sites["site-1"].components["learner"].task["network"]
    shapes = {name: tuple(value.shape) for name, value in build(**network).state_dict().items()}
    assert max(max(shape[-2:]) for shape in shapes.values() if len(shape) > 1) < 32 < 40, "the images' side"
    seen = set()

    def look(value, name=""):
        if isinstance(value, dict):
            for key, part in value.items():
                look(part, key)
        elif isinstance(value, DXO):
            look(value.to_dict())
        elif isinstance(value, (list, tuple)):
            for part in value:
                look(part, name)
        elif isinstance(value, (np.ndarray, torch.Tensor)):
            seen.add(name)
            allowed = (VECTORS, WIDTH) if name == LATENTS else shapes[name]
            assert tuple(value.shape) == allowed, name
        else:
            assert value is None or isinstance(value, (bool, int, float, np.number, str)), (name, type(value))
            assert len(str(value)) < 200, name

    for _, _, message, reply in aligned.messages:
        look(fobs.loads(message))
        look(fobs.loads(reply))
    assert seen == {*shapes, LATENTS}
    kinds = {(site, task) for site, task, _, _ in aligned.messages}
    assert {site for site, task in kinds if task == "latents"} == {"site-3"}
    for site, records in aligned.records.items():
        assert all(isinstance(value, float) for values in records.values() for value in values), site


@pytest.mark.e2e
def test_the_target_trains_plainly_and_the_sources_do_not(aligned, plain):
    """In the first round, which begins with the same weights."""

    def updates(federation):
        found = {}
        for site, task, _, reply in federation.messages:
            if task == "train":
                found.setdefault(site, from_shareable(fobs.loads(reply)))
        return found

    mrcm, mr = updates(aligned), updates(plain)
    for site in SITES:
        same = all(np.array_equal(value, mr[site].data[name]) for name, value in mrcm[site].data.items())
        assert same == (site == "site-3"), site
        assert mrcm[site].data_kind == DataKind.WEIGHT_DIFF
        assert mrcm[site].data.keys() == mr[site].data.keys(), "no identifier among them"
    hooks = {site: state["hooks"] for site, state in states(aligned).items()}
    assert hooks["site-3"] == [{}]
    assert all(set(hooks[site][0]) == {"identifier", "optimizer", "generator"} for site in SITES[:2])


@pytest.mark.e2e
def test_without_weight_it_is_fl_mr_to_the_last_bit(run, plain, aligned):
    assert equal(global_model(run(weight=0.0)), global_model(plain))
    assert not equal(global_model(aligned), global_model(plain))


@pytest.mark.e2e
def test_new_processes_for_every_task_change_nothing(run, aligned):
    restarted = run(restart=True)
    assert equal(global_model(restarted), global_model(aligned))
    own, other = (f["site-1"]["hooks"][0]["identifier"] for f in (states(restarted), states(aligned)))
    assert equal(own, other)


@pytest.mark.e2e
def test_a_target_outside_gives_latents_and_tests_models_and_counts_for_nothing(run):
    """Without weight the two other sites' federation."""
    outside = run("min_clients_per_round = 1000", train_target=False)
    assert [set(given) for _, given in train_tasks(outside)] == [{"site-1", "site-2"}] * ROUNDS
    assert all(latents is not None for _, given in train_tasks(outside) for latents in given.values())
    assert not read_rejections(outside.home / "server" / "simulate_job")
    assert set(Run(outside.home).figures()["sites"]) == set(SITES)
    assert set(Run(outside.home).rounds[-1]["sites"]) == {"site-1", "site-2"}
    of_two = run(job_name="unet_flmr", sites=SITES[:2])
    assert equal(global_model(run(train_target=False, weight=0.0)), global_model(of_two))
    assert not equal(global_model(outside), global_model(of_two))


@pytest.mark.e2e
def test_targets_take_turns(run):
    for train_target in (True, False):
        federation = run(target_sites=["site-3", "site-2"], train_target=train_target)
        asked = [site for site, task, _, _ in federation.messages if task == "latents"]
        assert asked == ["site-3", "site-2", "site-3"]
        for (_, given), target in zip(train_tasks(federation), asked, strict=True):
            expected = {s: s != target for s in SITES} if train_target else {"site-1": True}
            assert {site: latents is not None for site, latents in given.items()} == expected


@pytest.mark.e2e
def test_a_target_that_is_late_makes_a_plain_round_and_its_reply_is_not_used_later(run, plain, aligned, caplog):
    late = run(late=lambda site, task: task == "latents")
    assert all(latents is None for _, given in train_tasks(late) for latents in given.values())
    assert equal(global_model(late), global_model(plain))
    for number in range(ROUNDS):
        assert f"round {number} trains plainly, without latents of target site site-3: it did not answer" in caplog.text
    turns = iter((False, True, False))
    once = run(late=lambda site, task: task == "latents" and next(turns))
    rounds = train_tasks(once)
    assert [given["site-1"] is not None for _, given in rounds] == [True, False, True]
    assert set(rounds[1][1]) == set(SITES)
    for index in (0, 2):
        (own,) = [
            from_shareable(fobs.loads(reply)).data[LATENTS]
            for _, task, message, reply in once.messages
            if task == "latents" and fobs.loads(message).get_header("current_round") == index
        ]
        assert np.array_equal(rounds[index][1]["site-1"], own)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("overlay", "algorithm", "reason"),
    [
        ("", {"target_sites": ["site-9"]}, "of target site site-9: it is not in this job"),
        ("", NOISE | {"max_epsilon": 1e-3}, "it replied EXECUTION_RESULT_ERROR; its own log says why"),
        ("train_args.task.algorithm { target_sites = [site-3], vectors = 2 }", {}, "the shape (5, 32); 1 to 2 of 32"),
        ("train_args.task.algorithm { target_sites = [site-1] }", {}, "it replied EXECUTION_RESULT_ERROR"),
        ("client.executors = ${other}", {}, "it replied TASK_UNKNOWN"),
    ],
    ids=["gone", "budget spent", "too many", "no target by its own config", "job without the task"],
)
def test_without_usable_latents_a_round_is_plain_and_the_log_says_why(run, plain, caplog, overlay, algorithm, reason):
    other = "nvflare.app_common.executors.learner_executor.LearnerExecutor"
    executor = f"{{ path = {other}, args {{ learner_id = learner }} }}"
    overlay = f"other = [{{ tasks = [train, validate, latents], executor {executor} }}]\n{overlay}"
    federation = run(overlay, **algorithm)
    assert equal(global_model(federation), global_model(plain))
    assert f"round 0 trains plainly, without latents of target site {algorithm.get('target_sites', ['site'])[0]}" in (
        caplog.text
    )
    assert reason in caplog.text
    if "max_epsilon" in algorithm:
        assert "site-3 gives no latents: the privacy budget is spent" in caplog.text


@pytest.mark.e2e
def test_the_noise_is_paid_for_in_the_sites_own_account(run):
    epsilon = [gaussian_epsilon({4.0: count}, 1e-5) for count in (1, 2, 3)]
    federation = run(**NOISE, max_epsilon=epsilon[1] * 1.001)
    account = json.loads((federation.home / "site-3" / "local" / BUDGET_FILE).read_text())
    assert (account["gaussian"], account["releases"]) == ({"4.0": 2}, 2)
    assert federation.records["site-3"]["privacy/epsilon"] == pytest.approx(epsilon[:2])
    assert [given["site-1"] is not None for _, given in train_tasks(federation)] == [True, True, False]
    assert not (federation.home / "site-1" / "local" / BUDGET_FILE).exists()


@pytest.mark.e2e
def test_bytes_of_latents_are_told(aligned, caplog, run):
    assert aligned.records["site-3"]["latents/bytes"] == [4 * VECTORS * WIDTH] * ROUNDS
    caplog.set_level(logging.INFO)
    run()
    size = sum(value.nbytes for value in train_tasks(aligned)[0][0].values())
    line = f"target site site-3 | 5 latents of 32 values to site-1, site-2: 640 bytes each, beside {size:,} of weights"
    assert f"round 1 | {line}" in caplog.text


@pytest.mark.e2e
def test_the_numbers_of_a_run_are_the_golden_ones(aligned):
    """A change of any of these numbers is a change of the method; the tolerance is for other processors."""
    tested = Run(aligned.home).figures()["sites"]
    expected = json.loads(GOLDEN.read_text())
    for record, golden in zip(Run(aligned.home).rounds, expected["rounds"], strict=True):
        assert {site: row["psnr"] for site, row in record["sites"].items()} == pytest.approx(golden, abs=0.001)
    assert {s: row["model"]["psnr"] for s, row in tested.items()} == pytest.approx(expected["test"], abs=0.001)
