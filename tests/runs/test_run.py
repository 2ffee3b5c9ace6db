"""What a run's files say of sites that take part in a part of it."""

import json

import pytest

from fedmr.reports.html import write_html
from fedmr.runs.checks import RunError
from fedmr.runs.figures import best_round
from fedmr.runs.records import FINAL_MODEL, ONLY_EVALUATES, REJECTIONS
from fedmr.runs.run import Run
from runs import SITES, write_run


def folder_of(workspace):
    return workspace / "server" / "simulate_job"


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def without_tests(workspace, *sites):
    results = folder_of(workspace) / "cross_site_val" / "cross_val_results.json"
    change(results, lambda r: r.update({site: {FINAL_MODEL: {"n_volumes": 0}} for site in sites}))


def without_validation(workspace, *sites):
    path = folder_of(workspace) / "metrics" / "round_metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for row in record["sites"]:
            if row["name"] in sites:
                row["metrics"] = [{"name": "n_volumes", "value": 0}]
    path.write_text("\n".join(map(json.dumps, records)))


def without_training(workspace, site):
    path = folder_of(workspace) / "metrics" / "round_metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["sites"] = [row for row in record["sites"] if row["name"] != site]
    path.write_text("\n".join(map(json.dumps, records)))
    row = {"round": 0, "site": site, "reason": ONLY_EVALUATES, "norm": None}
    (folder_of(workspace) / REJECTIONS).write_text(json.dumps(row) + "\n")


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "w")
    return tmp_path / "w"


def test_a_complete_run_names_no_site(run):
    assert Run(run).parts == {}


def test_sites_without_volumes_for_a_part_are_named_and_the_run_is_complete(run, tmp_path):
    without_tests(run, "site-1")
    without_validation(run, "site-1")
    without_training(run, "site-2")
    assert set(Run(run).figures()["sites"]) == {"site-2", "site-3"}
    parts = Run(run).parts
    assert set(parts) == {"site-1", "site-2"}
    assert parts["site-1"].startswith("does not validate and does not test")
    assert parts["site-2"].startswith("does not train")
    write_html(Run(run), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert all(f"{site} {words}" in page for site, words in parts.items())
    assert "no contribution from" not in page


def test_no_site_validates(run, tmp_path):
    without_validation(run, *SITES)
    (folder_of(run) / "app_server" / "best_FL_global_model.pt").unlink()
    assert set(Run(run).figures()["sites"]) == set(SITES)
    assert best_round(Run(run).rounds)["round"] == 1
    write_html(Run(run), tmp_path / "page.html")
    assert "nan" not in (tmp_path / "page.html").read_text().split("<main>")[1].split("<script")[0]


def test_no_site_tests(run):
    without_tests(run, *SITES)
    with pytest.raises(RunError, match=r"no site of .* has test volumes"):
        Run(run).figures()


def test_a_silent_site_is_still_missed(run):
    without_training(run, "site-2")
    (folder_of(run) / REJECTIONS).unlink()
    with pytest.raises(RunError, match="no contribution from site-2"):
        Run(run).figures()
