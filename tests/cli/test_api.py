"""The Python surface: what `import fedmr` offers gives what the commands give."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from torch import nn

import fedmr
from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model, save_model
from fedmr.nets import build
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.utils.errors import DataError
from phantoms import phantom, write_site

AFFINE = np.diag([1.0, 1.2, 4.0, 1.0])


@pytest.fixture
def model(tmp_path):
    network = {"name": "mscan", "scale": 2, "channels": 8, "blocks": 1, "grid": "pixel0"}
    task = SuperResolutionTask(network=network)
    net = build(**task.network)
    nn.init.normal_(net.tail.weight, std=0.05)
    save_model(tmp_path / "model.pt", Model(net, make_card(task)))
    return str(tmp_path / "model.pt")


@pytest.fixture
def scan(tmp_path):
    voxels = phantom(1, (30, 28, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "scan.nii.gz")
    return str(tmp_path / "scan.nii.gz")


def test_import_loads_neither_torch_nor_flare_nor_monai():
    code = "import sys, fedmr; fedmr.__version__; print({'torch', 'nvflare', 'monai'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_every_name_of_the_surface_is_there_and_documented():
    for name in set(fedmr.__all__) - {"__version__"}:
        assert getattr(fedmr, name).__doc__
    assert set(dir(fedmr)) >= {"load_model", "infer", "train", "evaluate", "simulate"}
    with pytest.raises(AttributeError, match="no attribute 'inferr'"):
        _ = fedmr.inferr


def test_file_image_and_array_give_the_same_voxels_at_the_same_place(model, scan, tmp_path):
    target = str(tmp_path / "sr.nii.gz")
    assert [str(path) for path in fedmr.infer(model, scan, target)] == [target]
    file, image = nib.load(target), nib.load(scan)
    opened = fedmr.load_model(model)
    of_image = fedmr.infer(opened, image)
    voxels, affine = fedmr.infer(opened, image.get_fdata(), affine=image.affine)
    assert voxels.shape == of_image.shape == file.shape == (60, 56, 4)
    assert voxels.dtype == of_image.get_data_dtype() == np.float32
    assert np.array_equal(voxels, of_image.get_fdata(dtype=np.float32))
    assert np.allclose(voxels, file.get_fdata(), rtol=1e-6, atol=1e-3)
    assert np.allclose(affine, file.affine)
    assert np.allclose(of_image.affine, file.affine)


def test_nothing_is_overwritten_without_force(model, scan, tmp_path):
    target = tmp_path / "sr.nii.gz"
    target.write_text("mine")
    with pytest.raises(FileExistsError, match=r"sr.nii.gz exists"):
        fedmr.infer(model, scan, target)
    assert target.read_text() == "mine"
    fedmr.infer(model, scan, target, force=True)
    assert nib.load(target).shape == (60, 56, 4)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((np.ones((20, 20, 3)),), {}, "takes its affine"),
        (("scan.nii",), {}, "takes a target"),
        ((nib.Nifti1Image(np.ones((20, 20, 3)), AFFINE), "out.nii"), {}, "a target goes with a path"),
        (("scan.nii", "out.nii"), {"affine": AFFINE}, "no affine"),
    ],
)
def test_what_does_not_go_together_is_named(model, arguments, named, message):
    with pytest.raises(TypeError, match=message):
        fedmr.infer(model, *arguments, **named)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [(np.full((20, 20, 3), np.nan), "NaN"), (np.zeros((20, 20, 3)), "."), (np.ones((20, 20)), ".")],
)
def test_unusable_voxels_are_refused(model, voxels, message):
    with pytest.raises(DataError, match=message):
        fedmr.infer(model, voxels, affine=AFFINE)


def test_train_and_evaluate_take_strings(tmp_path):
    from simulator import render_tiny_job

    write_site(tmp_path / "data", "site-1", seed=1, patients=4)
    job = render_tiny_job(tmp_path / "job", rounds=1)
    trained = fedmr.train(str(tmp_path / "data"), str(tmp_path / "run"), job=str(job))
    figures = fedmr.evaluate(str(trained), str(tmp_path / "data"))
    assert set(figures["mean"]) >= {"zero_filled", "interpolated", "model"}
    json.dumps(figures)


@pytest.mark.e2e
def test_simulate_federates_and_gives_a_model(tmp_path):
    from simulator import render_tiny_job

    for number in (1, 2):
        write_site(tmp_path / "data", f"site-{number}", seed=number, patients=3)
    job = render_tiny_job(tmp_path / "job", rounds=2)
    run = fedmr.simulate(job, data=str(tmp_path / "data"), out=str(tmp_path / "run"), settings={"task": {"seed": 1}})
    assert fedmr.load_model(run).card["training"]["sites"] == 2
    with pytest.raises(FileExistsError):
        fedmr.simulate(job, data=tmp_path / "data", out=run)
