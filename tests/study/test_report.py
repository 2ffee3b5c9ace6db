"""What is made of a study's table and runs, and how rounds are changed for equal time; without a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmr.metrics import METRICS
from fedmr.study.files import StudyError, write_plan
from fedmr.study.grid import read_study
from fedmr.study.report import is_study, write_report
from fedmr.study.results import PANEL, RUN, Results, columns, read_rows
from fedmr.study.timing import FILE, equalise
from phantoms import phantom, write_site
from simulator import ROOT

GRID = """
about: An *example*.
base: {job: mscan_fedavg, rounds: 10, network: {channels: 8, blocks: 1}, patch_size: 12, leave_out: [site-3]}
seeds: [0, 1]
equal: %s
baseline: FedAvg
axes:
  algorithm:
    FedAvg: {}
    Ditto: {job: mscan_ditto}
    local: {job: mscan_local}
"""
PSNR = {"FedAvg": 30.0, "Ditto": 31.0, "local": 29.0}
WHOLE = 2 * 3  # cells
NONE = "\N{EN DASH}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number in (1, 2, 3):
        write_site(root, f"site-{number}", seed=number)
    return root


@pytest.fixture
def study(data, tmp_path):
    def read(equal="steps"):
        text = GRID % equal
        if equal == "seconds":  # only plain training can be timed
            text = text.replace("{job: mscan_ditto}", "{network: {blocks: 2}}")
        (tmp_path / "example.yaml").write_text(text)
        return read_study(tmp_path / "example.yaml", data=data, configs=ROOT / "app_configs")

    return read


def write_run(folder: Path, *, psnr: float, method: str) -> None:
    """What the report reads of a cell's run."""
    metrics = folder / RUN / "server" / "simulate_job" / "metrics"
    (metrics.parent / "app_server").mkdir(parents=True)
    metrics.mkdir()
    sites = [{"name": s, "weight": 5, "metrics": [{"name": "psnr", "value": psnr}]} for s in ("site-1", "site-2")]
    lines = [json.dumps({"round": number, "sites": sites}) for number in range(3)]
    (metrics / "round_metrics.jsonl").write_text("\n".join(lines))
    slice_ = phantom(1)[..., 2].astype(np.float16) / 1000
    tiles = np.stack([slice_, slice_ + 0.2, slice_ + 0.1, slice_])
    np.savez_compressed(folder / PANEL, tiles=tiles, site="site-1", volume="v", method=method)


def finish(cells, out: Path, n: int = WHOLE) -> Path:
    """The folder of a study of which the first n cells are done; a seed is worth 1 dB, a site 10."""
    results = Results(out, cells, ["algorithm"])
    for cell in cells[:n]:
        base = dict.fromkeys(columns(["algorithm"]), "1") | dict.fromkeys(METRICS, 0.5)
        base |= {"cell": cell.name, "algorithm": cell.arm[0], "seed": cell.seed, "settings": cell.settings}
        base |= {"volume": "v", "seconds": 90.0, "seconds_per_step": 0.05, "parameters": 1234, "bytes_up": 2e6}
        rows = []
        for number in (1, 2, 3):
            where = {"site": f"site-{number}", "seen": number < 3}
            value = PSNR[cell.arm[0]] + cell.seed + 10 * number
            method = "local" if cell.arm[0] == "local" else "global"
            rows += [base | where | {"method": "zero_filled", "psnr": 20.0 + number}]
            rows += [base | where | {"method": method, "psnr": value}]
            if cell.arm[0] == "Ditto" and number < 3:
                rows += [base | where | {"method": "personal", "psnr": value + 0.25}]
        write_run(out / "cells" / cell.name, psnr=value, method=method)
        results.add(cell, rows)
    return out


def test_the_report_states_every_arm_with_its_spread_its_cost_and_its_difference(study, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert not is_study(out)
    write_plan(study(), finish(study().cells, out))
    assert is_study(out)
    text = write_report(out).read_text()
    for line in (
        "# example",
        "An *example*.",
        "- seeds: 0, 1",
        "- cells: 6",
        "| zero-filled | 21.00 | 22.00 | 23.00 | 21.50 | 23.00 |",
        "| FedAvg | 40.50 ± 0.71 | 50.50 ± 0.71 | (60.50 ± 0.71) | 45.50 ± 0.71 | 60.50 ± 0.71 |",
        "| 1,234 | 1 | 1 | 1.5 | 50 | 2.0 | 0.0 |",
        f"| Ditto (personal) | 41.75 ± 0.71 | 51.75 ± 0.71 | {NONE} | 46.75 ± 0.71 | {NONE} |",
        "| local | 39.50 ± 0.71 |",
        "| zero-filled | 21.50 | 0.5000 | 0.5000 | 0.50 | 0.5000 | 0.500 | 0.500 |",
        "| Ditto | +1.00 ± 0.00 (2 of 2) | +0.0000 ± 0.0000 (0 of 2) | +1.00 (1 of 1) |",
        f"| Ditto (personal) | +1.25 ± 0.00 (2 of 2) | +0.0000 ± 0.0000 (0 of 2) | {NONE} | {NONE} |",
        "| local | -1.00 ± 0.00 (0 of 2) |",
    ):
        assert line in text, line
    assert "| FedAvg | +" not in text, "the baseline is not compared with itself"
    for name in ("curves.png", "panels.png"):
        assert f"]({name})" in text
        assert Image.open(out / "report" / name).size[0] > 400
    assert (out / "report" / "results.csv").read_text() == (out / "results.csv").read_text()


def test_the_report_of_an_unfinished_study_says_so(study, tmp_path):
    write_plan(study(), tmp_path)
    with pytest.raises(StudyError, match="no cell is done"):
        write_report(tmp_path)
    write_plan(study(), finish(study().cells, tmp_path, n=2))
    text = write_report(tmp_path).read_text()
    assert "- cells: 2 of 6; this study is not finished" in text
    assert "| FedAvg | 40.00 | 50.00 |" in text, "one seed has no spread"
    assert "| local |" not in text


def test_a_commit_that_changed_on_the_way_is_stated(study, tmp_path):
    finish(study().cells, tmp_path)
    write_plan(study(), tmp_path)
    rows = read_rows(tmp_path)
    table = (tmp_path / "results.csv").read_text().splitlines()
    at = list(rows[0]).index("commit")
    last = table[-1].split(",")
    last[at] = "abc"
    (tmp_path / "results.csv").write_text("\n".join([*table[:-1], ",".join(last)]) + "\n")
    assert "- commit: 1, abc" in write_report(tmp_path).read_text()


def test_rounds_are_changed_to_take_as_long_as_the_baseline_and_are_measured_once(study, data, tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"FedAvg": 2.0, "Ditto": 4.2, "local": 1.0}))
    said = []
    changed = equalise(study("seconds"), tmp_path, data=data, say=said.append)
    assert [(cell.arm[0], cell.rounds) for cell in changed.cells] == [("FedAvg", 10), ("Ditto", 5), ("local", 20)] * 2
    assert said == []
    assert equalise(study(), tmp_path, data=data, say=said.append) == study()


@pytest.mark.e2e
def test_the_time_of_a_round_is_measured_on_the_sites_own_data(study, data, tmp_path):
    said = []
    changed = equalise(study("seconds"), tmp_path, data=data, say=said.append)
    assert said == ["measuring the time per step of 3 arms"]
    seconds = json.loads((tmp_path / FILE).read_text())
    assert set(seconds) == {"FedAvg", "Ditto", "local"}
    assert all(0 < value < 60 for value in seconds.values())
    assert all(cell.rounds >= 2 for cell in changed.cells)
    assert equalise(study("seconds"), tmp_path, data=data, say=said.append) == changed
    assert len(said) == 1
