"""Nothing that a stranger writes becomes a line of its own or a command to a terminal."""

import time

import numpy as np
import pytest

from fedmr.utils.text import larger_than, one_line, without_names

HOSTILE = [
    "x\n2026-01-01 00:00:00,000 - ScatterAndGather - INFO - Round 99 finished.",
    "a\rb",
    "\x1b]0;owned\x07\x1b[2J\x1b[31mALL SITES VERIFIED OK",
    "\x9b31m",
    "a\u2028b\u2029c\x0bd\x0ce\x85f",
    "\u202egnp.exe",
    "\x00",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_control_or_format_character_is_left(text):
    clean = one_line(text)
    assert clean.isprintable()
    assert len(clean.splitlines()) == 1


def test_ordinary_text_of_any_language_is_left_as_it_is():
    for text in ("its norm 3.2 is beyond the 0.5 that 36 steps can do", "Röntgen 日本 é", ""):
        assert one_line(text) == text


def test_long_text_is_cut_and_says_so():
    assert one_line("a" * 1000, 10) == "a" * 10 + "..."
    assert len(one_line("\x1b" * 1000, 10)) == 13


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("/data/hospital/site-1/sub-2/anat/x.nii.gz does not exist", "(file) does not exist"),
        ("MUELLER_ANNA.dcm cannot be read (end of file)", "(file) cannot be read (end of file)"),
        ("'C:\\\\scans\\\\a.nii' is no image", "'(file)' is no image"),
        ("the training loss became nan within 3.5 steps", "the training loss became nan within 3.5 steps"),
        ("patient 'DOE^JANE' has a mask", "patient '(name)' has a mask"),
        ("line\nbreak", "line\\nbreak"),
    ],
)
def test_no_name_of_a_file_or_patient_leaves_with_a_reason(text, cleaned):
    assert without_names(text, ["DOE^JANE", ""]) == cleaned


NESTED: list = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    "value",
    [
        "a" * 1001,
        b"a" * 1001,
        {"a" * 1001: 1},
        [1] * 200,
        [["a" * 300]] * 4,
        np.zeros(200),
        NESTED,
        {1: {2: {3: "a" * 999}}},
    ],
)
def test_a_value_larger_than_the_limit_is_found_however_it_is_wrapped(value):
    assert larger_than(value, 1000)


def test_a_value_within_the_limit_is_let_through_and_a_huge_one_is_not_walked():
    assert not larger_than({"psnr": 30.0, "names": ["a", "b"]}, 1000)
    started = time.perf_counter()
    assert larger_than([None] * 10_000_000, 1000)
    assert time.perf_counter() - started < 5
