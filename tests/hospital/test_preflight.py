"""A healthy site passes; spoiled in one way, it is told so, and nothing else."""

import json
import shutil
from dataclasses import replace
from importlib import metadata
from io import StringIO
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import psutil
import pytest
from rich.console import Console

from fedmr.data.datalist import DATA_ROOT_VARIABLE, read_datalist
from fedmr.flare.dry_run import take_steps
from fedmr.hospital.preflight import EXIT_CODES, MACHINE, Check, machine, preflight, table, verdict, worst
from fedmr.hospital.preflight.site import read_site
from fedmr.utils.errors import DataError
from phantoms import phantom, write_site

SITE = "site-1"
PATIENTS = 5  # the last is test, the one before val


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    """`take_steps` sets the variable of its process; setting it here first makes pytest put it back."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def healthy(tmp_path):
    folder = write_site(tmp_path / "data", SITE, seed=1, patients=PATIENTS)
    edit(folder, lambda datalist: datalist.update(share_images=False))
    return folder


def edit(folder, change):
    datalist = read_datalist(folder)
    change(datalist)
    (folder / "datalist.json").write_text(json.dumps(datalist))


def edit_volume(number, **values):
    return lambda folder: edit(folder, lambda datalist: datalist["volumes"][number].update(values))


def image(folder, number=0):
    return folder / read_datalist(folder)["volumes"][number]["image"]


def write(folder, voxels, number=0, zooms=(1.0, 1.0, 5.0)):
    nib.save(nib.Nifti1Image(voxels, np.diag([*zooms, 1.0])), image(folder, number))


def write_image(number=0, zooms=(1.0, 1.0, 5.0), **values):
    return lambda folder: write(folder, phantom(7, **values), number, zooms)


def change_voxels(change, number=0):
    def spoil(folder):
        write(folder, change(np.asarray(nib.load(image(folder, number)).dataobj).copy()), number)

    return spoil


def spike(voxels, height=30000):
    voxels[20, 20, 2] = height
    return voxels


def lose_a_slice(voxels):
    return np.concatenate([voxels, 0 * voxels[..., :1], voxels[..., ::-1]], axis=2)


def speck(voxels):
    voxels[:] = 0
    voxels[20:23, 20:23] = np.random.default_rng(0).integers(400, 500, (3, 3, voxels.shape[2]))
    return voxels


def turned_copy(folder):
    """The first scan again as the last one's file, stored in another order with another type and a wider margin."""
    voxels = np.asarray(nib.load(image(folder)).dataobj)
    padded = np.pad(voxels, ((2, 3), (0, 4), (0, 0))).astype(np.float32)
    other = nib.Nifti1Image(padded, np.diag([1.0, 1.0, 5.0, 1.0]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("PLI"))
    nib.save(other.as_reoriented(turn), image(folder, PATIENTS - 1))


def flipped_copy(folder):
    """The first scan again beside it, mirrored without a word in its affine."""
    write(folder, np.asarray(nib.load(image(folder)).dataobj)[::-1], number=1)
    edit_volume(1, patient="sub-0")(folder)


def forget_orientation(folder):
    volume = nib.Nifti1Image(phantom(7), None)
    volume.header.set_zooms((1.0, 1.0, 5.0))
    volume.header["sform_code"] = volume.header["qform_code"] = 0
    nib.save(volume, image(folder))


def tilt(folder):
    angle = np.radians(40)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 1.0, 5.0])
    nib.save(nib.Nifti1Image(phantom(7), affine), image(folder))


def add_kspace(folder):
    np.save(folder / "raw.npy", np.zeros((5, 1, 8, 8), np.float32))
    edit_volume(0, kspace="raw.npy")(folder)


def move_out(folder):
    shutil.move(folder / "sub-0", folder.parent / "elsewhere")
    edit_volume(0, image="../elsewhere/anat/sub-0_T1w.nii.gz")(folder)


def rename(folder):
    image(folder).rename(folder / "scan_19540312.nii.gz")
    edit_volume(0, image="scan_19540312.nii.gz")(folder)


def make_private(mode):
    def spoil(folder):
        (folder / "private").mkdir()
        (folder / "private").chmod(mode)

    return spoil


def all_of_one_patient(folder):
    for number in range(PATIENTS - 2):
        edit_volume(number, patient="sub-0")(folder)


def train_on_nothing(folder):
    for number in range(PATIENTS):
        edit_volume(number, split="test" if number else "val")(folder)


FILES = {"files": "fail", "training": "fail"}
SPOILS = {
    "no JSON": (lambda s: (s / "datalist.json").write_text("{"), {"datalist": "fail"}, "not valid JSON"),
    "another site's datalist": (lambda s: edit(s, lambda d: d.update(site="b")), {"datalist": "warn"}, "of site 'b'"),
    "missing file": (lambda s: image(s).unlink(), FILES, "sub-0_T1w.nii.gz does not exist"),
    "truncated file": (lambda s: image(s).write_bytes(image(s).read_bytes()[:900]), FILES, "cannot be read"),
    "NaN": (change_voxels(lambda v: np.where(v > 900, np.nan, v)), FILES, "NaN or infinite"),
    "other shape": (edit_volume(0, shape=[48, 45, 9]), FILES, "says [48, 45, 9]"),
    "k-space that is none": (add_kspace, {"files": "fail"}, "raw.npy holds float32 of shape (5, 1, 8, 8)"),
    "no test volume": (edit_volume(4, split="val"), {"splits": "warn"}, "'test' has no volume"),
    "no validation volume": (edit_volume(3, split="test"), {"splits": "warn"}, "does not help to select"),
    "nothing to train on": (train_on_nothing, {"splits": "warn"}, "so the site does not train"),
    "one training patient": (all_of_one_patient, {"splits": "warn"}, "one patient, 'sub-0'"),
    "patient in two splits": (edit_volume(3, patient="sub-1"), {"patients": "fail"}, "'sub-1' is in train and val"),
    "scan in two splits": (turned_copy, {"duplicates": "fail"}, "sub-0, sub-4 in test and train"),
    "scan twice in a split": (flipped_copy, {"duplicates": "warn"}, "sub-1_T1w.nii.gz"),
    "mask": (change_voxels(lambda v: np.uint8(v > 300)), {"files": "fail"}, "no magnitude image of anatomy (mask"),
    "few slices": (write_image(shape=(48, 45, 3)), {"slices": "warn"}, "sub-0_T1w.nii.gz: 3 of 3"),
    "background only": (change_voxels(speck, 4), {"files": "fail"}, "sparse map: 0.42% of its voxels"),
    "small slices": (
        write_image(shape=(22, 22, 5), zooms=(1.5, 1.5, 5.0)),
        {"patch": "fail", "training": "fail"},
        "slices of 22 x 22 voxels; 26 are needed",
    ),
    # training takes the spike for the maximum and leaves out slices that are dark beside it: both are said
    "spike": (
        change_voxels(spike),
        {"slices": "warn", "intensities": "warn"},
        "sub-0_T1w.nii.gz: 4 of 5 slices\nleave out these scans, mend those whose intensities are noted below",
    ),
    "faint spike": (change_voxels(lambda v: spike(v, 12000)), {"intensities": "warn"}, "sub-0_T1w.nii.gz: maximum is"),
    "saturation": (change_voxels(lambda v: np.minimum(v, 500)), {"intensities": "warn"}, "(saturated)"),
    "lost slice": (change_voxels(lose_a_slice), {"intensities": "warn"}, "constant slices between others: 1"),
    "other unit": (change_voxels(lambda v: 15.0 * v), {"contrasts": "warn"}, "sub-0_T1w.nii.gz: foreground median"),
    "other body part": (write_image(shape=(130, 120, 5)), {"contrasts": "warn"}, "field of view 130 mm"),
    "other resolution": (
        write_image(shape=(30, 28, 5), zooms=(2.0, 2.0, 5.0)),
        {"voxel sizes": "warn"},
        "2 x 2 mm in sub-0",
    ),
    "wrong voxel size": (
        edit_volume(0, spacing=[1.0, 1.0, 4.0]),
        {"voxel sizes": "warn"},
        "[1.0, 1.0, 4.0] in the datalist, 1 x 1 x 5 mm",
    ),
    "no orientation": (forget_orientation, {"orientation": "warn"}, "sub-0_T1w.nii.gz states no orientation"),
    "tilted": (tilt, {"orientation": "warn"}, "tilted by 40 degrees"),
    "shared pictures": (lambda s: edit(s, lambda d: d.update(share_images=True)), {"pictures": "warn"}, "is sent"),
    "path out of the folder": (move_out, {"paths": "warn"}, "1 of 5 paths leave"),
    "absolute path": (lambda s: edit_volume(0, image=str(image(s)))(s), {"paths": "warn"}, "1 of 5 paths leave"),
    "a name": (edit_volume(4, patient="DOE^JANE"), {"pseudonyms": "warn"}, "'DOE^JANE'"),
    "a date": (rename, {"pseudonyms": "warn"}, "'scan_19540312.nii.gz'"),
    "open private folder": (make_private(0o755), {"private": "fail"}, "mode 0755"),
}


def check(folder, task):
    return preflight(folder, task, try_steps=take_steps, workspace=folder)


def troubles(rows):
    return {row.name: row.status for row in rows if row.status != "pass"}


def text(rows):
    return "\n".join(f"{row.finding}\n{row.remedy}" for row in rows if row.status != "pass")


def test_a_healthy_site_passes_and_nothing_is_written(healthy, task):
    make_private(0o700)(healthy)
    before = sorted(healthy.rglob("*"))
    report = check(healthy.parent, task)
    assert list(report) == [MACHINE, SITE]
    assert text([*report[MACHINE], *report[SITE]]) == ""
    assert EXIT_CODES[worst(report)] == 0
    assert verdict(report).startswith("0 to mend, 0 to look at")
    assert sorted(healthy.rglob("*")) == before


@pytest.mark.parametrize("name", SPOILS)
def test_a_site_spoiled_in_one_way_is_told_so_and_what_to_do(healthy, task, name):
    spoil, expected, words = SPOILS[name]
    spoil(healthy)
    report = check(healthy, task)
    assert troubles(report[SITE]) == expected, text(report[SITE])
    assert words in text(report[SITE])
    assert all(row.remedy for row in report[SITE] if row.status != "pass")
    assert worst(report) == ("fail" if "fail" in expected.values() else "warn")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"clip_norm": 0.0}, "changed no weight"), ({"learning_rate": 1e12}, "lower learning_rate")],
)
def test_a_task_that_cannot_learn_fails_the_training_row(healthy, task, changes, words):
    report = check(healthy, replace(task, **changes))
    assert troubles(report[SITE]) == {"training": "fail"}
    assert words in text(report[SITE])


def test_all_bad_files_are_named_and_the_other_checks_go_on(healthy, task):
    image(healthy, 0).unlink()
    image(healthy, 2).write_bytes(b"no image")
    make_private(0o755)(healthy)
    rows = {row.name: row for row in check(healthy, task)[SITE]}
    assert len(rows["files"].finding.splitlines()) == 2
    assert "sub-0_T1w" in rows["files"].finding
    assert "sub-2_T1w" in rows["files"].finding
    assert rows["private"].status == "fail"
    assert rows["slices"].status == "pass"


@pytest.mark.parametrize("axes", ["LPS", "PIR", "ASL", "SRA"])
def test_the_figures_of_a_scan_do_not_depend_on_how_it_is_stored(healthy, task, axes):
    before = read_site(healthy, task, read_datalist(healthy), lambda *told: None).scans[0]
    volume = nib.Nifti1Image(np.asarray(nib.load(image(healthy)).dataobj), np.diag([1.0, 1.0, 5.0, 1.0]))
    turn = nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(axes))
    nib.save(volume.as_reoriented(turn), image(healthy))
    assert read_site(healthy, task, read_datalist(healthy), lambda *told: None).scans[0] == before


@pytest.mark.parametrize(
    "spoil",
    [
        change_voxels(lambda v: np.arange(1, 6, dtype=np.int16) + 0 * v),
        edit_volume(0, spacing="1 mm", kspace=None, shape=None),
        edit_volume(0, patient="", contrast=""),
        edit_volume(0, image="."),
    ],
)
def test_odd_scans_and_datalists_end_in_rows(healthy, task, spoil):
    spoil(healthy)
    assert troubles(check(healthy, task)[SITE])


def test_a_site_without_a_readable_file_still_gets_its_rows(healthy, task):
    for number in range(PATIENTS):
        image(healthy, number).unlink()
    rows = check(healthy, task)[SITE]
    assert troubles(rows) == {"files": "fail"}
    assert "splits" in {row.name for row in rows}


def test_simulated_patients_may_be_shared(healthy, task):
    edit(healthy, lambda datalist: datalist.update(share_images=True, simulated=True))
    assert troubles(check(healthy, task)[SITE]) == {}


def test_a_full_disk_and_a_small_memory_stop_a_site(healthy, task, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**28))
    report = check(healthy, task)
    assert troubles(report[MACHINE]) == {"disk": "fail"}
    assert "1.0 MB free" in text(report[MACHINE])
    assert troubles(report[SITE]) == {"memory": "fail"}
    assert "268.4 MB free" in text(report[SITE])
    assert "training" not in {row.name for row in report[SITE]}, "it would take memory that is not there"


@pytest.mark.parametrize(
    ("name", "version", "status", "words"),
    [
        ("numpy", "1.0.0", "warn", "numpy is 1.0.0, requirements.txt says"),
        ("nvflare", "2.8.1", "fail", "nvflare is 2.8.1; the federation needs 2.9"),
        ("monai", None, "fail", "monai is not installed"),
    ],
)
def test_other_versions_are_named(monkeypatch, name, version, status, words):
    installed = metadata.version

    def pretended(package):
        if package == name and version is None:
            raise metadata.PackageNotFoundError(package)
        return version if package == name else installed(package)

    monkeypatch.setattr(metadata, "version", pretended)
    row = machine.versions()
    assert row.status == status
    assert words in row.finding


def test_without_pins_only_flare_is_compared_and_the_row_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_PINS", tmp_path / "requirements.txt")
    row = machine.versions()
    assert row.status == "pass"
    assert "only nvflare 2.9 was compared" in row.finding


def test_a_gpu_that_torch_cannot_use_is_named(monkeypatch, tmp_path):
    assert machine.processor().status == "pass"
    (tmp_path / "version").write_text("NVRM")
    monkeypatch.setattr(machine, "_NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    assert machine.processor().status == "warn"


def test_folders_that_are_none_are_the_commands_own_error(healthy, tmp_path, task):
    with pytest.raises(DataError, match="holds no site"):
        check(tmp_path, task)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        preflight(healthy, task, try_steps=take_steps, workspace=tmp_path / "nowhere")


def test_progress_counts_every_volume(healthy, task):
    told = []
    preflight(healthy, task, try_steps=take_steps, progress=lambda what, done, total: told.append((done, total)))
    assert told == [(done, PATIENTS) for done in range(PATIENTS + 1)]


def test_long_findings_fit_100_columns_with_their_remedy():
    row = Check("files", "fail", "a [bracketed] file " * 20 + "x" * 300, "mend it")
    console = Console(width=100, file=StringIO())
    console.print(table([row], SITE))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "→ mend it" in "\n".join(lines)
    assert "".join(lines).count("[bracketed]") == 20
