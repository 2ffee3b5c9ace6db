import pytest

from fedmr.federation.job_bundle import PACKAGE, bundle, read_name
from simulator import ROOT

JOB = ROOT / "jobs" / "mscan_fedavg"


def test_a_bundle_has_the_job_and_the_whole_package(tmp_path):
    made = bundle(JOB, tmp_path)
    code = made / "app" / "custom" / "fedmr"
    assert {p.relative_to(code) for p in code.rglob("*.py")} == {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py")}
    assert not list(code.rglob("*.pt")), "a job carries none of the package's models"
    assert not any(path.is_symlink() for path in code.rglob("*")), "links arrive empty in a job"
    assert not list(made.rglob("__pycache__"))
    for path in (JOB / "app" / "config").iterdir():
        assert (made / "app" / "config" / path.name).read_text() == path.read_text()


def test_a_bundle_without_code_has_no_custom_folder(tmp_path):
    assert not (bundle(JOB, tmp_path, code=False) / "app" / "custom").exists()


def test_a_bundle_is_replaced_only_by_force(tmp_path):
    (bundle(JOB, tmp_path) / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="mscan_fedavg"):
        bundle(JOB, tmp_path)
    assert not (bundle(JOB, tmp_path, force=True) / "mine.txt").exists()


def test_a_folder_that_is_no_job_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"meta\.conf is missing"):
        read_name(tmp_path)
