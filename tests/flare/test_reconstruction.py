"""The job unet_flmr at tiny size, in one process: sites of different matrix sizes, coil numbers and masks."""

import numpy as np
import pytest
import torch
from PIL import Image

from federation import federate
from fedmr.checkpoints.model_file import load_model
from fedmr.flare.learner import STATE_FILE
from fedmr.reports.error_maps import draw_errors
from fedmr.reports.html import write_html
from fedmr.reports.table import figures_table, labels_of
from fedmr.runs.run import Run
from kspace_site import change_datalist, write_kspace_site
from phantoms import write_site
from simulator import SITES, render_tiny_job

pytestmark = pytest.mark.e2e  # whole federations, in one process

JOB = "unet_flmr"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_site(root, "site-1", seed=1, patients=4)
    write_kspace_site(root, "site-2", coils=4, size=(64, 40), crop=(48, 36))
    write_kspace_site(root, "site-3", coils=1, size=(72, 44), crop=(40, 44), patients=5)
    write_site(root, "site-4", seed=4, shape=(52, 61, 4))
    change_datalist(root / "site-3", mask={"kind": "equispaced", "acceleration": 8, "center_fraction": 0.06})
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return federate(render_tiny_job(folder, 2, job=JOB), folder / "home", data, sites=SITES)


def state(run, site):
    return torch.load(run.state(site) / STATE_FILE, weights_only=True)


def saved(run):
    path = run.home / "server" / "simulate_job" / "app_server" / "FL_global_model.pt"
    return torch.load(path, weights_only=True)["model"]


def test_sites_of_different_matrix_sizes_coils_and_masks_train_together(run):
    figures = Run(run.home).figures()
    assert set(figures["sites"]) == set(SITES)
    assert set(figures["mean"]) == {"zero_filled", "model"}
    for site, row in figures["sites"].items():
        assert all(np.isfinite(value) for method in ("zero_filled", "model") for value in row[method].values()), site
    assert figures["mean"]["model"]["psnr"] > figures["mean"]["zero_filled"]["psnr"] - 0.5, "it has not come apart"
    assert all(state(run, site)["epoch"] == 2 for site in SITES)


def test_the_report_names_the_network_and_leaves_out_what_reconstruction_has_not(run, tmp_path):
    figures, task = Run(run.home).figures(), Run(run.home).task
    columns = [column.header for column in figures_table(figures, "t", labels_of(task)).columns]
    assert columns == ["site", "n", "zero-filled", "U-Net", "gain"]
    write_html(Run(run.home), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "U-Net gains" in page or "U-Net loses" in page
    assert "random columns, 4\N{MULTIPLICATION SIGN} fewer, 8% in the middle kept" in page
    assert "bicubic" not in page
    assert "low resolution" not in page


def test_the_picture_has_error_maps(run, tmp_path):
    rng = np.random.default_rng(0)
    images = {site: rng.integers(0, 255, (48, 4 * 45)).astype(np.uint8) for site in SITES}
    draw_errors(images, Run(run.home).figures(), tmp_path / "picture.png", labels_of(Run(run.home).task))
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > picture.height > 500


def test_the_run_is_a_model_with_a_reconstruction_card(run):
    model, task = load_model(run.home), Run(run.home).task
    assert model.task == task
    assert model.card["mask"] == {"kind": "random", "acceleration": 4, "center_fraction": 0.08}
    assert model.card["metrics"]["model"]["psnr"] == Run(run.home).figures()["mean"]["model"]["psnr"]


@pytest.mark.parametrize("weighted", [False, True])
def test_every_site_counts_the_same_unless_weights_by_steps_are_asked_for(data, tmp_path, weighted):
    overlay = "aggregator { path = fedmr.flare.aggregators.WeightedAggregator }" if weighted else ""
    run = federate(render_tiny_job(tmp_path, 1, job=JOB, overlay=overlay), tmp_path / "home", data, sites=SITES[:3])
    sites = [state(run, site) for site in SITES[:3]]
    steps = [site["schedule"]["last_epoch"] for site in sites]
    assert len(set(steps)) > 1
    weights = np.array(steps if weighted else [1, 1, 1]) / (sum(steps) if weighted else 3)
    for name, value in saved(run).items():
        expected = sum(w * site["net"][name] for w, site in zip(weights, sites, strict=True))
        assert torch.allclose(value, expected, atol=1e-6), name


def test_new_processes_for_every_turn_change_nothing(data, run, tmp_path):
    again = federate(render_tiny_job(tmp_path, 2, job=JOB), tmp_path / "home", data, sites=SITES, restart=True)
    assert all(torch.equal(a, b) for a, b in zip(saved(run).values(), saved(again).values(), strict=True))
