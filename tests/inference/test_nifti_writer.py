import nibabel as nib
import numpy as np
import pytest

from fedmr.data.images import read_nifti
from fedmr.inference.nifti_writer import super_resolve_nifti
from fedmr.inference.resolver import Options
from fedmr.inference.super_resolver import SuperResolver
from fedmr.utils.errors import DataError
from landmarks import AFFINES, GRIDS, TURN, blob, model, place
from phantoms import phantom


def write(path, voxels, affine=AFFINES["2-D"], kind=nib.Nifti1Image, **header):
    image = kind(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def run(source, options=None, **model_args):
    target = source.with_name(f"{source.stem}_result.nii.gz")
    notes = super_resolve_nifti(SuperResolver(model(**model_args), options), source, target)
    return nib.load(target), notes


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", ">i2", "u2", "i4", "u4", "f4", "f8", ">f4"])
def test_the_type_stays_and_values_are_rounded_not_cut(tmp_path, dtype):
    voxels = (phantom(0) / 10).clip(0, 100).astype(dtype)
    result, _ = run(write(tmp_path / "a.nii", voxels), trained=True)
    whole, _ = run(write(tmp_path / "b.nii", voxels.astype("f8")), trained=True)
    assert result.get_data_dtype().newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
    difference = result.get_fdata() - whole.get_fdata()
    assert np.abs(difference).max() <= (0.5 if np.dtype(dtype).kind in "iu" else 1e-4)


def test_a_scaled_file_is_as_precise_as_it_was(tmp_path):
    image = nib.Nifti1Image(phantom(0), AFFINES["2-D"])
    image.header.set_slope_inter(0.25, 3)
    nib.save(image, tmp_path / "a.nii")
    result, _ = run(tmp_path / "a.nii", trained=True)
    values = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    whole, _ = run(write(tmp_path / "b.nii", values.astype("f4")), trained=True)
    assert (result.dataobj.slope, result.dataobj.inter) == (0.25, 3)
    assert result.get_data_dtype() == np.int16
    assert np.abs(result.get_fdata() - whole.get_fdata()).max() <= 0.125 + 1e-3


def test_values_beyond_the_type_are_clipped_and_counted(tmp_path):
    voxels = np.where(phantom(0) > 200, 255, 0).astype(np.uint8)  # sharp edges overshoot
    result, notes = run(write(tmp_path / "a.nii", voxels))
    assert result.get_fdata().max() == 255
    assert any("lie beyond what uint8 holds and were clipped" in note for note in notes)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("degradation", "scale"), [("truncation", 2), ("bicubic", 3)])
def test_a_series_keeps_its_header_and_every_volume_its_own_intensities(tmp_path, kind, degradation, scale):
    shape, affine = (21, 24, 19), TURN @ AFFINES["2-D"]
    volumes = [blob(shape, (9, 10, 9)) * factor for factor in (1, 0.5, 20)]
    image = kind(np.stack(volumes, axis=-1).astype(np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], 2.5))
    image.header.set_dim_info(0, 1, 2)
    image.header["descrip"], image.header["cal_max"] = b"TE=30", 700
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"old geometry"))
    nib.save(image, tmp_path / "a.nii")
    result, _ = run(tmp_path / "a.nii", degradation=degradation, scale=scale)
    header = result.header
    assert type(result) is kind
    assert result.shape == (21 * scale, 24 * scale, 19, 3)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header.get_zooms() == pytest.approx((0.8 / scale, 0.9 / scale, 4, 2.5))
    assert header.get_dim_info() == (0, 1, 2)
    assert header["descrip"].item().startswith(f"super-resolved x{scale} by FedMR".encode())
    assert header["descrip"].item().endswith(b"; TE=30")
    assert header["cal_max"] == 700
    assert len(header.extensions) == 0
    values = result.get_fdata()
    assert np.allclose(values[..., 1] * 2, values[..., 0], rtol=1e-3, atol=1e-2)
    assert np.allclose(values[..., 2] / 20, values[..., 0], rtol=1e-3, atol=1e-2)
    before, after = (
        place(i) for i in (read_volume(tmp_path / "a.nii", 2), read_volume(tmp_path / "a_result.nii.gz", 2))
    )
    assert np.abs(np.linalg.solve(affine[:3, :3], after - before)).max() < 0.01


def read_volume(path, number):
    image = read_nifti(path)
    return type(image)(image.voxels[..., number], image.affine)


@pytest.mark.parametrize(("qcode", "scode"), [(1, 0), (0, 4), (1, 4), (0, 0)])
@pytest.mark.parametrize("degradation", GRIDS)
def test_both_coordinate_systems_follow_the_finer_voxels(tmp_path, qcode, scode, degradation):
    scanner, template = TURN @ np.diag([-0.8, 0.9, 4, 1]), np.diag([-1.0, 1.1, 4, 1])
    scanner[:3, 3], template[:3, 3] = (30, -20, 10), (5, 6, 7)
    image = nib.Nifti1Image(phantom(0), None)
    image.header.set_zooms((0.8, 0.9, 4))
    if qcode:
        image.set_qform(scanner, qcode)
    if scode:
        image.set_sform(template, scode)
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii")
    result, notes = run(tmp_path / "a.nii", degradation=degradation)
    # no orientation, or a standard space beside the scanner's: each is worth a note
    assert bool(notes) == ((qcode, scode) in ((0, 0), (1, 4)))
    # canonical voxel (p, q) lies at finer voxel (2p, 2q) on pixel0, half a voxel farther on half; axis X runs backwards
    p, offset = np.array([3, 4, 1]), 0.5 if degradation == "bicubic" else 0.0
    flipped = stored.affine[0, 0] < 0
    finer = np.array([2 * p[0] + (1 - offset if flipped else offset), 2 * p[1] + offset, p[2]])
    for form in ("qform", "sform"):
        old, code = getattr(stored, f"get_{form}")(coded=True)
        new, new_code = getattr(result, f"get_{form}")(coded=True)
        if code:
            assert new_code == code
            assert np.allclose(nib.affines.apply_affine(new, finer), nib.affines.apply_affine(old, p), atol=1e-4)
    assert np.allclose(
        nib.affines.apply_affine(result.affine, finer), nib.affines.apply_affine(stored.affine, p), atol=1e-4
    )


def test_slice_times_are_kept_only_while_the_slices_are_the_same(tmp_path):
    times = {"slice_code": 1, "slice_end": 4, "slice_duration": 0.1}
    source = write(tmp_path / "a.nii", phantom(0), **times)
    for plane, kept in (("axial", True), ("coronal", False)):
        header = run(source, Options(plane))[0].header
        assert [float(header[name]) for name in times] == pytest.approx(list(times.values()) if kept else [0, 0, 0])


def test_with_data_consistency_whole_numbers_become_floating_ones(tmp_path):
    source = write(tmp_path / "a.nii", phantom(0))
    result, _ = run(source, Options(data_consistency=True), trained=True)
    assert result.get_data_dtype() == np.float32
    low, high = np.fft.fft2(phantom(0), axes=(0, 1)), np.fft.fft2(result.get_fdata(), axes=(0, 1))
    error = np.abs(high[:20, :20] / 4 - low[:20, :20])
    assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(low[:20, :20])


def test_the_same_input_gives_the_same_file(tmp_path):
    source = write(tmp_path / "a.nii", phantom(0))
    run(source)
    before = (tmp_path / "a_result.nii.gz").read_bytes()
    run(source)
    assert (tmp_path / "a_result.nii.gz").read_bytes() == before


def test_a_volume_of_a_series_that_cannot_be_used_is_named(tmp_path):
    series = np.stack([phantom(0), np.full_like(phantom(0), 7)], axis=-1)
    with pytest.raises(DataError, match=r"volume 2 of .*a\.nii is constant"):
        run(write(tmp_path / "a.nii", series))
    assert not (tmp_path / "a_result.nii.gz").exists()


def test_a_series_of_one_is_a_volume(tmp_path):
    result, _ = run(write(tmp_path / "a.nii", phantom(0)[..., None]))
    assert result.shape == (96, 90, 5)


def test_a_second_coordinate_system_that_is_none_is_named(tmp_path):
    image = nib.Nifti1Image(phantom(0), AFFINES["2-D"])
    image.header["qform_code"], image.header["quatern_b"] = 1, 1.5  # the sform is what readers take
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"a\.nii has a qform that is no rotation"):
        run(tmp_path / "a.nii")
