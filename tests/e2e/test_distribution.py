"""What leaves the repository as a package: a wheel and a source archive that bring jobs, configs, weights and pages."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from simulator import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.release]
# setuptools changes the arguments of the process
BUILD = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_sdist(to); b.build_wheel(to)"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with both, made of a copy, for setuptools leaves its build folder in the sources."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "source"], check=True)
    (folder / "dist").mkdir()
    command = [sys.executable, "-c", BUILD, folder / "dist"]
    subprocess.run(command, cwd=folder / "source", check=True, capture_output=True)
    return folder / "dist"


def test_the_wheel_holds_jobs_configs_weights_and_the_pages_parts(built):
    (wheel,) = built.glob("fedmr-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "custom" / "fedmr"
    wanted = [
        *(ROOT / "jobs").rglob("*.conf"),
        *(ROOT / "app_configs").rglob("*.conf"),
        *(package / "weights").glob("*.pt"),
        *(package / "reports" / "html").glob("*.[hcj]*"),
    ]
    places = {path.relative_to(package if path.is_relative_to(package) else ROOT) for path in wanted}
    assert len(places) > 90
    assert {f"fedmr/{place}" for place in places} <= names


def test_the_source_archive_can_be_built_again(built, tmp_path):
    (archive,) = built.glob("fedmr-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (tmp_path / "dist").mkdir()
    build = BUILD.replace("b.build_sdist(to); ", "")
    subprocess.run([sys.executable, "-c", build, tmp_path / "dist"], cwd=source, check=True, capture_output=True)
    (ours,), (again,) = built.glob("*.whl"), (tmp_path / "dist").glob("*.whl")
    assert set(zipfile.ZipFile(ours).namelist()) == set(zipfile.ZipFile(again).namelist())


def test_the_wheel_installs_into_an_empty_environment_and_works_in_an_empty_folder(built, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    (packages,) = (tmp_path / "env" / "lib").glob("*/site-packages")
    # what FedMR needs comes from this environment; a line in a .pth file reads no .pth files of its own
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "here").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def fedmr(*words: str) -> str:
        command = [tmp_path / "env" / "bin" / "fedmr", *words]
        done = subprocess.run(
            command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import fedmr; print(fedmr.__file__)"
    where = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(packages))
    assert "mscan" in fedmr("card", "mscan-x2").lower()
    assert fedmr("jobs", "bundle", "mscan_fedavg", "--out", "bundles").startswith("wrote")
    assert (tmp_path / "here" / "bundles" / "mscan_fedavg" / "meta.conf").is_file()
