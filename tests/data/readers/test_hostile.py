"""One odd or hostile file among good ones is named; it costs neither the run nor the memory."""

import resource
import zlib

import h5py
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_files import Series, classic, find, read, save
from fastmri_files import header, kspace_of
from fedmr.data.readers import Scan, dicom, nifti
from fedmr.hospital.prepare import prepare
from fedmr.utils.errors import DataError
from hospital_files import ONE, write
from phantoms import phantom


def deflated(dataset: Dataset, path, more: int = 0):
    """Write a deflated file, with `more` bytes of zeros behind its elements."""
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    if more:
        content = path.read_bytes()
        start = 144 + read_file_meta_info(path).FileMetaInformationGroupLength
        plain = zlib.decompress(content[start:], -zlib.MAX_WBITS)
        packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        packed = packer.compress(plain) + b"".join(packer.compress(bytes(2**20)) for _ in range(more >> 20))
        path.write_bytes(content[:start] + packed + packer.flush())
    return path


def test_a_deflated_series_is_read_and_a_bomb_is_refused_without_unpacking_it(tmp_path):
    series = Series(shape=(20, 18, 3))
    for number in range(3):
        deflated(classic(series, number), tmp_path / f"{number}.dcm")
    assert read(tmp_path).voxels.shape == (18, 20, 3)
    bomb = deflated(classic(Series(), 0), tmp_path / "bomb.dcm", more=2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = find(tmp_path)
    assert len(found.scans) == 1
    assert [str(bomb) in problem and "unpacks to more than" in problem for problem in found.problems] == [True]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_an_image_that_claims_more_pixels_than_the_memory_holds_is_refused(tmp_path):
    dataset = classic(Series(), 0)
    dataset.NumberOfFrames = 2**30
    dataset.Rows = dataset.Columns = 2**15
    save(dataset, tmp_path / "a.dcm")
    save(classic(Series(), 1), tmp_path / "b.dcm")
    with pytest.raises(DataError, match=r"too many for the memory|cannot be read|mixes"):
        dicom.read(Scan((tmp_path / "a.dcm", tmp_path / "b.dcm"), "", ""))


ODD = {
    "a kspace that is a type": lambda h: h.__setitem__("kspace", np.dtype("f4")),
    "a group in place of kspace": lambda h: h.create_group("kspace"),
    "a header that is a group": lambda h: (h.__setitem__("kspace", kspace_of()), h.create_group("ismrmrd_header")),
    "an empty dataset": lambda h: h.__setitem__("kspace", h5py.Empty("c8")),
    "a reconstruction of text": lambda h: (
        h.__setitem__("kspace", kspace_of()),
        h.__setitem__("reconstruction_rss", np.full((3, 32, 30), b"x")),
    ),
    "a mask of a compound": lambda h: (
        h.__setitem__("kspace", kspace_of()),
        h.__setitem__("mask", np.zeros(40, [("a", "f4")])),
    ),
    "attributes that are arrays": lambda h: (
        h.__setitem__("kspace", np.zeros((2, 2, 2), np.complex64)),
        h.attrs.__setitem__("patient_id", np.zeros((3, 3))),
    ),
}


def test_odd_hdf5_files_are_named_and_the_good_ones_prepared(tmp_path):
    for number, make in enumerate(ODD.values()):
        with h5py.File(tmp_path / f"odd{number}.h5", "w") as handle:
            make(handle)
    for number in range(3):
        with h5py.File(tmp_path / f"good{number}.h5", "w") as handle:
            handle["kspace"], handle["ismrmrd_header"] = kspace_of(number), header()
    outcome = prepare(tmp_path, site="s", out=tmp_path.parent / f"{tmp_path.name}-out", options=ONE)
    assert len(outcome.volumes) == 3
    for number in range(len(ODD)):
        assert any(f"odd{number}.h5" in problem for problem in outcome.problems), list(ODD)[number]


@pytest.mark.parametrize("error", [TypeError("x"), ZeroDivisionError(), RecursionError(), OverflowError("y")])
def test_whatever_a_reader_raises_is_the_files_problem_alone(tmp_path, monkeypatch, error):
    for p in range(4):
        write(tmp_path / "in" / f"P{p}" / "T1.nii.gz", phantom(p))
    plain = nifti.read_nifti

    def failing(path):
        if "P2" in str(path):
            raise error
        return plain(path)

    monkeypatch.setattr(nifti, "read_nifti", failing)
    outcome = prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert len(outcome.volumes) == 3
    assert [type(error).__name__ in problem and "P2" in problem for problem in outcome.problems] == [True]


def test_cached_scans_are_not_everybodys_to_read(tmp_path):
    for p in range(3):
        write(tmp_path / "in" / f"P{p}" / "T1.nii.gz", phantom(p))
    for _ in range(2):
        prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
        assert (tmp_path / "out" / "s" / "volumes").stat().st_mode & 0o007 == 0
        (tmp_path / "out" / "s" / "volumes").chmod(0o755)  # as an earlier version left it
