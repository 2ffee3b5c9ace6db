"""What is tested of a finished cell: tiny reconstructions in one process, sites alone, and a target outside."""

import numpy as np
import pytest

from federation import federate
from fedmr.runs.run import Run
from fedmr.study.evaluation import evaluate_cell, write_latents
from fedmr.study.grid import read_study
from fedmr.study.runner import _render
from phantoms import write_site
from simulator import ROOT

pytestmark = pytest.mark.e2e  # whole federations, in one process
CONFIGS = ROOT / "app_configs"
STUDY = """
base: {job: unet_flmr, rounds: 2, size: 40, batch_size: 2, network: {channels: 2, pools: 2}}
baseline: FL-MR
axes:
  training:
    FL-MR: {leave_out: [site-3]}
    FL-MRCM: {job: unet_flmrcm, leave_out: [site-3]}
    alone: {job: unet_local}
"""
SITES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, site in enumerate(SITES, start=1):
        write_site(root, site, seed=number)
    return root


@pytest.fixture
def finished(data, tmp_path):
    """Run the cell of an arm, and return it with its run."""

    def run(arm):
        (tmp_path / "tiny.yaml").write_text(STUDY)
        study = read_study(tmp_path / "tiny.yaml", data=data, configs=CONFIGS)
        cell = next(cell for cell in study.cells if cell.arm == (arm,))
        job = _render(cell, tmp_path / arm, CONFIGS)
        federate(job, tmp_path / arm / "run", data, sites=(*cell.sites, *cell.guests))
        Run(tmp_path / arm / "run").figures()  # complete
        return cell, tmp_path / arm / "run"

    return run


def rows_of(finished, arm, data, tmp_path):
    cell, run = finished(arm)
    return list(evaluate_cell(cell, run, data=data, panel=tmp_path / "panel.npz"))


def test_a_site_that_trained_alone_is_tested_on_itself_and_elsewhere(finished, data, tmp_path):
    rows = rows_of(finished, "alone", data, tmp_path)
    found = {(row["model_of"], row["site"]): (row["method"], row["seen"]) for row in rows if row["model_of"]}
    assert found == {(a, b): ("local", True) if a == b else ("elsewhere", False) for a in SITES for b in SITES}
    assert sum(row["method"] == "zero_filled" for row in rows) == 3
    assert str(np.load(tmp_path / "panel.npz")["method"]) == "local", "the picture is of a site's own model"


def test_the_target_of_fl_mrcm_takes_part_and_is_unseen(finished, data, tmp_path):
    cell, run = finished("FL-MRCM")
    assert cell.guests == ("site-3",)
    assert (run / "site-3").is_dir(), "it gave latents"
    rows = list(evaluate_cell(cell, run, data=data, panel=tmp_path / "panel.npz"))
    assert {row["site"]: row["seen"] for row in rows} == {"site-1": True, "site-2": True, "site-3": False}
    assert {row["model_of"] for row in rows} == {"", "site-1+site-2"}


@pytest.mark.parametrize(("arm", "written"), [("FL-MR", True), ("alone", False)])
def test_latents_are_written_of_a_global_model_for_all_sites(finished, data, tmp_path, arm, written):
    cell, run = finished(arm)
    write_latents(cell, run, data=data, path=tmp_path / "latents.npz")
    assert (tmp_path / "latents.npz").exists() is written
    if written:
        content = np.load(tmp_path / "latents.npz")
        assert sorted(content) == sorted(f"{split}:{site}" for split in ("train", "test") for site in SITES)
        assert content["test:site-3"].shape == (5, 4 * 2 * 2**2)
        assert np.isfinite(content["train:site-1"]).all()
