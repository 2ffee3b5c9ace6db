"""A healthy site passes; spoiled in one way, it is told so, and nothing else."""

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
from phantoms import write_site
from spoils import PATIENTS, SITE, SPOILS, change_voxels, edit, edit_volume, image, make_private


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
