"""Of any mixture of good and bad scans the good ones are prepared, every bad one is named, nobody is in two splits."""

import gzip

import nibabel as nib
import numpy as np
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dicom_files
import fastmri_files
from fedmr.hospital.prepare import Options, prepare
from hospital_files import AFFINE, write
from phantoms import phantom

SHAPE = (24, 22, 3)
LAYOUTS = ("T1/{}", "{}/T1", "{}_T1", "baseline/{}/T1", "20240101/{}_T1", "{}/anat/T1")
MIXTURE = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def itk(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels.T)
    image.SetSpacing((1.0, 1.0, 5.0))
    SimpleITK.WriteImage(image, str(path))
    return path


def by_nibabel(kind):
    def make(path, voxels):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(kind(voxels, AFFINE), path)
        return path

    return make


def upper(path, voxels):
    return write(path.with_suffix("").with_suffix(".nii.gz"), voxels).rename(path)


GOOD = {
    ".nii": write,
    ".nii.gz": write,
    ".NII.GZ": upper,
    ".mgz": by_nibabel(nib.MGHImage),
    ".hdr": by_nibabel(nib.Nifti1Pair),
    ".nrrd": itk,
    ".mha": itk,
}


def content(change):
    return lambda path, voxels: write(path.with_suffix(".nii"), change(voxels))


def text(suffix, held=b"no scan"):
    def make(path, voxels):
        path = path.with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held)
        return path

    return make


def cut(path, voxels):
    path = write(path.with_suffix(".nii.gz"), voxels)
    path.write_bytes(path.read_bytes()[:-60])
    return path


BAD = {
    "binary": content(lambda v: (v > 300).astype(np.uint8)),
    "nan": content(lambda v: np.where(v > 300, np.nan, v).astype(np.float32)),
    "two-dimensional": content(lambda v: v[..., 0]),
    "phase": content(lambda v: np.random.default_rng(0).integers(0, 4096, v.shape).astype(np.int16)),
    "sparse": content(lambda v: np.where(np.arange(v.size).reshape(v.shape) % 499 == 0, v, 0)),
    "series": content(lambda v: np.stack([v, v], axis=-1)),
    "constant": content(lambda v: np.full_like(v, 7)),
    "signed": content(lambda v: v - 300),
    "too small": content(lambda v: v[:9]),
    "empty file": text(".nii", b""),
    "text": text(".nii.gz"),
    "packed text": text(".nii.gz", gzip.compress(b"no scan")),
    "text as NRRD": text(".nrrd"),
    "voxels elsewhere": text(
        ".mhd", b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementDataFile = /etc/passwd\n"
    ),
    "text as FreeSurfer": text(".mgz"),
    "archive": text(".zip"),
    "cut": cut,
}


def checked(root, good, bad):
    """Prepare and compare: `good` gives the person of each good scan, `bad` the path of each bad one."""
    outcome = prepare(root / "in", site="s", out=root / "out", options=Options(workers=1))
    assert len(outcome.volumes) == len(good)
    assert [path for path in bad if not any(str(path) in problem for problem in outcome.problems)] == []
    assert len(outcome.problems) == len(bad)
    assert all(len(problem) > 40 for problem in outcome.problems)
    splits = {}
    for volume in outcome.volumes:
        splits.setdefault(volume["patient"], set()).add(volume["split"])
    assert len(splits) == len(set(good))
    assert all(len(found) == 1 for found in splits.values())


@MIXTURE
@given(
    kinds=st.lists(st.sampled_from(sorted(BAD)), min_size=2, max_size=6),
    suffixes=st.lists(st.sampled_from(sorted(GOOD)), min_size=10, max_size=10),
    layout=st.sampled_from(LAYOUTS),
)
def test_of_files_in_all_formats(tmp_path_factory, kinds, suffixes, layout):
    root = tmp_path_factory.mktemp("files")
    good, bad = [], []
    for number, suffix in enumerate(suffixes):
        person = f"P{number % 7:03}"  # three of them have two scans
        stem = layout.format(person) if number < 7 else layout.replace("T1", "FLAIR").format(person)
        GOOD[suffix](root / "in" / f"{stem}{suffix}", phantom(number, SHAPE))
        good.append(person)
    for number, kind in enumerate(kinds):
        bad.append(BAD[kind](root / "in" / f"{layout.format(f'Q{number:03}')}.x", phantom(50 + number, SHAPE)))
    checked(root, good, bad)


def series(number, **tags):
    return dicom_files.Series(shape=(18, 16, 3), origin=(number, 0, 0), tags={"PatientID": f"P{number}", **tags})


def series_without(folder, number):
    paths = dicom_files.write_classic(folder, dicom_files.Series(shape=(18, 16, 5), tags={"PatientID": f"P{number}"}))
    paths[2].unlink()
    return paths[0]


def series_cut(folder, number):
    path = dicom_files.write_classic(folder, series(number))[0]
    path.write_bytes(path.read_bytes()[:-40])
    return path


def colour(folder, number):
    paths = dicom_files.write_classic(folder, series(number, PhotometricInterpretation="MONOCHROME1"))
    return paths[0]


def single(folder, number):
    return dicom_files.save(dicom_files.classic(series(number), 0), folder / "one.dcm")


def ct(folder, number):
    tags = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}
    return dicom_files.write_classic(folder, series(number, **tags))[0]


def not_dicom(folder, number):
    folder.mkdir(parents=True)
    (folder / "letter.dcm").write_bytes(b"")
    return folder / "letter.dcm"


BAD_SERIES = {
    "a slice lost": series_without,
    "cut": series_cut,
    "inverted": colour,
    "a single image": single,
    "no DICOM": not_dicom,
    "nobody's": lambda f, n: dicom_files.write_classic(
        f, series(n, PatientID="", PatientName="", StudyInstanceUID=f"1.2.{n}")
    )[0],
    "CT": ct,
}


@MIXTURE
@given(
    kinds=st.lists(st.sampled_from(sorted(BAD_SERIES)), min_size=2, max_size=5),
    spellings=st.lists(st.sampled_from(["{}", " {}", "{} ", "{}"]), min_size=3, max_size=3),
)
def test_of_dicom_series(tmp_path_factory, kinds, spellings):
    root = tmp_path_factory.mktemp("series")
    for number in range(7):
        dicom_files.write_classic(root / "in" / f"a{number}", series(number))
    for number, spelling in enumerate(spellings):  # a second scan of three persons, who are written another way
        tags = {"PatientID": spelling.format(f"p{number}"), "StudyInstanceUID": f"1.3.{number}"}
        dicom_files.write_classic(root / "in" / f"b{number}", series(40 + number, **tags))
    bad = [BAD_SERIES[kind](root / "in" / f"c{number}", 60 + number) for number, kind in enumerate(kinds)]
    checked(root, [f"P{number}" for number in (*range(7), *range(3))], bad)


def hdf5(change):
    def make(path, number):
        fastmri_files.write(
            path, change(fastmri_files.kspace_of(seed=number)), patient_id=f"Q{number}", acquisition="AXT2"
        )
        return path

    return make


BAD_KSPACE = {
    "nan": hdf5(lambda k: {"kspace": np.where(np.arange(k.shape[-1]) == 3, np.nan, k)}),
    "with a mask": hdf5(lambda k: {"kspace": k, "mask": np.arange(k.shape[-1]) % 2 == 0}),
    "no k-space": hdf5(lambda k: {"image": np.abs(k)}),
    "real": hdf5(lambda k: {"kspace": np.abs(k)}),
    "text": lambda path, number: text(".h5")(path, None),
    "empty": lambda path, number: text(".h5", b"")(path, None),
}


@MIXTURE
@given(kinds=st.lists(st.sampled_from(sorted(BAD_KSPACE)), min_size=1, max_size=4))
def test_of_raw_kspace(tmp_path_factory, kinds):
    root = tmp_path_factory.mktemp("kspace")
    (root / "in").mkdir()
    for number in range(10):
        kspace = fastmri_files.kspace_of(seed=number)
        patient = f"P{number % 6}" if number < 6 else f"p0{number % 6}"
        fastmri_files.write(root / "in" / f"f{number}.h5", {"kspace": kspace}, patient_id=patient, acquisition="AXT2")
    bad = [BAD_KSPACE[kind](root / "in" / f"bad{number}.h5", 30 + number) for number, kind in enumerate(kinds)]
    checked(root, [f"P{number % 6}" for number in range(10)], bad)
