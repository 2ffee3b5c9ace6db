"""A folder that is replaced is the old one or the new one, whole, whatever fails."""

from pathlib import Path

import pytest

from fedmr.utils.files import replace_folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").write_text("old")
    return tmp_path / "bundle"


def fill(folder: Path, error: BaseException | None = None) -> None:
    with replace_folder(folder) as passing:
        (passing / "new").write_text("new")
        if error:
            raise error


def test_a_new_folder_and_its_parents_are_made(tmp_path):
    fill(tmp_path / "a" / "b")
    assert contents(tmp_path / "a" / "b") == {"new": "new"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_old_folder_is_replaced_whole(folder):
    fill(folder)
    assert contents(folder) == {"new": "new"}
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("bad header")])
def test_an_error_while_filling_leaves_the_old_folder(folder, error):
    with pytest.raises(type(error)):
        fill(folder, error)
    assert contents(folder) == {"old": "old"}
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("failing", [{1}, {2}])
def test_a_rename_that_fails_leaves_the_old_folder(folder, monkeypatch, failing):
    fail_renames(monkeypatch, failing)
    with pytest.raises(OSError, match="no rename"):
        fill(folder)
    assert contents(folder) == {"old": "old"}
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_an_old_folder_that_cannot_be_put_back_is_kept_and_named(folder, monkeypatch):
    fail_renames(monkeypatch, {2, 3})
    with pytest.raises(OSError, match="nor put back") as raised:
        fill(folder)
    (kept,) = folder.parent.iterdir()
    assert contents(kept) == {"old": "old"}
    assert str(raised.value).endswith(f"it is now {kept}")


def fail_renames(monkeypatch, failing: set[int]) -> None:
    """Let the renames of these numbers, from 1, fail."""
    done, rename = [0], Path.replace

    def replace(self: Path, target: Path) -> Path:
        done[0] += 1
        if done[0] in failing:
            raise OSError("no rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
