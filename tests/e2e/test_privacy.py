"""Identifiers planted in DICOM tags, NIfTI headers, file names and paths are looked for in all that a run leaves."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_files import Series, write_classic
from fedmr.runs.checks import RunError
from fedmr.runs.run import Run
from phantoms import phantom
from simulator import simulate

pytestmark = pytest.mark.e2e

# as many spellings as a person's data have; none occurs in a run by chance
PLANTED = ("Quirxelby", "QXB-4711", "19430229", "hpsource-zyx", "dataroot-wvu", "QUIRXELBY^AURELIA")
TAGS = {
    "PatientName": "Quirxelby^Aurelia",
    "PatientBirthDate": "19430229",
    "PatientComments": "Quirxelby, aged 81",
    "StudyDescription": "head of Quirxelby",
    "SeriesDescription": "t2 Quirxelby",
    "ProtocolName": "t2_Quirxelby",
    "AccessionNumber": "QXB-4711",
}
HEADER = {"descrip": "Quirxelby 19430229", "aux_file": "QXB-4711", "intent_name": "Quirxelby"}


def fedmr(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "fedmr"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def plant_dicom(folder: Path) -> None:
    for n in range(4):
        tags = TAGS | {"PatientID": f"QXB-4711-{n}"}
        series = Series(shape=(48, 45, 5), spacing=(1.0, 1.0, 5.0), origin=(-20.0 + n, -20.0, 30.0), tags=tags)
        write_classic(folder / f"Quirxelby {n}", series)


def plant_nifti(folder: Path) -> None:
    for n in range(4):
        image = nib.Nifti1Image(phantom(60 + n), np.diag([1.0, 1.0, 5.0, 1.0]))
        for field, text in HEADER.items():
            image.header[field] = text
        path = folder / f"Quirxelby{n}" / f"QXB-4711-{n}_19430229_T2w.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(image, path)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root of two hospitals that were prepared by the command."""
    root = tmp_path_factory.mktemp("privacy")
    plant_dicom(root / "hpsource-zyx" / "dicom")
    plant_nifti(root / "hpsource-zyx" / "nifti")
    for site, kind in (("site-1", "dicom"), ("site-2", "nifti")):
        result = fedmr("prepare", root / "hpsource-zyx" / kind, "--site", site, "--out", root / "dataroot-wvu")
        assert result.returncode == 0, result.stdout + result.stderr
        share = root / "dataroot-wvu" / site / "datalist.json"
        share.write_text(share.read_text().replace('"share_images": false', '"share_images": true'))
    return root / "dataroot-wvu"


def findings(folder: Path) -> list[str]:
    """Where a planted identifier stands in a file or in its name, private folders apart."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        content = path.read_bytes().lower() if path.is_file() else b""
        if "private" in path.relative_to(folder).parts:
            continue
        found += [f"{name}: {word}" for word in PLANTED if word.lower().encode() in content + name.lower().encode()]
    return found


def test_the_search_finds_what_is_there(root):
    source = root.parent / "hpsource-zyx"
    assert {finding.rpartition(": ")[2] for finding in findings(source)} == set(PLANTED) - {
        "hpsource-zyx",
        "dataroot-wvu",
    }
    assert "QXB-4711" in (root / "site-2" / "private" / "sources.jsonl").read_text()


def test_what_prepare_writes_for_training_holds_no_identifier(root):
    assert findings(root) == []


def test_a_whole_run_leaves_no_identifier_on_server_or_sites(root, tiny_job, tmp_path):
    result = simulate(tiny_job, tmp_path / "w", root, sites=2, threads=2)
    assert set(Run(tmp_path / "w").figures()["sites"]) == {"site-1", "site-2"}
    assert list((tmp_path / "w" / "server" / "simulate_job" / "tb_events" / "site-1").iterdir())
    assert findings(tmp_path / "w") == []
    assert not any(word.lower() in (result.stdout + result.stderr).lower() for word in PLANTED)


def test_a_site_that_fails_names_the_volume_by_its_pseudonym_and_no_path(root, tiny_job, tmp_path):
    volume = next((root / "site-1" / "volumes").iterdir())
    content = volume.read_bytes()
    volume.write_bytes(content[:2000])
    try:
        simulate(tiny_job, tmp_path / "w", root, sites=2, threads=2)
    finally:
        volume.write_bytes(content)
    log = (tmp_path / "w" / "site-1" / "log.txt").read_text()
    assert f"site-1 cannot take part: volumes/{volume.name} is truncated" in log
    assert findings(tmp_path / "w") == []
    with pytest.raises(RunError):
        Run(tmp_path / "w").figures()
