"""The security page names a test for everything that it says is stopped."""

import re

from simulator import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_defence_names_tests_that_are_there():
    rows = PAGE.partition("## What stops it")[2].partition("##")[0].splitlines()
    defences = [row for row in rows if row.startswith("| ") and not row.startswith("| attempt")]
    assert len(defences) > 10
    for row in defences:
        named = re.findall(r"`tests/((?:\w+/)*test_\w+\.py)`", row.rsplit(" | ", 1)[-1])
        assert named, row
        assert all((ROOT / "tests" / name).is_file() for name in named), row
