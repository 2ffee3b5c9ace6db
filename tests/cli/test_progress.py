"""Progress of long work: lines in a log, a bar on a terminal, also while files are looked for."""

from io import StringIO

from rich.console import Console

from dicom_files import Series, write_classic
from fedmr.cli.progress import shown
from fedmr.data.readers.folder import find_scans


def test_a_log_gets_a_line_every_ten_seconds():
    now = iter([0.0, 4.0, 11.0, 11.0, 15.0, 22.0, 22.0])
    console = Console(file=StringIO(), width=80)
    with shown(console, clock=lambda: next(now)) as tell:
        for done in range(4):
            tell("/a/folder/[scan]", 100 * done, 400)
    assert console.file.getvalue().splitlines() == ["[scan]: 100 of 400", "[scan]: 300 of 400"]


def test_a_terminal_gets_a_bar_that_goes_when_it_is_done():
    console = Console(file=StringIO(), width=80, force_terminal=True)
    with shown(console) as tell:
        tell("scan [1].nii", 3, 7)
    text = console.file.getvalue()
    assert "scan [1].nii" in text
    assert "3/7" in text


def test_looking_for_scans_tells_how_far_it_is(tmp_path):
    for number in range(30):
        write_classic(tmp_path / str(number), Series(shape=(16, 16, 2)))
    told = []
    find_scans(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(49, 60), (49, 60)]  # what kind of files they are, and their headers
