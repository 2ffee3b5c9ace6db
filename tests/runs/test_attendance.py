"""Who was meant to take part against who did."""

import json

import pytest
from typer.testing import CliRunner

from fedmr.cli.main import app
from fedmr.federation.configured import MEANT
from fedmr.reports.html import write_html
from fedmr.runs.attendance import absences_of
from fedmr.runs.records import FINAL_MODEL, REJECTIONS
from fedmr.runs.run import Run
from runs import SITES, write_run


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "w")
    return tmp_path / "w"


def change(run, name, edit):
    path = run / "server" / "simulate_job" / name
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def mean(run, *sites):
    config = run / "server" / "simulate_job" / "app_server" / "config"
    (config / MEANT.name).write_text(json.dumps({"sites": sites}))


def leave_out(run, site, *rounds, reason=None):
    folder = run / "server" / "simulate_job"
    path = folder / "metrics" / "round_metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["round"] in rounds:
            record["sites"] = [row for row in record["sites"] if row["name"] != site]
    path.write_text("\n".join(map(json.dumps, records)))
    rows = [{"round": r, "site": site, "reason": reason, "norm": None} for r in rounds if reason]
    with (folder / REJECTIONS).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_run_in_which_all_took_part_has_no_absences(run):
    assert absences_of(Run(run)) == {}
    mean(run, *SITES)
    assert absences_of(Run(run)) == {}


def test_each_absent_site_is_named_with_what_is_known_and_the_others_are_reported(run, tmp_path):
    mean(run, *SITES, "site-4", "site-5")
    details = ["server: OK", *(f"{site}: OK" for site in SITES), "site-4: BYOC is not permitted\n\x1b[2J"]
    change(run, "meta.json", lambda meta: meta.update(job_deploy_detail=details))
    leave_out(run, "site-1", 1, 2, reason="no result in time")
    leave_out(run, "site-3", 0)
    results = "cross_site_val/cross_val_results.json"
    change(run, results, lambda rows: rows["site-1"].pop(FINAL_MODEL))
    found = absences_of(Run(run))
    assert set(found) == {"site-1", "site-3", "site-4", "site-5"}
    assert found["site-1"] == (
        "has no part in 2 of 3 rounds, the first 1 (no result in time) and did not test the final model"
    )
    assert found["site-3"] == "has no part in round 0"
    assert found["site-4"].startswith("refused the job: BYOC is not permitted")
    assert "\x1b" not in found["site-4"]
    assert "not connected when the job started" in found["site-5"]
    result = CliRunner().invoke(app, ["report", str(run), "--json", str(tmp_path / "figures.json")])
    assert result.exit_code == 3, result.output
    assert set(json.loads((tmp_path / "figures.json").read_text())["sites"]) == {"site-2", "site-3"}
    said = " ".join(result.output.split())
    assert all(f"{site} {words}" in said for site, words in found.items() if site != "site-4")
    page = (run / "report.html").read_text()
    assert "This run is incomplete" in page
    assert all(site in page for site in found)
    assert "not connected when the job started" in page


def test_a_complete_run_ends_with_code_0(run):
    mean(run, *SITES)
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    write_html(Run(run), run / "report.html")
    assert "This run is incomplete" not in (run / "report.html").read_text()
