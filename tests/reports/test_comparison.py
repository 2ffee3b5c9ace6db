"""Several runs in one table."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedmr.cli.main import app
from fedmr.reports.comparison import compare, comparison_table
from fedmr.runs.checks import RunError
from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from runs import SITES, site_figures, write_run


def made(folder, figures):
    """A run of the sites whose zero-filled PSNR is given."""
    write_run(folder, list(figures))
    results = {site: {FINAL_MODEL: site_figures(psnr)} for site, psnr in figures.items()}
    path = folder / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    path.write_text(json.dumps(results))
    return Run(folder)


def cells(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    lines = [
        line.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split() for line in console.file.getvalue().splitlines()
    ]
    return {line[0]: " ".join(line[1:]) for line in lines if line}


def test_runs_stand_beside_each_other_and_the_mean_is_over_the_sites_that_all_have(tmp_path):
    first = made(tmp_path / "a", {"site-1": 30.0, "site-2": 32.0, "site-3": 34.0})
    second = made(tmp_path / "b", {"site-1": 30.5, "site-2": 31.0, "site-9": 36.0})
    found = cells(comparison_table(compare([first, second])))
    assert found["site-1"] == "2 31.50 / 0.7875 32.00 / 0.8000 +0.50"
    assert found["site-2"] == "2 33.50 / 0.8375 32.50 / 0.8125 -1.00"
    assert found["site-3"] == "2 35.50 / 0.8875 - -"
    assert found["site-9"] == "2 - 37.50 / 0.9375 -"
    assert found["mean"] == "32.50 / 0.8125 32.25 / 0.8063 -0.25"


def test_runs_that_share_no_site_or_are_incomplete_are_an_error_that_names_them(tmp_path):
    first, second = made(tmp_path / "a", {"site-1": 30.0}), made(tmp_path / "b", {"site-2": 30.0})
    with pytest.raises(RunError, match=r"a and .*b share no site"):
        compare([first, second])
    (tmp_path / "b" / "server" / "simulate_job" / "app_server" / "FL_global_model.pt").unlink()
    with pytest.raises(RunError, match="FL_global_model"):
        compare([first, Run(tmp_path / "b")])


def test_the_command_compares_what_it_is_given_and_writes_the_same_figures(tmp_path):
    for name in ("a", "b", "c"):
        made(tmp_path / name, dict.fromkeys(SITES, 30.0))
    words = ["report", *(str(tmp_path / name) for name in ("a", "b", "c")), "--json", str(tmp_path / "f.json")]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.exception
    assert done.stdout.count("+0.00") == 2 * (len(SITES) + 1)
    assert json.loads((tmp_path / "f.json").read_text())["runs"] == ["a", "b", "c"]
    assert not (tmp_path / "a" / "report.html").exists()
