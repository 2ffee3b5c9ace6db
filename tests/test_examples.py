"""Examples in Python run as they stand: the blocks of docs/python.md and the cells of the notebook, each in order."""

import json
import re
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pytest

from phantoms import phantom, write_site

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
BLOCKS = BLOCK.findall((ROOT / "docs" / "python.md").read_text())


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text())["cells"]
    assert all(cell["outputs"] == [] for cell in found if cell["cell_type"] == "code"), "committed without output"
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a scan and a data root of two small sites."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    image = nib.Nifti1Image(phantom(1, (30, 28, 4)).astype(np.float32), np.diag([1.0, 1.2, 4.0, 1.0]))
    nib.save(image, tmp_path / "scan.nii.gz")
    for number in (1, 2):
        write_site(tmp_path / "data", f"site-{number}", seed=number, patients=3, shape=(60, 56, 4))
    return tmp_path


def run(codes: list[str]) -> None:
    """Run pieces of code one after another in one module."""
    names: dict[str, object] = {}
    for code in codes:
        exec(compile(code, "example", "exec"), names)


def test_the_page_on_python_applies_a_model(here):
    run([code for code in BLOCKS if "train(" not in code and "simulate(" not in code])
    assert nib.load(here / "finer.nii.gz").shape == (60, 56, 4)


@pytest.mark.e2e
def test_the_page_on_python_trains_and_federates(here):
    run(BLOCKS)
    assert (here / "runs" / "pooled" / "model.pt").is_file()
    assert (here / "runs" / "mine" / "server").is_dir()


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_the_cells_of_a_notebook_run(notebook, here):
    run(cells(notebook))
    assert nib.load(here / "finer.nii.gz").shape == (60, 56, 4)
