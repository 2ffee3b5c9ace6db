import stat

import pytest

from fedmr.hospital.pseudonyms import PrivateFolder
from fedmr.utils.errors import DataError


def test_a_pseudonym_is_the_same_for_the_same_key_only(tmp_path):
    one, other = PrivateFolder(tmp_path / "one"), PrivateFolder(tmp_path / "other")
    name = one.pseudonym("patient", "Müller^Anna")
    assert name == PrivateFolder(tmp_path / "one").pseudonym("patient", "Müller^Anna")
    assert name != other.pseudonym("patient", "Müller^Anna")
    assert name != one.pseudonym("scan", "Müller^Anna")
    assert len({one.pseudonym("patient", str(n)) for n in range(1000)}) == 1000


def test_only_the_owner_can_read_it(tmp_path):
    (tmp_path / "p").mkdir(mode=0o755)
    PrivateFolder(tmp_path / "p")
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "p" / "key").stat().st_mode) == 0o600


def test_a_line_that_was_cut_off_is_dropped_and_a_damaged_one_refused(tmp_path):
    folder = PrivateFolder(tmp_path)
    for name in ("a", "b"):
        folder.append({"volume": name})
    journal = tmp_path / "sources.jsonl"
    journal.write_text(journal.read_text()[:-5])
    assert set(folder.read()) == {"a"}
    journal.write_text("{\n" + '{"volume": "b"}\n')
    with pytest.raises(DataError, match="line 1 is damaged"):
        folder.read()


def test_the_source_is_noted_once(tmp_path):
    assert PrivateFolder(tmp_path).claim("/a") == "/a"
    assert PrivateFolder(tmp_path).claim("/b") == "/a"
