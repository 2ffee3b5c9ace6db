"""`fedmr infer` with a reconstruction model: raw k-space in, NIfTI out."""

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fastmri_files import header, kspace_of, write
from fedmr.checkpoints.card import describe, make_card
from fedmr.checkpoints.export import ExportError, export
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.cli.main import app
from fedmr.inference.infer import infer
from fedmr.inference.resolver import Options
from fedmr.nets import build
from fedmr.physics.coils import reconstruct_zero_filled
from fedmr.physics.degradation import fft2c
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.utils.errors import DataError
from landmarks import model as super_resolution_model
from phantoms import phantom

CROP = (32, 30)
COLUMNS = np.isin(np.arange(40), [2, 5, 9, 13, 17, 18, 19, 20, 21, 22, 26, 31, 37])


def reconstruction_model(*, skip=True, **changes):
    network = {"name": "unet", "channels": 2, "pools": 2, "skip": skip}
    task = ReconstructionTask(network=network, mask={"acceleration": 4, "center_fraction": 0.1}, **changes)
    return Model(build(**network), make_card(task))


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "m" / "unet.pt", reconstruction_model())
    return tmp_path / "m" / "unet.pt"


def write_scan(path, *, masked=True, coils=4, columns=COLUMNS, **datasets):
    kspace = kspace_of(coils=coils) * columns
    given = {"kspace": kspace if coils > 1 else kspace[:, 0], "ismrmrd_header": header((64, 40), CROP)}
    if masked:
        given["mask"] = columns
    return write(path, given | datasets, acquisition="AXT1")


def expected(coils=4, columns=COLUMNS):
    return reconstruct_zero_filled(torch.from_numpy(kspace_of(coils=coils) * columns), CROP).numpy()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("coils", [1, 4])
def test_an_untrained_skip_network_gives_the_zero_filled_image_in_the_readers_geometry(saved, tmp_path, masked, coils):
    scan = write_scan(tmp_path / "scan.h5", masked=masked, coils=coils)
    outcome = infer(saved, scan, tmp_path / "out.nii.gz")
    image = nib.load(tmp_path / "out.nii.gz")
    assert image.shape == (30, 32, 3)
    assert image.header.get_zooms() == pytest.approx((1.0, 1.0, 5.0))
    assert np.allclose(image.get_fdata().transpose(2, 1, 0), expected(coils), rtol=1e-4, atol=1e-3)
    assert any("13 of its 40 columns are measured" in note for note in outcome.notes)


def test_measured_kspace_is_kept_on_request_in_every_coil_of_a_network_that_returns_something_else(tmp_path):
    """Single-coil with no phase: what is written is the magnitude of an image whose k-space is the measured one."""
    save_model(tmp_path / "bad.pt", reconstruction_model(skip=False))
    anatomy = phantom(3, (40, 40, 2)).transpose(2, 0, 1).astype(np.complex64)
    full = fft2c(torch.from_numpy(anatomy))[:, None].numpy()
    scan = write(tmp_path / "scan.h5", {"kspace": full * COLUMNS, "mask": COLUMNS})
    errors = {}
    for keep in (False, True):
        infer(tmp_path / "bad.pt", scan, tmp_path / f"{keep}.nii", options=Options(data_consistency=keep))
        result = nib.load(tmp_path / f"{keep}.nii").get_fdata().transpose(2, 1, 0)
        errors[keep] = np.abs(result - anatomy.real).mean()
    assert errors[True] < 0.7 * errors[False]


def test_gaps_that_are_no_columns_are_remarked(saved, tmp_path):
    holes = np.random.default_rng(0).random((64, 40)) < 0.3
    outcome = infer(saved, write_scan(tmp_path / "a.h5", masked=False, columns=holes), tmp_path / "a.nii")
    assert any("30% of its k-space is measured; what is missing are not whole columns" in n for n in outcome.notes)


def test_full_kspace_is_written_as_it_is_and_a_note_says_so(tmp_path):
    save_model(tmp_path / "bad.pt", reconstruction_model(skip=False))
    everything = np.ones(40, bool)
    for name, masked in (("a", True), ("b", False)):
        scan = write_scan(tmp_path / f"{name}.h5", columns=everything, masked=masked)
        outcome = infer(tmp_path / "bad.pt", scan, tmp_path / f"{name}.nii")
        assert any("nothing of its k-space is missing" in note for note in outcome.notes)
        voxels = nib.load(tmp_path / f"{name}.nii").get_fdata().transpose(2, 1, 0)
        assert np.allclose(voxels, expected(columns=everything), rtol=1e-4)


def test_a_folder_gives_a_folder_and_a_broken_file_does_not_stop_the_others(saved, tmp_path):
    write_scan(tmp_path / "in" / "a.h5")
    write_scan(tmp_path / "in" / "deep" / "b.hdf5", coils=1)
    (tmp_path / "in" / "c.h5").write_bytes(b"nothing")
    outcome = infer(saved, tmp_path / "in", tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in outcome.written) == ["a.nii.gz", "deep/b.nii.gz"]
    assert len(outcome.problems) == 1
    assert "c.h5" in outcome.problems[0]


def test_models_refuse_the_input_of_the_other_kind_and_say_what_to_give(saved, tmp_path):
    scan = write_scan(tmp_path / "scan.h5")
    save_model(tmp_path / "sr.pt", super_resolution_model())
    with pytest.raises(DataError, match="takes a reconstruction model; this one super-resolves images"):
        infer(tmp_path / "sr.pt", scan, tmp_path / "out.nii")
    nib.save(nib.Nifti1Image(phantom(1), np.eye(4)), tmp_path / "image.nii")
    with pytest.raises(DataError, match="takes raw k-space: give a fastMRI HDF5 file, or a super-resolution model"):
        infer(saved, tmp_path / "image.nii", tmp_path / "out.nii")
    assert not (tmp_path / "out.nii").exists()


def test_options_for_images_and_names_that_are_no_nifti_are_refused(saved, tmp_path):
    scan = write_scan(tmp_path / "scan.h5")
    with pytest.raises(ValueError, match="--plane, --fast is for super-resolution only"):
        infer(saved, scan, tmp_path / "out.nii", options=Options(plane="axial", exact=False))
    with pytest.raises(DataError, match=r"out\.h5 is no name of a NIfTI file"):
        infer(saved, scan, tmp_path / "out.h5")


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"mask": np.ones(39) * 0}, "its mask has shape"),
        ({"mask": np.zeros(40)}, "is constant or has no positive voxel"),
        ({"kspace": np.full((3, 4, 64, 40), np.nan, np.complex64)}, "NaN or infinite"),
    ],
)
def test_unusable_kspace_is_named(saved, tmp_path, datasets, message):
    scan = write_scan(tmp_path / "scan.h5", **datasets)
    with pytest.raises(DataError, match=message):
        infer(saved, scan, tmp_path / "out.nii")


def test_the_command_reconstructs(saved, tmp_path):
    scan = write_scan(tmp_path / "scan.h5")
    result = CliRunner().invoke(app, ["infer", str(saved), str(scan), str(tmp_path / "out.nii"), "--data-consistency"])
    assert result.exit_code == 0, result.output
    assert "13 of its 40 columns are measured" in " ".join(result.output.split())
    assert (tmp_path / "out.nii").is_file()


def test_the_card_says_what_the_model_is_and_export_what_it_cannot_become(saved, tmp_path):
    model = load_model(saved)
    text = describe(model.card)
    assert "Under-sampling: random columns, 4x, 10% in the middle kept" in text
    assert "Research on MR reconstruction" in text
    assert "Scale" not in text
    with pytest.raises(ExportError, match="is a reconstruction model"):
        export(saved, "onnx", out=tmp_path / "m.onnx")
    assert load_model(export(saved, "pt", out=tmp_path / "again.pt")).card == model.card
