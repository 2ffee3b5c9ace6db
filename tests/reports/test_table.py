import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from fedmr.nets import build
from fedmr.reports.pictures import comparison_image, draw_details
from fedmr.reports.table import figures_table, labels_of
from fedmr.runs.checks import RunError
from fedmr.runs.figures import METHODS, best_round, summarise
from fedmr.runs.records import FINAL_MODEL, REJECTIONS
from fedmr.runs.run import Run
from fedmr.tasks.patches import load_volumes

SITES = ("site-1", "site-2")


def figures(psnr):
    return {"psnr": psnr, "ssim": psnr / 40}


def site_figures(psnr):
    methods = {"zero_filled": figures(psnr), "interpolated": figures(psnr - 1), "model": figures(psnr + 1)}
    return {"n_volumes": 2} | methods


@pytest.fixture
def run(tmp_path):
    """The files of a finished run, as FLARE's widgets write them."""
    folder = tmp_path / "w" / "server" / "simulate_job"
    for name in ("app_server", "metrics", "cross_site_val"):
        (folder / name).mkdir(parents=True)
    for name in ("FL_global_model.pt", "best_FL_global_model.pt"):
        (folder / "app_server" / name).touch()
    (folder / "meta.json").write_text(json.dumps({"job_clients": [{"name": s} for s in SITES]}))
    lines = []
    for number, values in enumerate(([39.0, 39.0], [30.0, 33.0], [32.0, 31.0])):
        sites = [
            {"name": s, "weight": w, "metrics": [{"name": "psnr", "value": v}]}
            for s, v, w in zip(SITES, values, (10, 30), strict=True)
        ]
        lines.append(json.dumps({"round": number, "sites": sites}))
    (folder / "metrics" / "round_metrics.jsonl").write_text("\n".join(lines) + "\n")
    results = {s: {FINAL_MODEL: site_figures(30.0 + k)} for k, s in enumerate(SITES)}
    (folder / "cross_site_val" / "cross_val_results.json").write_text(json.dumps(results))
    return tmp_path / "w"


def test_a_site_that_the_guard_left_out_of_a_round_does_not_make_the_run_incomplete(run):
    folder = run / "server" / "simulate_job"
    path = folder / "metrics" / "round_metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1]["sites"].pop()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(RunError, match="round 1: no contribution from site-2"):
        Run(run).figures()
    (folder / REJECTIONS).write_text(json.dumps({"round": 1, "site": "site-2", "reason": "absurd", "norm": None}))
    assert set(Run(run).figures()["sites"]) == set(SITES)
    (folder / REJECTIONS).write_text(json.dumps({"round": 2, "site": "site-2", "reason": "absurd", "norm": None}))
    with pytest.raises(RunError, match="round 1: no contribution from site-2"):
        Run(run).figures()


def test_figures_of_all_sites_and_their_mean(run):
    result = Run(run).figures()
    assert list(result["sites"]) == list(SITES)
    assert result["mean"]["zero_filled"]["psnr"] == 30.5
    assert result["mean"]["model"] == pytest.approx({"psnr": 31.5, "ssim": 31.5 / 40})


def test_the_best_round_is_weighted_by_steps_and_leaves_out_the_untrained_model(run):
    rounds = Run(run).rounds
    assert [r["psnr"] for r in rounds] == [39.0, 32.25, 31.25]
    assert best_round(rounds)["round"] == 1


def test_a_run_is_found_from_its_workspace_a_download_or_itself(run, tmp_path):
    inner = run / "server" / "simulate_job"
    download = tmp_path / "download"
    shutil.copytree(inner, download / "workspace")
    (download / "workspace" / "meta.json").write_text("{}")  # a provisioned server names the sites one level up only
    with pytest.raises(RunError, match="names no sites"):
        Run(download).figures()
    (download / "meta.json").write_text('{"job_deploy_detail": ["server: OK", "site-2: OK", "site-1: OK"]}')
    assert Run(inner).figures() == Run(download).figures() == Run(run).figures()
    with pytest.raises(RunError, match="is no run"):
        Run(tmp_path).figures()


def drop_site_from_round(folder):
    path = folder / "metrics" / "round_metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["sites"].pop()
    path.write_text("\n".join(map(json.dumps, lines)))


def drop_results_of_site(folder):
    path = folder / "cross_site_val" / "cross_val_results.json"
    path.write_text(json.dumps({"site-1": json.loads(path.read_text())["site-1"]}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "app_server" / "FL_global_model.pt").unlink(), "FL_global_model.pt is missing"),
        (lambda f: (f / "app_server" / "best_FL_global_model.pt").unlink(), "best_FL_global_model.pt is missing"),
        (lambda f: (f / "metrics" / "round_metrics.jsonl").unlink(), "no site finished a round"),
        (drop_site_from_round, "round 1: no contribution from site-2"),
        (drop_results_of_site, "no test figures of the final model from site-2"),
        (lambda f: (f / "cross_site_val" / "cross_val_results.json").unlink(), "from site-1, site-2"),
    ],
)
def test_an_incomplete_run_is_an_error_that_says_what_is_missing(run, spoil, message):
    spoil(run / "server" / "simulate_job")
    with pytest.raises(RunError, match=message):
        Run(run).figures()


def test_the_table_fits_80_columns_and_shows_every_figure():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(figures_table(summarise({s: site_figures(30.0 + k) for k, s in enumerate(SITES)}), "t"))
    text = console.export_text()
    for cell in ("site-2", "31.00 / 0.7750", "32.00 / 0.8000", "30.50 / 0.7625", "+1.00"):
        assert cell in text


def test_comparison_image_holds_four_tiles_of_the_middle_slice(site, task, tmp_path):
    volume = load_volumes(site, task, ("test",))[0]
    image = comparison_image(build(**task.network), volume, task)
    height, width = volume.hr.shape[1:]
    assert image.shape == (1, height, 4 * width)
    assert image.dtype == np.uint8
    reference = volume.hr[volume.hr.shape[0] // 2]
    window = np.percentile(reference.numpy(), 99.9)
    expected = (reference.clamp(0, window) * (255 / window)).round().to(torch.uint8).numpy()
    assert np.abs(image[0, :, 3 * width :].astype(int) - expected).max() <= 1
    draw_details(
        dict.fromkeys(SITES, image[0]), summarise({s: site_figures(30.0) for s in SITES}), tmp_path / "c.png", METHODS
    )
    assert Image.open(tmp_path / "c.png").size[0] > 1000


def test_the_picture_names_the_network_of_the_run(task, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axis, text, **_: titles.append(text))
    labels = labels_of(replace(task, network={**task.network, "name": "unet"}))
    image = np.tile(np.arange(64, dtype=np.uint8), (64, 4))
    draw_details({"site-1": image}, summarise({"site-1": site_figures(30.0)}), tmp_path / "c.png", labels)
    assert titles == ["site-1", "low resolution", "zero-filled, 30.00 dB", "U-Net, 31.00 dB", "reference"]
