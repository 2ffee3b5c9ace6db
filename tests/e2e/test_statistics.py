"""Federated statistics as the committed job asks for them, in the simulator."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedmr.data.statistics import INTENSITY, PER_PATIENT, PER_VOLUME, Sample, measure
from fedmr.runs.run import STATISTICS, Run
from phantoms import write_site
from simulator import ROOT, SITES, simulate, write_hospitals

pytestmark = pytest.mark.e2e
JOB = ROOT / "jobs" / "federated_stats"
SERVER_RUN = Path("server") / "simulate_job"
VISIBLE = ("site-3", "site-4")  # with 5 and 6 patients; the others have 3 and 4


def rename_patients(site: Path) -> None:
    """Give the site's patients and folders names that are found wherever they turn up."""
    datalist = json.loads((site / "datalist.json").read_text())
    for number, entry in enumerate(datalist["volumes"]):
        (site / entry["patient"]).rename(site / f"folder-of-Doe{number}")
        entry["image"] = entry["image"].replace(entry["patient"], f"folder-of-Doe{number}", 1)
        entry["patient"] = f"Doe^Jane^{number}"
    (site / "datalist.json").write_text(json.dumps(datalist))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = write_hospitals(tmp_path_factory.mktemp("planted-path"))
    for site in SITES:
        rename_patients(root / site)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, data) -> Path:
    workspace = tmp_path_factory.mktemp("statistics") / "w"
    result = simulate(JOB, workspace, data, sites=4, threads=4)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return workspace


def pool(samples: list[Sample]) -> np.ndarray:
    return np.concatenate([np.repeat(s.values, s.times) for s in samples])


def test_sites_and_all_of_them_together_have_the_figures_of_a_direct_computation(run, data):
    data_set = Run(run).statistics["data_sets"]["all"]
    measured = {site: measure(data / site, {"all": {}})["all"] for site in VISIBLE}
    rows = {site: [features] for site, features in measured.items()} | {"all sites": list(measured.values())}
    assert list(data_set["sites"]) == list(SITES)
    for name, parts in rows.items():
        row = data_set["sites"].get(name) or data_set["all sites"]
        for feature in (INTENSITY, *PER_VOLUME, PER_PATIENT):
            records = pool([part[feature] for part in parts])
            expected = {"mean": records.mean(), "stddev": records.std(ddof=1)}
            assert row[feature] == pytest.approx(expected, rel=1e-5, abs=1e-6), (name, feature)
        intensities = pool([part[INTENSITY] for part in parts]).clip(0, 1250)
        assert np.array_equal(row["histogram"], np.histogram(intensities, data_set["edges"])[0])
        assert row["patients"] == row["volumes"] == sum(part["slices"].count for part in parts)


def test_sites_with_few_patients_are_hidden(run):
    assert [s for s, row in Run(run).statistics["data_sets"]["all"]["sites"].items() if row is None] == [*SITES[:2]]
    raw = json.loads((run / SERVER_RUN / STATISTICS).read_text())
    for feature, statistics in raw.items():
        for statistic, by_site in statistics.items():
            for site in SITES[:2]:
                assert by_site.get(site) == ({"all": 0} if statistic == "count" else None), (feature, statistic)


def test_neither_patients_nor_paths_reach_the_server(run, data):
    assert "Doe" in (data / "site-1" / "datalist.json").read_text()
    files = [path for path in (run / "server").rglob("*") if path.is_file()]
    assert run / SERVER_RUN / STATISTICS in files
    for path in files:
        assert not re.search(rb"Doe|planted-path|\.nii", path.read_bytes()), path


def test_the_statistics_lie_in_the_folder_that_a_downloaded_job_holds(run, tmp_path):
    shutil.copytree(run / SERVER_RUN, tmp_path / "workspace")
    shutil.copy(run / SERVER_RUN / "meta.json", tmp_path)
    assert Run(tmp_path).statistics == Run(run).statistics


def test_a_site_with_an_unreadable_volume_fails_the_job_and_says_why(tmp_path):
    for number, site in enumerate(SITES[:2], start=1):
        write_site(tmp_path / "data", site, seed=number, patients=5)
    image = tmp_path / "data" / "site-2" / "sub-0" / "anat" / "sub-0_T1w.nii.gz"
    image.write_bytes(image.read_bytes()[:3000])
    result = simulate(JOB, tmp_path / "w", tmp_path / "data", sites=2, threads=2)
    assert result.returncode != 0
    log = (tmp_path / "w" / "site-2" / "log.txt").read_text()
    errors = [line for line in log.splitlines() if "cannot take part" in line]
    assert len(errors) == 1
    assert "sub-0/anat/sub-0_T1w.nii.gz cannot be read" in errors[0]
    assert str(tmp_path / "data") not in log
    assert not (tmp_path / "w" / SERVER_RUN / STATISTICS).exists()


def test_the_command_shows_table_and_plot(run, tmp_path):
    command = [Path(sys.executable).parent / "fedmr", "report", run, "--json", tmp_path / "f.json"]
    command += ["--picture", tmp_path / "p.png"]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("hidden") == 3  # two sites and the caption
    assert json.loads((tmp_path / "f.json").read_text()) == Run(run).statistics
    assert (tmp_path / "p.png").stat().st_size > 20_000
