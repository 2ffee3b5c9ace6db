"""Whole federations. FLARE's simulator exits 0 even when every site died, so everything is read from artefacts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from browser import CHROMIUM, browser
from federation import federate
from fedmr.federation.render import SERVER_CONFIG, read_task
from fedmr.nets import build
from fedmr.reports.html import write_html
from fedmr.runs.checks import RunError
from fedmr.runs.figures import best_round
from fedmr.runs.run import Run
from fedmr.tasks.registry import build_task
from fedmr.training.standalone import evaluate_sites, train_pooled
from fedmr.utils.hocon import read_hocon
from phantoms import write_site
from simulator import ROUNDS, SITES, render_tiny_job, simulate

pytestmark = pytest.mark.e2e
RUN = Path("server") / "simulate_job"


def weights(path: Path) -> dict[str, torch.Tensor]:
    model = torch.load(path, weights_only=True)["model"]
    return {name: torch.as_tensor(value) for name, value in model.items()}


def global_model(workspace: Path, name: str = "FL_global_model.pt") -> dict[str, torch.Tensor]:
    return weights(workspace / RUN / "app_server" / name)


def largest_difference(a, b) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def fedmr(*arguments) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "fedmr", *arguments]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, check=False)


def test_every_site_contributed_every_round_and_the_model_changed(federation, tiny_job):
    log = (federation / "server" / "log.txt").read_text()
    for number in range(ROUNDS):
        for site in SITES:
            assert f"Contribution from {site} ACCEPTED by the aggregator at round {number}" in log
    rounds = Run(federation).rounds
    assert [r["round"] for r in rounds] == list(range(ROUNDS))
    assert all(set(r["sites"]) == set(SITES) for r in rounds)
    initial = build(**build_task(read_task(tiny_job)).network).state_dict()
    assert largest_difference(initial, global_model(federation)) > 1e-3


def test_each_site_logs_round_loss_psnr_and_time(federation):
    for site in SITES:
        log = (federation / site / "log.txt").read_text()
        lines = re.findall(
            rf"{site} \| round (\d)/{ROUNDS - 1} \| epoch 1/1 \| loss [\d.]+ \| PSNR received [\d.]+ dB \| "
            r"\d+ ms/step \| [\d.]+ min left",
            log,
        )
        assert lines == [str(n) for n in range(ROUNDS)]


def test_the_best_model_is_that_of_the_round_with_the_best_psnr(federation):
    best = best_round(Run(federation).rounds)
    log = (federation / "server" / "log.txt").read_text()
    announced = re.findall(r"new best validation metric at round (\d): ([\d.]+)", log)
    assert int(announced[-1][0]) == best["round"]
    assert float(announced[-1][1]) == pytest.approx(best["psnr"])
    assert largest_difference(global_model(federation), global_model(federation, "best_FL_global_model.pt")) > 0


def test_psnr_of_every_round_and_site_is_the_golden_one(federation):
    """A change of any of these numbers is a change of the method; the tolerance is for other processors."""
    golden = json.loads((Path(__file__).parent / "golden_fedavg.json").read_text())
    for record, expected in zip(Run(federation).rounds, golden["rounds"], strict=True):
        assert {s: row["psnr"] for s, row in record["sites"].items()} == pytest.approx(expected, abs=0.01)
    tested = {site: row["model"]["psnr"] for site, row in Run(federation).figures()["sites"].items()}
    assert tested == pytest.approx(golden["test"], abs=0.01)


def test_figures_come_from_every_site_and_equal_an_evaluation_of_the_saved_model(federation, hospitals):
    reported = Run(federation).figures()
    evaluated = evaluate_sites(federation / RUN / "app_server" / "FL_global_model.pt", hospitals)
    assert set(reported["sites"]) == set(SITES)
    for site, row in evaluated["sites"].items():
        for method in ("zero_filled", "interpolated", "model"):
            assert reported["sites"][site][method] == pytest.approx(row[method], rel=1e-4)


def test_the_command_line_writes_table_json_and_picture(federation, hospitals, tmp_path):
    model = federation / RUN / "app_server" / "FL_global_model.pt"
    for command in (("report", federation), ("evaluate", model, hospitals)):
        figures, picture = tmp_path / f"{command[0]}.json", tmp_path / f"{command[0]}.png"
        result = fedmr(*command, "--json", figures, "--picture", picture)
        assert result.returncode == 0, result.stderr
        content = json.loads(figures.read_text())
        assert set(content["sites"]) == set(SITES)
        assert {"psnr", "ssim"} <= set(content["mean"]["model"])
        assert f"{content['sites']['site-2']['model']['psnr']:.2f}" in result.stdout
        assert picture.stat().st_size > 20_000


def test_tensorboard_holds_curves_and_a_picture_of_every_site(federation):
    for site in SITES:
        events = EventAccumulator(str(federation / RUN / "tb_events" / site))
        events.Reload()
        for tag in ("train/loss", "train/learning_rate", "val/psnr", "val/ssim"):
            assert len(events.Scalars(tag)) == ROUNDS, (site, tag)
        assert "test/SRV_FL_global_model.pt" in events.Tags()["images"]


def test_log_and_statistics_of_a_run_say_when_and_how_much(federation):
    log = Run(federation).log
    assert list(log.rounds) == list(range(ROUNDS))
    for phase in log.rounds.values():
        assert set(phase.turns) == set(SITES)
        assert max(phase.turns.values()) < phase.seconds
        assert phase.up > len(SITES) * 13_000 < phase.down * 2, "13 kB of weights cross twice per site"
    assert log.training_seconds < (log.last - log.first).total_seconds()
    assert all(len(Run(federation).step_times(site)) == ROUNDS for site in SITES)
    traffic = Run(federation).traffic
    assert {"tasks", "results", "curves"} < set(traffic)
    for direction in ("up", "down"):
        logged = sum(getattr(phase, direction) for phase in [*log.rounds.values(), log.test])
        assert logged < sum(row[direction] for row in traffic.values())
    streamed = sum(stream.picture_bytes for stream in Run(federation).streams.values())
    assert 0 < streamed < sum(phase.up for phase in log.rounds.values())


def test_the_page_of_a_run_holds_its_figures_and_opens_in_a_browser(federation, tmp_path):
    write_html(Run(federation), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "incomplete" not in text
    for site, row in Run(federation).figures()["sites"].items():
        assert re.search(rf">{site}</th>.*?>{row['model']['psnr']:.2f}</td>", text, re.DOTALL)
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page in")
    with browser() as view:
        view.open(tmp_path / "report.html", width=400)
        assert view.evaluate("document.documentElement.scrollWidth") == 400
        assert view.problems == []


def test_one_process_gives_the_numbers_of_the_simulator(federation, tiny_job, hospitals, tmp_path):
    run = federate(tiny_job, tmp_path / "w", hospitals).home
    assert Run(run).rounds[-1]["sites"] == Run(federation).rounds[-1]["sites"]
    assert Run(run).figures() == Run(federation).figures()


def test_the_global_model_is_the_weighted_mean_by_hand_whatever_the_settings_of_flare(tmp_path, hospitals):
    """One round; each site's own weights and steps are read from the state it keeps."""
    job = render_tiny_job(tmp_path, rounds=1)
    result = simulate(job, tmp_path / "w", hospitals, sites=2, threads=2, settings=True)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "streaming_window_size" not in result.stdout  # FLARE would warn of a window of too many frames
    states = [torch.load(tmp_path / "w" / s / "simulate_job" / "fedmr_site_state.pt") for s in SITES[:2]]
    steps = [state["schedule"]["last_epoch"] for state in states]
    assert steps[0] < steps[1], "sites of different size take different numbers of steps"
    mean = {
        name: sum(n * state["net"][name].double() for n, state in zip(steps, states, strict=True)) / sum(steps)
        for name in states[0]["net"]
    }
    assert largest_difference(global_model(tmp_path / "w"), {k: v.float() for k, v in mean.items()}) < 1e-7
    again = federate(job, tmp_path / "one", hospitals, sites=SITES[:2]).home  # the same seed, without the settings
    assert Run(tmp_path / "w").figures() == Run(again).figures()
    assert largest_difference(global_model(tmp_path / "w"), global_model(again)) == 0


def test_fewer_threads_than_sites_end_in_the_same_weights(hospitals, tmp_path):
    """With one thread for two sites a site's process ends and starts anew every round: its state survives on disk."""
    job = render_tiny_job(tmp_path, rounds=2)
    server = read_hocon(job / SERVER_CONFIG).as_plain_ordered_dict()
    server["workflows"] = [w for w in server["workflows"] if w["id"] == "train"]  # a test would start each once more
    (job / SERVER_CONFIG).write_text(json.dumps(server))
    assert simulate(job, tmp_path / "w", hospitals, sites=2, threads=1).returncode == 0
    expected = federate(job, tmp_path / "one", hospitals, sites=SITES[:2]).home
    assert largest_difference(global_model(tmp_path / "w"), global_model(expected)) < 1e-6


def test_one_site_with_all_data_equals_training_without_flare(tiny_job, hospitals, tmp_path):
    """The site finds data/ in the folder in which the command was typed, far from the workspace."""
    data = tmp_path / "typed" / "here" / "data" / "site-1"
    shutil.copytree(hospitals / "site-4", data)
    folder = data.parent.parent
    assert simulate(tiny_job, tmp_path / "w", None, sites=1, threads=1, folder=folder).returncode == 0
    model = train_pooled(data, tmp_path / "out", job=tiny_job, say=lambda _: None)
    assert largest_difference(global_model(tmp_path / "w"), weights(model)) < 1e-5


def test_one_bad_volume_stops_the_site_before_training_and_fails_the_job(tiny_job, tmp_path):
    """A truncated one; a missing one and one with NaN are refused alike: tests/test_data.py, flare/test_learner.py."""
    for number, site in enumerate(SITES[:2], start=1):
        write_site(tmp_path / "data", site, seed=number)
    image = tmp_path / "data" / "site-2" / "sub-0" / "anat" / "sub-0_T1w.nii.gz"
    image.write_bytes(image.read_bytes()[:3000])
    result = simulate(tiny_job, tmp_path / "w", tmp_path / "data", sites=2, threads=2)
    assert result.returncode != 0
    errors = [
        line for line in (tmp_path / "w" / "site-2" / "log.txt").read_text().splitlines() if "cannot take part" in line
    ]
    assert len(errors) == 1
    assert "sub-0_T1w.nii.gz" in errors[0]
    assert "site-2 | round" not in (tmp_path / "w" / "site-2" / "log.txt").read_text()
    assert "Round 0 finished" not in (tmp_path / "w" / "server" / "log.txt").read_text()
    with pytest.raises(RunError):
        Run(tmp_path / "w").figures()
    assert fedmr("report", tmp_path / "w").returncode == 1
    page = (tmp_path / "w" / "report.html").read_text()
    for words in ("This run is incomplete", "FL_global_model.pt is missing", "No site reported test figures"):
        assert words in page
