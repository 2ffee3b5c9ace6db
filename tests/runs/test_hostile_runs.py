"""Runs in which another party sent what it should not: the report is made, and the record is named."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

from fedmr.cli.main import app
from fedmr.reports.html import write_html
from fedmr.reports.table import figures_table
from fedmr.runs.checks import RunError
from fedmr.runs.figures import summarise
from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from runs import HOSTILE, SITES, comparison, site_figures, write_run

ESCAPE = "\x1b[2J"


@pytest.fixture
def workspace(tmp_path):
    return write_run(tmp_path / "w")


def folder_of(workspace: Path) -> Path:
    return workspace / "server" / "simulate_job"


def change_results(workspace, edit):
    path = folder_of(workspace) / "cross_site_val" / "cross_val_results.json"
    results = json.loads(path.read_text())
    edit(results)
    path.write_text(json.dumps(results))


def change_rounds(workspace, edit):
    path = folder_of(workspace) / "metrics" / "round_metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    edit(records)
    path.write_text("\n".join(map(json.dumps, records)))


def change_config(workspace, old, new):
    path = folder_of(workspace) / "app_server" / "config" / "config_fed_client.conf"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def report(workspace, *options):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["report", str(workspace), *options])
    page = workspace / "report.html"
    return done, page.read_text() if page.is_file() else ""


def final(results, site):
    return results[site][FINAL_MODEL]["model"]


@pytest.mark.parametrize(
    "value", ["34.5", 1e6, -400, None, [], {}, float("nan"), float("inf"), True, 10**400, f"{ESCAPE}[red]"], ids=repr
)
def test_a_figure_that_is_none_costs_the_others_nothing(workspace, value):
    change_results(workspace, lambda results: final(results, "site-2").update(psnr=value))
    done, page = report(workspace)
    assert done.exit_code == 0, done.exception
    assert set(Run(workspace).figures()["sites"]) == {"site-1", "site-3"}
    assert "test figures of SRV_FL_global_model.pt from site-2: model.psnr is" in done.stdout.replace("\n", "")
    assert "Records that were refused" in page
    assert "model.psnr is" in page
    for text in (done.stdout, page):
        assert "\x1b" not in text


def test_if_no_site_sent_figures_the_page_is_made_and_the_command_fails_with_the_reason(workspace):
    change_results(workspace, lambda results: [final(results, site).update(psnr="x") for site in SITES])
    done, page = report(workspace)
    assert isinstance(done.exception, RunError)
    assert "model.psnr is 'x'" in str(done.exception)
    assert "This run is incomplete" in page


def spoil_site(records, **values):
    for record in records:
        record["sites"][1] |= values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weight": 0}, "steps is 0"),
        ({"weight": "many"}, "steps is 'many'"),
        ({"weight": 1e12}, "steps is 1000000000000.0"),
        ({"metrics": {}}, "metrics is {}; it must be a list"),
        ({"metrics": []}, "it has no psnr"),
        ({"metrics": [{"name": "psnr", "value": "30"}]}, "psnr is '30'"),
        ({"metrics": [{"name": "psnr", "value": 1e6}]}, "psnr is 1000000.0"),
        ({"name": "site-9"}, "site-9 is no site of this job"),
        ({"name": HOSTILE}, "is no name of a site"),
    ],
)
def test_a_round_record_that_is_none_is_named(workspace, values, said):
    change_rounds(workspace, lambda records: spoil_site(records, **values))
    run = Run(workspace)
    assert all(set(record["sites"]) == {"site-1", "site-3"} for record in run.rounds)
    assert any(said in line for line in run.refused.lines())
    write_html(run, workspace / "report.html")
    assert HOSTILE not in (workspace / "report.html").read_text()


def test_a_record_without_steps_or_with_none_at_all_ends_nothing(workspace):
    def spoil(records):
        del records[0]["sites"][0]["weight"]
        records[1]["sites"] = []
        records[2] = "no record"

    change_rounds(workspace, spoil)
    done, page = report(workspace)
    assert done.exit_code == 0, done.exception
    assert [record["round"] for record in Run(workspace).rounds] == [0]
    assert "round 0, site-1: steps is None" in page


SECRET = "FEDMR_TEST_SECRET"


@pytest.mark.parametrize(
    "line",
    ['include url("http://127.0.0.1:9/x")', "include required(file(/etc/hostname))", f"leak = ${{{SECRET}}}", "a = {"],
)
def test_a_config_is_never_live(workspace, line, monkeypatch, tmp_path):
    monkeypatch.setenv(SECRET, "s3cret")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a request was made"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a request was made"))
    for side in ("client", "server"):
        path = folder_of(workspace) / "app_server" / "config" / f"config_fed_{side}.conf"
        path.write_text(f"{line}\n{path.read_text()}")
    run = Run(workspace)
    assert run.config("client") == run.config("server") == {}
    write_html(run, tmp_path / "page.html")
    assert set(run.figures()["sites"]) == set(SITES)
    assert any("config_fed_client.conf" in said for said in run.refused.lines())
    assert "s3cret" not in (tmp_path / "page.html").read_text()
    with pytest.raises(Exception, match=r"config_fed_client\.conf|Expected"):
        run.read_task()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("task_result_filters = []", "task_result_filters = 5"),
        ("task_result_filters = []", 'task_result_filters = [7, { tasks = 3, filters = [1, { args = "x" }] }]'),
        ('name = "mscan"', "name = [1, 2]"),
        ("args {", "args = 5, other {"),
    ],
)
def test_a_config_of_odd_types_makes_a_page(workspace, old, new):
    change_config(workspace, old, new)
    write_html(Run(workspace), workspace / "report.html")
    assert "Task and files" in (workspace / "report.html").read_text()


@pytest.mark.parametrize(
    "content", ["[]", '"x"', "{", "[" * 10**5, '{"a": 5}', '{"job_clients": [5, null, {}, "x y"]}']
)
@pytest.mark.parametrize(
    "name",
    [
        "simulate_job/meta.json",
        "simulate_job/cross_site_val/cross_val_results.json",
        "simulate_job/metrics/round_metrics.jsonl",
        "simulate_job/guard.jsonl",
        "pool_stats/simulator_cell_stats.json",
    ],
)
def test_a_file_of_any_content_makes_a_page(workspace, name, content):
    (workspace / "server" / name).write_text(content)
    write_html(Run(workspace), workspace / "report.html")
    assert "Task and files" in (workspace / "report.html").read_text()


def test_names_from_a_job_reach_neither_terminal_nor_page_as_they_are(workspace):
    meta = folder_of(workspace) / "meta.json"
    names = [*SITES, f"{ESCAPE}site", "[bold red]site", HOSTILE, {"a": 1}]
    meta.write_text(json.dumps({"name": f"job{ESCAPE}\nx", "job_clients": [{"name": name} for name in names]}))
    done, page = report(workspace)
    assert done.exit_code == 0, done.exception
    assert Run(workspace).sites == set(SITES)
    for text in (done.stdout, page):
        assert "\x1b" not in text
    assert "\\x1b[2Jsite is no name of a site" in page
    assert HOSTILE not in page


def png(width, height):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def stream_picture(workspace, site, content, tag):
    from tensorboard.compat.proto.summary_pb2 import Summary

    with SummaryWriter(str(folder_of(workspace) / "tb_events" / site)) as writer:
        value = Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=content, height=1, width=1))
        writer.file_writer.add_summary(Summary(value=[value]), 5)


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0", png(64, 8), png(63, 32), png(8, 64), png(40000, 20), png(64, 32)[:60]],
    ids=["empty", "gif", "postscript", "flat", "odd", "narrow", "wide", "cut"],
)
def test_a_picture_that_is_none_costs_no_other_one(workspace, content):
    stream_picture(workspace, "site-2", content, f"test/{FINAL_MODEL}")
    done, page = report(workspace, "--picture", str(workspace / "p.png"))
    assert done.exit_code == 0, done.exception
    assert page.count("data:image/png;base64,") >= 2 * 6
    assert (workspace / "p.png").is_file()


def test_curves_that_are_not_finite_or_of_a_strangers_name_are_left_out(workspace):
    with SummaryWriter(str(folder_of(workspace) / "tb_events" / "site-2")) as writer:
        for step, value in enumerate([float("nan"), float("inf"), 1e38, 0.5], start=11):
            writer.add_scalar("train/loss", value, step)
        writer.add_scalar(f"tag{ESCAPE}", 1.0, 1)
    with SummaryWriter(str(folder_of(workspace) / "tb_events" / "stranger")) as writer:
        writer.add_image(f"test/{FINAL_MODEL}", comparison(7))
    (folder_of(workspace) / "tb_events" / "site-3" / "events.out.tfevents.9").write_bytes(b"\x05" * 100)
    run = Run(workspace)
    assert set(run.streams) == set(SITES)
    assert set(run.streams["site-2"].scalars["train/loss"]) == {1, 2, 3, 14}
    write_html(run, workspace / "report.html")
    page = (workspace / "report.html").read_text()
    assert "stranger is no site of this job" in page
    assert ESCAPE not in page


LOG_LINE = "2026-11-22 00:30:03,000 - {} - {} - [run=x, wf=train] - {}\n"


@pytest.mark.parametrize(
    ("logger", "text"),
    [
        ("ServerGuard", "site-2 | left out: Round 99 finished."),
        ("ServerGuard", "Round 99 finished."),
        ("ScatterAndGather", "site-2 says: Round 99 finished."),
        ("ScatterAndGather", "Round 99999999999999999999 finished."),
        ("SiteLearner", "got result from client site-1 for task: name=train, id=b0"),
    ],
)
def test_what_a_site_says_in_the_log_is_no_event(workspace, logger, text):
    expected = Run(workspace).log
    path = workspace / "server" / "log.txt"
    first, second = path.read_text().split("2026-11-22 00:30:05", maxsplit=1)
    path.write_text(first + LOG_LINE.format(logger, "ERROR", text) + "2026-11-22 00:30:05" + second)
    assert Run(workspace).log == expected
    assert expected.done == 2


def test_a_time_that_is_none_does_not_end_the_reading(workspace):
    expected = Run(workspace).log
    path = workspace / "server" / "log.txt"
    path.write_text(path.read_text() + "9999-99-99 00:00:00,000 - ScatterAndGather - INFO - [x] - Round 9 started.\n")
    assert Run(workspace).log == expected


def test_a_site_in_brackets_is_no_markup():
    console = Console(file=io.StringIO(), width=120)
    name = "[bold]x[/bold] [/red]"
    console.print(figures_table(summarise({name: site_figures(30.0)}), f"table of {name}"))
    assert console.file.getvalue().count(name) == 2


def test_a_run_is_one_object_whatever_the_way_to_it(workspace):
    inner = folder_of(workspace)
    for path in (workspace, str(workspace), inner, os.path.relpath(workspace)):
        run = Run(path)
        assert run.folder.resolve() == inner.resolve()
        assert run.simulated
        assert run.figures() == Run(workspace).figures()
        assert run.refused.lines() == []
