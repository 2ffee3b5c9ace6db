import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmr.data.datalist import read_datalist
from fedmr.data.volumes import read_volume
from fedmr.hospital.prepare import Options, hospitals, prepare
from fedmr.tasks.patches import load_volumes
from fedmr.utils.errors import DataError
from hospital_files import ONE, write, write_patients
from hospital_folders import write_bids, write_brats, write_dicom, write_fastmri, write_ixi, write_plain
from phantoms import phantom


@pytest.fixture
def source(tmp_path) -> Path:
    return write_patients(tmp_path / "hospital", 4)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file that a site's training reads, by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "private" not in path.parts
    }


def test_training_gets_what_it_needs_and_nothing_of_the_hospitals_naming(source, tmp_path, task):
    outcome = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    folder = outcome.datalist.parent
    datalist = read_datalist(folder)
    assert (outcome.problems, outcome.notes, len(outcome.volumes)) == ([], [], 8)
    assert datalist["share_images"] is False
    assert {v["contrast"] for v in datalist["volumes"]} == {"T1w", "FLAIR"}
    assert all(v["shape"] == [48, 45, 5] and v["spacing"] == [1, 1, 5] for v in datalist["volumes"])
    assert b"sub-" not in b"".join([*tree(folder).values(), *map(str.encode, tree(folder))])
    assert len(load_volumes(folder, task)) == 8


def test_the_cache_holds_the_slices_of_the_files(source, tmp_path):
    folder = prepare(source, site="a", out=tmp_path / "data", options=ONE).datalist.parent
    entries = read_datalist(folder)["volumes"]
    for path, entry in zip(sorted(source.rglob("*.nii.gz")), entries, strict=True):
        assert torch.equal(read_volume(folder / entry["image"]), read_volume(path))


def test_no_patient_is_in_two_splits_and_splits_stay_when_patients_are_added(source, tmp_path):
    def run():
        volumes = prepare(source, site="a", out=tmp_path / "data", options=ONE).volumes
        splits = {v["patient"]: v["split"] for v in volumes}
        assert all(splits[v["patient"]] == v["split"] for v in volumes)
        return splits

    before = run()
    assert len(before) == 4
    assert set(before.values()) == {"train", "val", "test"}
    write_patients(source, 9)
    after = run()
    assert len(after) == 9
    assert after.items() >= before.items()


def test_a_second_run_keeps_what_is_done_and_changes_nothing(source, tmp_path):
    first = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    files = tree(tmp_path / "data")
    second = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    assert (first.kept, second.kept) == (0, 8)
    assert tree(tmp_path / "data") == files
    write(source / "sub-00/anat/sub-00_T1w.nii.gz", phantom(77))
    third = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    assert third.kept == 7
    assert tree(tmp_path / "data") != files


def test_processes_and_one_process_give_the_same(source, tmp_path):
    prepare(source, site="a", out=tmp_path / "one", options=ONE)
    shutil.copytree(tmp_path / "one" / "a" / "private", tmp_path / "two" / "a" / "private")
    (tmp_path / "two" / "a" / "private" / "sources.jsonl").unlink()
    seen = []
    outcome = prepare(
        source, site="a", out=tmp_path / "two", options=Options(workers=2), progress=lambda *n: seen.append(n)
    )
    assert outcome.kept == 0
    assert seen == [(n, 8) for n in range(9)]
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_an_interrupted_run_goes_on_and_ends_in_the_same_files(source, tmp_path):
    program = """
import os, signal, sys
from pathlib import Path
from fedmr.hospital.prepare import Options, prepare
def stop(done, total):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
prepare(Path(sys.argv[1]), site="a", out=Path(sys.argv[2]), options=Options(workers=1), progress=stop)
"""
    folder = tmp_path / "data" / "a"
    result = subprocess.run([sys.executable, "-c", program, source, tmp_path / "data"], check=False, timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert not (folder / "datalist.json").exists()
    (folder / "volumes" / ".half.nii.1").write_bytes(b"half")
    outcome = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    assert outcome.kept == 3
    shutil.copytree(folder / "private", tmp_path / "whole" / "a" / "private")
    (tmp_path / "whole" / "a" / "private" / "sources.jsonl").unlink()
    prepare(source, site="a", out=tmp_path / "whole", options=ONE)
    assert tree(tmp_path / "whole") == tree(tmp_path / "data")


@pytest.fixture
def interruptible():
    """Where a shell started the tests in the background, they and their children ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.e2e
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_one_line_and_loses_nothing(tmp_path):
    first = write(tmp_path / "source" / "0" / "T1w.nii.gz", phantom(0, (200, 200, 20)))
    for n in range(1, 150):  # so many that a stalled machine is not through before the signal
        (tmp_path / "source" / str(n)).mkdir()
        os.link(first, tmp_path / "source" / str(n) / first.name)
    command = [Path(sys.executable).parent / "fedmr", "prepare", tmp_path / "source", "--site", "a", "--out", tmp_path]
    journal = tmp_path / "a" / "private" / "sources.jsonl"
    with subprocess.Popen(
        [*map(str, command), "--workers", "2"], stderr=subprocess.PIPE, start_new_session=True
    ) as run:
        while run.poll() is None and (not journal.is_file() or not journal.read_text()):
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGINT)  # as the terminal does: to the workers, too
        error = run.stderr.read().decode()
    assert run.returncode == 1
    assert error == "error: interrupted; the same command goes on where it stopped\n"
    assert 0 < len(list((tmp_path / "a" / "volumes").iterdir())) < 150
    assert not (tmp_path / "a" / "datalist.json").exists()


def test_contrasts_can_be_chosen(source, tmp_path):
    outcome = prepare(source, site="a", out=tmp_path / "data", options=Options(contrasts=("FLAIR",), workers=1))
    assert {v["contrast"] for v in outcome.volumes} == {"FLAIR"}
    assert outcome.left_out == {"T1w": 4}
    with pytest.raises(DataError, match="no scan of contrast T2w; it has 4 FLAIR, 4 T1w"):
        prepare(source, site="b", out=tmp_path / "data", options=Options(contrasts=("T2w", "FLAIR"), workers=1))


def test_a_given_split_is_used_by_path_or_by_patient(source, tmp_path):
    by_path = tmp_path / "path.csv"
    names = [f"a,X{n},{split},hospital/sub-0{n}" for n, split in enumerate(("train", "val", "test"))]
    by_path.write_text("\n".join(["site,patient,split,path", *names, "a,X9,test,hospital/sub-99", "b,x,val,y"]))
    by_patient = tmp_path / "patient.csv"
    by_patient.write_text("patient,split\nsub-00,train\nsub-01,val\nsub-02,test\n")
    for number, file in enumerate((by_path, by_patient)):
        outcome = prepare(source, site="a", out=tmp_path / str(number), options=Options(split_file=file, workers=1))
        assert [v["split"] for v in outcome.volumes] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
        assert outcome.left_out == {"not in the split file": 2}
        assert len(outcome.problems) == 1 - number, "sub-99 is named and not there"


def test_a_collection_of_hospitals_makes_a_site_of_each(tmp_path):
    for n, hospital in enumerate(["Guys", "HH"] * 3):
        write(tmp_path / "ixi" / f"IXI{n:03}-{hospital}-0000-T2.nii.gz")
    assert hospitals(tmp_path / "ixi") == ["Guys", "HH"]
    for hospital in ("Guys", "HH"):
        options = Options(hospital=hospital, workers=1)
        assert len(prepare(tmp_path / "ixi", site=hospital, out=tmp_path / "d", options=options).volumes) == 3
    write(tmp_path / "plain" / "a.nii")
    with pytest.raises(DataError, match="names no hospitals; leave out --by-hospital"):
        hospitals(tmp_path / "plain")


@pytest.mark.parametrize("make", [write_bids, write_plain, write_ixi, write_brats, write_dicom, write_fastmri])
def test_every_format_is_recognised_and_gives_volumes_to_train_on(make, tmp_path, task):
    contrasts = make(tmp_path / "source")
    outcome = prepare(tmp_path / "source", site="a", out=tmp_path / "data", options=ONE)
    assert outcome.problems == []
    assert sorted(v["contrast"] for v in outcome.volumes) == sorted(contrasts)
    assert len({v["patient"] for v in outcome.volumes}) == 3
    folder = tmp_path / "data" / "a"
    assert all(v.hr.isfinite().all() for v in load_volumes(folder, replace(task, patch_size=6)))
    for entry in outcome.volumes:
        assert ("kspace" in entry) == (make is write_fastmri)
        if "kspace" in entry:
            kspace = np.load(folder / entry["kspace"], mmap_mode="r")
            assert kspace.dtype == np.complex64
            assert kspace.shape[0] == entry["shape"][2]


def test_the_sites_choice_to_share_pictures_stays(source, tmp_path):
    path = prepare(source, site="a", out=tmp_path, options=ONE).datalist
    path.write_text(path.read_text().replace('"share_images": false', '"share_images": true'))
    prepare(source, site="a", out=tmp_path, options=ONE)
    assert json.loads(path.read_text())["share_images"] is True


def test_a_patient_under_two_names_stays_in_one_split(source, tmp_path):
    for n in range(6):
        shutil.copytree(source / "sub-00", source / f"copy {n}" / f"sub-1{n}")
        for path in (source / f"copy {n}" / f"sub-1{n}" / "anat").iterdir():
            path.rename(path.with_name(path.name.replace("sub-00", f"sub-1{n}")))
        write(source / f"copy {n}" / f"sub-1{n}" / "anat" / f"sub-1{n}_T2w.nii", phantom(500 + n))
    outcome = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    assert len(outcome.problems) == 12
    assert all("same voxels" in problem and "under another patient" in problem for problem in outcome.problems)
    assert len(outcome.volumes) == 14
    assert len({v["patient"] for v in outcome.volumes}) == 4
    assert len({v["split"] for v in outcome.volumes if v["contrast"] == "T2w"}) == 1


def one_patient(source, out):
    shutil.rmtree(source)
    write_patients(source, 1)


def empty(source, out):
    shutil.rmtree(source)
    source.mkdir()


def all_bad(source, out):
    for path in source.rglob("*.nii.gz"):
        path.write_bytes(b"")


def foreign_datalist(source, out):
    (out / "a").mkdir(parents=True)
    (out / "a" / "datalist.json").write_text("{}")


def another_source(source, out):
    write_patients(source.with_name("other"), 3)
    prepare(source.with_name("other"), site="a", out=out, options=ONE)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (one_patient, "usable scans of 1 patient; train, val and test need one each"),
        (empty, "holds no scan"),
        (all_bad, r"(?s)no scan in .* can be used\n.*sub-00_FLAIR.nii.gz cannot be read"),
        (foreign_datalist, "was not made by `fedmr prepare`"),
        (another_source, "was prepared from .*other; give another --out or --site"),
        (lambda source, out: shutil.rmtree(source), "does not exist; give the folder that holds the scans"),
        (lambda source, out: out.write_text("a file"), "Not a directory"),
    ],
)
def test_where_nothing_can_be_prepared_the_reason_is_given(spoil, message, source, tmp_path):
    spoil(source, tmp_path / "data")
    with pytest.raises((DataError, NotADirectoryError), match=message):
        prepare(source, site="a", out=tmp_path / "data", options=ONE)


@pytest.mark.parametrize("site", ["", "..", "a/b", ".hidden"])
def test_a_site_name_is_one_folder(source, tmp_path, site):
    with pytest.raises(DataError, match="is no name for a folder"):
        prepare(source, site=site, out=tmp_path / "data")


def test_a_folder_that_cannot_be_written_stops_with_its_name(source):
    unwritable = Path("/proc/fedmr")  # a file system in which nobody, root included, can make a folder
    with pytest.raises(OSError, match="/proc/fedmr"):
        prepare(source, site="a", out=unwritable, options=ONE)


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(source, tmp_path):
    """The kernel refuses to let files grow, as a full disk or an exceeded quota does."""
    big = write(source / "sub-02/anat/sub-02_T1w.nii.gz", phantom(5, (100, 100, 20)))
    assert big.stat().st_size > 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            prepare(source, site="a", out=tmp_path / "data", options=ONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder = tmp_path / "data" / "a"
    done = len(list((folder / "volumes").iterdir()))
    assert 0 < done < 8
    assert not [p for p in (folder / "volumes").iterdir() if p.name.startswith(".")]
    assert not (folder / "datalist.json").exists()
    outcome = prepare(source, site="a", out=tmp_path / "data", options=ONE)
    assert (outcome.kept, len(outcome.volumes)) == (done, 8)


@pytest.mark.e2e
def test_the_command_counts_good_and_bad_and_its_exit_code_tells(source, tmp_path):
    command = [Path(sys.executable).parent / "fedmr", "prepare", source, "--site", "a", "--out", tmp_path / "data"]

    def run(*more):
        words = [str(w) for w in (*command, *more)]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "300"})

    assert run("--workers", 1).returncode == 0
    (source / "sub-00/anat/sub-00_T2w.nii.gz").write_bytes(b"")
    result = run()
    assert result.returncode == 3
    assert "8 scans prepared (8 of them kept from an earlier run), 1 not usable" in result.stdout
    assert "not used: " in result.stdout
    assert "sub-00_T2w.nii.gz cannot be read" in result.stdout
    result = run("--by-hospital")
    assert result.returncode == 1
    assert "either --site NAME, or --by-hospital" in result.stderr
