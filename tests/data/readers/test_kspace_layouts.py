"""Raw k-space in other layouts gives the images of the same measurement in fastMRI's layout."""

import h5py
import ismrmrd
import numpy as np
import pytest

from fastmri_files import header, kspace_of, write
from fedmr.data.readers import Scan, fastmri
from fedmr.data.readers.folder import find_scans
from fedmr.hospital.prepare import prepare
from fedmr.utils.errors import DataError
from hospital_files import ONE

KSPACE = kspace_of(3, slices=3, coils=4, size=(64, 40))
HEADER = header().decode().replace("<center>18</center>", "<center>20</center>")
NAMED = HEADER.replace(
    "<studyInformation>",
    "<subjectInformation><patientID>P7</patientID></subjectInformation>"
    "<measurementInformation><protocolName>AXT2_tse</protocolName></measurementInformation><studyInformation>",
)


def read(path):
    return fastmri.read(Scan((path,), "1", "T1w"))


def plain(tmp_path, kspace=KSPACE):
    return read(write(tmp_path / "plain.h5", {"kspace": kspace, "ismrmrd_header": HEADER.encode()}, patient_id="1"))


def acquisitions(kspace=KSPACE, averages=1, **changes):
    """One acquisition a line, in the order in which a scanner interleaves slices."""
    slices, _, samples, lines = kspace.shape
    rng = np.random.default_rng(0)
    for average in range(averages):
        for line in range(lines):
            for number in (*range(0, slices, 2), *range(1, slices, 2)):
                data = kspace[number, :, :, line].astype(np.complex64)
                noise = rng.normal(0, 1e-3, data.shape).astype(np.complex64) if averages > 1 else 0
                one = ismrmrd.Acquisition.from_array(data + noise)
                one.center_sample = samples // 2
                one.idx.kspace_encode_step_1, one.idx.slice, one.idx.average = line, number, average
                for name, value in changes.items():
                    setattr(one.idx, name, value(line))
                yield one


def write_ismrmrd(path, lines, text=NAMED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with ismrmrd.Dataset(str(path), "dataset", mode="w") as dataset:
        dataset.write_xml_header(text.encode())
        for line in lines:
            dataset.append_acquisition(line)
    return path


def with_noise_and_reversed_lines():
    noise = ismrmrd.Acquisition.from_array(np.ones((4, 17), np.complex64))
    noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    yield noise
    for number, one in enumerate(acquisitions()):
        if number % 2:
            one.data[:] = one.data[:, ::-1].copy()
            one.set_flag(ismrmrd.ACQ_IS_REVERSE)
        yield one


@pytest.mark.parametrize("make", [acquisitions, with_noise_and_reversed_lines])
def test_acquisitions_of_ismrmrd_give_the_image_of_their_kspace(tmp_path, make):
    image, expected = read(write_ismrmrd(tmp_path / "raw.h5", make())), plain(tmp_path)
    assert np.allclose(image.voxels, expected.voxels, rtol=1e-4, atol=1e-3)
    assert image.spacing == expected.spacing
    assert np.allclose(image.kspace, KSPACE)


def test_averages_are_averaged_and_a_partial_echo_is_put_in_its_place(tmp_path):
    image = read(write_ismrmrd(tmp_path / "raw.h5", acquisitions(averages=3)))
    assert np.allclose(image.kspace, KSPACE, atol=5e-3)
    partial = KSPACE[:, :, 12:, :]

    def lines():
        for one in acquisitions(partial):
            one.center_sample = 32 - 12
            yield one

    image = read(write_ismrmrd(tmp_path / "partial.h5", lines()))
    assert np.allclose(image.kspace[:, :, 12:], partial)
    assert not image.kspace[:, :, :12].any()


def test_partitions_of_a_slab_become_slices(tmp_path):
    volume = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(KSPACE[:2], axes=0), axis=0, norm="ortho"), axes=0)

    def lines():
        for one in acquisitions(volume):
            one.idx.kspace_encode_step_2, one.idx.slice = one.idx.slice, 0
            yield one

    text = NAMED.replace("<z>1</z>", "<z>2</z>", 1)
    image = read(write_ismrmrd(tmp_path / "raw.h5", lines(), text))
    assert np.allclose(image.kspace, KSPACE[:2], atol=1e-3)


REFUSED = {
    "two echoes": (lambda: acquisitions(contrast=lambda line: line % 2), NAMED, "2 images by contrast"),
    "a spiral": (acquisitions, NAMED.replace("cartesian", "spiral"), "spiral trajectory"),
    "no xml": (acquisitions, "<a", "is no XML"),
    "a line far out": (lambda: acquisitions(kspace_encode_step_1=lambda line: 60_000), NAMED, "outside"),
    "partitions without end": (lambda: acquisitions(kspace_encode_step_2=lambda line: 65_000), NAMED, "outside"),
    "noise only": (lambda: list(with_noise_and_reversed_lines())[:1], NAMED, "only noise"),
    "several sizes": (lambda: [*acquisitions(), *acquisitions(KSPACE[:, :2])], NAMED, "several sizes"),
}


@pytest.mark.parametrize(("lines", "text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_single_cartesian_image_is_refused(tmp_path, lines, text, message):
    path = write_ismrmrd(tmp_path / "raw.h5", lines(), text)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


def test_the_header_names_patient_and_contrast(tmp_path):
    write_ismrmrd(tmp_path / "raw.h5", acquisitions())
    (scan,) = find_scans(tmp_path)[0].scans
    assert (scan.patient, scan.contrast) == ("P7", "T2w")


def test_a_linked_acquisition_is_not_followed(tmp_path):
    path = write_ismrmrd(tmp_path / "raw.h5", acquisitions())
    secret = path.rename(tmp_path / "secret")
    with h5py.File(path, "w") as handle:
        handle["dataset/data"] = h5py.ExternalLink(str(secret), "dataset/data")
        handle["dataset/xml"] = np.array([b"<a/>"])
    with pytest.raises(DataError, match="not followed"):
        read(path)


def calgary(kspace, corner):
    """(S, H, W, 2C) float32; with the origin in the corner, as numpy's FFT has it."""
    if corner:
        axes = (-2, -1)
        pictures = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), axes=axes), axes=axes)
        kspace = np.fft.fft2(pictures, axes=axes)
    moved = np.moveaxis(kspace, 1, -1)
    return np.stack([moved.real, moved.imag], axis=-1).reshape(*moved.shape[:3], -1).astype(np.float32)


@pytest.mark.parametrize("corner", [False, True])
def test_a_calgary_file_gives_the_same_picture(tmp_path, corner):
    stored = calgary(KSPACE, corner)
    assert stored.shape == (3, 64, 40, 8)
    image = read(write(tmp_path / "e1_P1.7.h5", {"kspace": stored}))
    expected = read(write(tmp_path / "plain.h5", {"kspace": KSPACE}, patient_id="1"))
    assert np.allclose(image.voxels, expected.voxels, rtol=1e-3, atol=1e-2)
    assert image.spacing == (1, 1, 1)


def test_the_averages_of_a_prostate_file_complete_one_another(tmp_path):
    averages = np.stack([KSPACE, KSPACE, KSPACE])
    averages[:2, ..., 1::2], averages[2, ..., ::2] = 0, 0  # two of the even lines, one of the odd ones
    image = read(write(tmp_path / "p.h5", {"kspace": averages, "ismrmrd_header": HEADER.encode()}, patient_id="1"))
    assert np.allclose(image.kspace, KSPACE, atol=1e-4)
    assert np.allclose(image.voxels, plain(tmp_path).voxels, rtol=1e-4, atol=1e-3)
    with pytest.raises(DataError, match="50 acquisitions in one file, as diffusion"):
        read(write(tmp_path / "d.h5", {"kspace": np.ones((50, 1, 1, 64, 40), np.complex64)}))


def test_a_folder_of_all_layouts_is_prepared(tmp_path):
    write_ismrmrd(tmp_path / "in" / "raw.h5", acquisitions())
    write(tmp_path / "in" / "c.h5", {"kspace": calgary(kspace_of(1), True)})
    write(tmp_path / "in" / "f.h5", {"kspace": kspace_of(2), "ismrmrd_header": HEADER.encode()}, patient_id="2")
    outcome = prepare(tmp_path / "in", site="s", out=tmp_path / "out", options=ONE)
    assert (len(outcome.volumes), outcome.problems) == (3, [])
    assert all("kspace" in volume for volume in outcome.volumes)
