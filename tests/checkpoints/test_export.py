"""Exported models give what FedMR gives, in an interpreter that has no FedMR."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.export import ENDINGS, ExportError, export, to_onnx, to_torchscript
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.checkpoints.monai_bundle import SCHEMA, metadata, write_bundle
from fedmr.data.images import canonical, read_nifti
from fedmr.data.volumes import normalisation
from fedmr.nets import build
from fedmr.tasks.super_resolution import SuperResolutionTask, super_resolve
from phantoms import phantom

# (degradation, scale): both grids, and the smallest and largest scale
TASKS = (("truncation", 2), ("bicubic", 4))
SIZES = ((1, 1, 16, 19), (5, 1, 40, 23))  # none of those that export itself tries


def trained(degradation="truncation", scale=2):
    """A model whose network is no longer plain interpolation."""
    grid = {"truncation": "pixel0", "bicubic": "half"}[degradation]
    network = {"name": "mscan", "scale": scale, "channels": 8, "blocks": 1, "grid": grid}
    task = SuperResolutionTask(network=network, degradation=degradation)
    net = build(**task.network)
    nn.init.normal_(net.tail.weight, std=0.05)
    return Model(net, make_card(task))


def expected(model, images):
    rows, columns = model.task.scale
    return super_resolve(model.net, images[:, 0], (rows * images.shape[2], columns * images.shape[3])).unsqueeze(1)


@pytest.fixture
def source(tmp_path):
    save_model(tmp_path / "in" / "model.pt", trained())
    return tmp_path / "in" / "model.pt"


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize(("degradation", "scale"), TASKS)
def test_torchscript_is_the_network_for_slices_of_any_number_and_size(degradation, scale):
    model, card = trained(degradation, scale), {"card.json": ""}
    scripted = torch.jit.load(io.BytesIO(to_torchscript(model)), _extra_files=card)
    for size in SIZES:
        images = torch.rand(size) - 0.2
        assert torch.allclose(scripted(images), expected(model, images), atol=1e-5)
    assert json.loads(card["card.json"]) == model.card
    assert "Device" not in str(scripted.inlined_graph)  # else it would run on the CPU only


@pytest.mark.e2e
@pytest.mark.parametrize(("degradation", "scale"), TASKS)
def test_onnx_is_the_network_for_slices_of_any_number_and_size(degradation, scale):
    import onnx
    import onnxruntime

    model = trained(degradation, scale)
    content = to_onnx(model)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content)
    for size in SIZES:
        images = torch.rand(size) - 0.2
        result = session.run(["pred"], {"image": images.numpy()})[0]
        assert np.abs(result - expected(model, images).numpy()).max() < 1e-4
    assert json.loads(session.get_modelmeta().custom_metadata_map["fedmr_card"]) == model.card


class Uneven(nn.Module):
    """Does something else for even sizes, which a trace cannot hold."""

    def forward(self, image):
        return image * (2.0 if image.shape[-1] % 2 else 3.0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_network_that_the_format_cannot_express_is_an_error():
    with pytest.raises(ExportError, match="TorchScript disagrees with the network"):
        to_torchscript(Model(Uneven(), trained().card))


def test_a_missing_package_is_named_and_nothing_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as Python marks a module that cannot be imported
    with pytest.raises(ExportError, match=r"the package onnxruntime is missing.*pip install onnx"):
        export(source, "onnx", out=tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("to", ["pt", "torchscript", "bundle"])
def test_what_is_there_is_kept_unless_forced(to, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = export(source, to)
    assert target == Path("model" + ENDINGS[to])
    inode = target.stat().st_ino
    with pytest.raises(FileExistsError, match=rf"{target} exists; .*--force"):
        export(source, to)
    assert target.stat().st_ino == inode
    assert export(source, to, force=True, licence="CC-BY-4.0") == target
    assert target.stat().st_ino != inode
    if to != "torchscript":
        file = target if to == "pt" else target / "models" / "model.pt"
        assert load_model(file).card == load_model(source).card | {"licence": "CC-BY-4.0"}
    assert {p.name for p in tmp_path.iterdir()} == {"in", target.name}  # no passing names are left


def test_a_folder_that_is_no_bundle_is_never_replaced(source, tmp_path):
    for to in ENDINGS:
        with pytest.raises(FileExistsError, match="a folder of something else"):
            export(source, to, out=tmp_path / "in", force=True)
    assert source.is_file()


def test_an_interrupted_bundle_leaves_the_one_before(source, tmp_path):
    target = export(source, "bundle", out=tmp_path / "b")
    before = (target / "models" / "model.ts").stat().st_ino
    with pytest.raises(TypeError):
        write_bundle(target, trained(), None)  # fails at the last file
    assert (target / "models" / "model.ts").stat().st_ino == before
    assert {p.name for p in tmp_path.iterdir()} == {"in", "b"}


def test_a_bad_model_or_format_writes_nothing(source, tmp_path):
    with pytest.raises(ValueError, match=r"format is 'zip'; known are pt, torchscript, onnx, bundle"):
        export(source, "zip", out=tmp_path / "out")
    source.write_bytes(source.read_bytes()[:-100])
    for to in ENDINGS:
        with pytest.raises(ValueError, match="truncated"):
            export(source, to, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def texts(tree):
    """Every key and text of nested dictionaries and lists."""
    if isinstance(tree, dict):
        return [*tree, *(text for value in tree.values() for text in texts(value))]
    return [text for value in tree for text in texts(value)] if isinstance(tree, list) else [tree]


def test_a_cards_text_never_becomes_an_expression_of_monais(task):
    code = "$print('executed')"
    card = make_card(task, licence=code, training={"rounds": code}, data={"contrasts": {code: 1}})
    card |= {"intended_use": code, "versions": {code: code}, "training": {"_target_": "os.system"}}
    found = texts(metadata(card))
    assert not any(str(text).startswith(("$", "_target_", "@", "%")) for text in found)
    assert any(code in str(text) for text in found)


def write_scan(path, axes, thickness=4.0):
    """A scan of 6 slices whose voxel axes run as `axes` says, e.g. "SPL"; slices lie across its last letter."""
    voxels = phantom(3, (30, 26, 6)).astype(np.float32) - 20
    orientation = nib.orientations.axcodes2ornt(axes)
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(orientation):
        affine[int(world), axis] = sign * (0.9, 1.1, thickness)[axis]
    affine[:, 3] = -20, 15, 7, 1
    nib.save(nib.Nifti1Image(voxels, affine), path)


def check_result(model, scan, result, axis):
    """The bundle's NIfTI file is what FedMR makes of the slices across `axis`, at the same place in the scanner."""
    image, scale = canonical(read_nifti(scan)), model.task.scale
    low = torch.from_numpy(np.moveaxis(np.maximum(image.voxels, 0), axis, 0).copy())
    intensity = normalisation(low)
    size = (scale[0] * low.shape[1], scale[1] * low.shape[2])
    wanted = super_resolve(model.net, low / intensity, size).numpy()
    file = nib.load(result)
    found = np.moveaxis(file.get_fdata(), axis, 0) / intensity
    assert nib.aff2axcodes(file.affine) == ("R", "A", "S")
    assert np.abs(found - wanted).max() < 1e-4
    finer = np.insert(np.array(scale, float), axis, 1.0)
    centre = 0 if model.task.grid == "pixel0" else (finer - 1) / 2
    for voxel in ([0, 0, 0], [3, 2, 4]):
        low_place = nib.affines.apply_affine(image.affine, voxel)
        assert np.allclose(nib.affines.apply_affine(file.affine, finer * voxel + centre), low_place, atol=1e-4)


@pytest.fixture
def without_fedmr(tmp_path):
    """An environment whose first `fedmr` cannot be imported."""
    (tmp_path / "poison" / "fedmr").mkdir(parents=True)
    (tmp_path / "poison" / "fedmr" / "__init__.py").write_text("raise ImportError('this machine has no FedMR')\n")
    return os.environ | {"PYTHONPATH": str(tmp_path / "poison"), "OMP_NUM_THREADS": "1"}


def python(folder, environment, *arguments):
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.e2e
def test_a_bundle_runs_by_monais_command_without_fedmr(source, tmp_path, without_fedmr):
    scan = tmp_path / "scan [1].nii.gz"
    write_scan(scan, "RAS", thickness=0.5)
    bundle = export(source, "bundle", out=tmp_path / "b")
    command = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    python(bundle, without_fedmr, *command, "--input", scan, "--output_dir", tmp_path, "--slice_axis", 2)
    check_result(load_model(source), scan, tmp_path / "scan [1]_sr.nii.gz", axis=2)
    assert json.loads((bundle / "docs" / "card.json").read_text()) == load_model(source).card


# What MONAI's bundle specification demands of metadata.json
# (https://docs.monai.io/en/stable/mb_specification.html), for use where its schema cannot be downloaded.
TENSOR = {
    "properties": {
        "type": {"type": "string"},
        "format": {"type": "string"},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}},
    },
}
TENSOR["required"] = list(TENSOR["properties"])
SPECIFICATION = {
    "properties": {
        **{name: {"type": "object"} for name in ("changelog", "required_packages_version", "eval_metrics")},
        **{name: {"type": "string"} for name in ("version", "task", "description", "authors", "copyright")},
        **{f"{name}_version": {"type": "string"} for name in ("monai", "pytorch", "numpy")},
        "network_data_format": {
            "properties": {"inputs": {"properties": {"image": TENSOR}}, "outputs": {"properties": {"pred": TENSOR}}},
            "required": ["inputs", "outputs"],
        },
    },
}
SPECIFICATION["required"] = list(SPECIFICATION["properties"])
VERIFY = """
import sys
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
config, meta = "configs/inference.json", "configs/metadata.json"
verify_metadata(meta_file=meta, filepath="../schema.json")
verify_net_in_out("network_def", meta_file=meta, config_file=config, any=17)
workflow = ConfigWorkflow(config, workflow_type="infer", dataset_dir="../scans", output_dir="..")
workflow.initialize()
sys.path.insert(0, ".")
assert workflow.check_properties() == [], workflow.check_properties()
workflow.run()
"""


@pytest.mark.e2e
def test_a_bundle_passes_monais_verification_and_takes_a_folder_of_scans(tmp_path, without_fedmr):
    model = trained("bicubic", 4)
    save_model(tmp_path / "model.pt", model)
    bundle = export(tmp_path / "model.pt", "bundle", out=tmp_path / "b")
    assert metadata(model.card)["schema"] == SCHEMA
    (tmp_path / "schema.json").write_text(json.dumps(SPECIFICATION))
    (tmp_path / "scans").mkdir()
    scans = {"SPL": 0, "RIA": 1}  # sagittal and coronal slices
    for axes in scans:
        write_scan(tmp_path / "scans" / f"{axes}.nii", axes)
    python(bundle, without_fedmr, "-c", VERIFY)
    for axes, axis in scans.items():
        check_result(model, tmp_path / "scans" / f"{axes}.nii", tmp_path / f"{axes}_sr.nii.gz", axis)
