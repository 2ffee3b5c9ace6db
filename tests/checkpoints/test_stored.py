"""Models that come with the package: found by name, never in the way of a user's own file, small."""

from pathlib import Path

import pytest

from fedmr.checkpoints import stored
from fedmr.checkpoints.model_file import load_model
from fedmr.checkpoints.stored import locate, shipped_models

LARGEST = 5 * 2**20  # bytes


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one model named mscan-x9."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mscan-x9.pt").write_bytes(b"weights")
    monkeypatch.setattr(stored, "WEIGHTS", tmp_path / "weights")
    return tmp_path


def test_a_model_is_found_by_its_name(package):
    assert locate(Path("mscan-x9")) == package / "weights" / "mscan-x9.pt"


def test_a_file_of_that_name_comes_first(package, monkeypatch):
    monkeypatch.chdir(package)
    Path("mscan-x9").write_bytes(b"own")
    assert locate(Path("mscan-x9")) == Path("mscan-x9")


@pytest.mark.parametrize("name", ["mscan-x8", "MSCAN-X9", "../weights/mscan-x9", "mscan-x9.pt"])
def test_another_name_is_refused_with_the_names_that_there_are(package, name):
    with pytest.raises(FileNotFoundError, match="mscan-x9; `fedmr models`"):
        locate(Path(name))


@pytest.mark.parametrize("name", shipped_models())
def test_every_model_of_the_package_loads_is_small_and_says_where_it_is_from(name):
    path = shipped_models()[name]
    card = load_model(Path(name)).card
    assert path.stat().st_size <= LARGEST
    assert card["training"]["federated"] is True
    assert card["metrics"]["model"]["psnr"] > card["metrics"]["zero_filled"]["psnr"]
    assert "CC-BY" in card["licence"]
