import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fedmr.reports.cross_site import draw_matrix, matrix_of, matrix_table, show_matrix
from fedmr.runs.checks import RunError
from fedmr.runs.run import Run

SITES = ("site-1", "site-2", "site-10")
PSNR = {  # model: figures on the sites in their order
    "site-1": (31.0, 28.0, 27.0),
    "site-2": (29.0, 32.0, 28.5),
    "site-10": (27.0, 28.5, 33.25),
    "SRV_FL_global_model.pt": (30.5, 31.5, 32.0),
    "SRV_best_FL_global_model.pt": (30.0, 31.25, 33.5),
}


@pytest.fixture
def run(tmp_path):
    """The files of a finished cross-site evaluation, as FLARE writes them: the order of sites is that of arrival."""
    folder = tmp_path / "w" / "server" / "simulate_job"
    for name in ("app_server", "cross_site_val"):
        (folder / name).mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"job_clients": [{"name": s} for s in SITES[::-1]]}))
    results = {
        site: {model: {"n_volumes": 2, "model": {"psnr": row[k], "ssim": 0.9}} for model, row in PSNR.items()}
        for k, site in reversed(list(enumerate(SITES)))
    }
    (folder / "cross_site_val" / "cross_val_results.json").write_text(json.dumps(results))
    return tmp_path / "w"


def change(run, edit):
    path = run / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    results = json.loads(path.read_text())
    edit(results)
    path.write_text(json.dumps(results))


def drop_sites_models(results):
    for row in results.values():
        for site in SITES:
            del row[site]


def printed(renderable, width=80):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(renderable)
    return console.export_text(styles=True)


def test_rows_are_models_and_columns_test_sets(run):
    matrix = matrix_of(Run(run))
    assert matrix.sites == list(SITES)
    assert matrix.models == [*SITES, "global, final", "global, best round"]
    assert np.array_equal(matrix.psnr, np.array(list(PSNR.values())))


def test_a_run_without_models_of_sites_is_none(run):
    assert Run(run).is_cross_site
    change(run, drop_sites_models)
    assert not Run(run).is_cross_site
    (run / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json").unlink()
    assert not Run(run).is_cross_site


def test_the_best_of_every_column_is_bold_and_the_mean_a_column(run):
    text = printed(matrix_table(matrix_of(Run(run))))
    bold = "\x1b[1m"
    assert [f"{bold}{value}" in text for value in ("31.00", "32.00", "33.50", "31.58")] == [True] * 4
    assert [f"{bold}{value}" in text for value in ("33.25", "30.50", "31.33")] == [False] * 3
    assert all(f"{value:.2f}" in text for row in PSNR.values() for value in row)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: [row.pop("site-2") for row in r.values()], "no model of site-2 was tested"),
        (lambda r: r["site-10"].pop("site-1"), "no test figures of site-1 from site-10"),
        (lambda r: r["site-2"].update({"SRV_FL_global_model.pt": {}}), "no test figures of SRV_FL_global_model.pt"),
        (lambda r: r.pop("site-1"), "from site-1"),
    ],
)
def test_what_is_missing_is_named(run, edit, message):
    change(run, edit)
    with pytest.raises(RunError, match=message):
        matrix_of(Run(run))


def test_the_heat_map_is_darkest_where_a_model_is_furthest_behind_the_best(run, tmp_path):
    matrix = matrix_of(Run(run))
    draw_matrix(matrix, tmp_path / "map.png")
    loss = matrix.psnr.max(axis=0) - matrix.psnr
    assert loss[0, 2] == loss.max() > np.delete(loss.flatten(), 2).max()
    image = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"))
    image = image[:, : int(0.75 * image.shape[1])]  # without the colour bar
    rows, columns = np.nonzero((image == (68, 1, 84)).all(axis=2))  # viridis' dark end
    assert len(rows) > 1000
    assert rows.mean() < image.shape[0] / 4, "first of five rows"
    assert columns.mean() > image.shape[1] * 2 / 3, "last of three columns"


def test_report_prints_and_draws(run, tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    show_matrix(Run(run), console, tmp_path / "new" / "map.png")
    assert "33.50" in console.export_text(clear=False)
    assert "map.png" in console.export_text().replace("\n", "")
    assert Image.open(tmp_path / "new" / "map.png").size[0] > 400
