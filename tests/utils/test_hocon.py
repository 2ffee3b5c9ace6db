"""Configs are read as they are now, and what a caller changes is its own."""

import re
from pathlib import Path

import pytest
from pyhocon import ConfigFactory

from fedmr.federation.render import SERVER_CONFIG
from fedmr.utils.environment import ROOT
from fedmr.utils.hocon import UnsafeConfigError, reaches_out, read_hocon

CONFIG = ROOT / "jobs" / "unet_flmrcm" / SERVER_CONFIG


def test_a_config_is_what_pyhocon_reads():
    assert read_hocon(CONFIG) == ConfigFactory.parse_file(CONFIG)


def test_a_change_of_what_was_read_is_not_seen_by_the_next_reader():
    read_hocon(CONFIG)["workflows"][0]["args"]["num_rounds"] = -1
    assert read_hocon(CONFIG) == ConfigFactory.parse_file(CONFIG)


def test_a_changed_file_is_read_anew(tmp_path: Path):
    for rounds in (3, 4):
        (tmp_path / "c.conf").write_text(f"num_rounds = {rounds}")
        assert read_hocon(tmp_path / "c.conf")["num_rounds"] == rounds


@pytest.mark.parametrize(
    "text",
    [
        'include url("http://127.0.0.1:9/x.conf")',
        'include file("/etc/hostname")',
        'include required(file("other.conf"))',
        'include package("fedmr:x.conf")',
        'a { INCLUDE "other.conf" }',
        "a = ${SECRET}",
        "a = ${?SECRET}",
        'a = x ["b", ${SECRET}]',
        "a += ${SECRET}",
    ],
)
def test_a_config_that_reaches_out_of_its_file_is_refused_unread(text, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("a request was sent"))
    path = tmp_path / "c.conf"
    path.write_text(text)
    with pytest.raises(UnsafeConfigError, match=r"c\.conf"):
        read_hocon(path)


def test_every_rendered_job_is_self_contained():
    for path in (ROOT / "jobs").rglob("*.conf"):
        assert reaches_out(path.read_text()) == "", path


# who parses HOCON without `read_hocon`, and whose it is
OWN = {
    "federation/render.py": "sources of jobs, which include each other",
    "study/grid.py": "the same, as a study's base",
    "tasks/overrides.py": "a value that the user has typed",
    "utils/hocon.py": "itself",
}


def test_whoever_reads_another_ones_config_reads_it_by_the_safe_reader():
    package = ROOT / "custom" / "fedmr"
    parsers = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"ConfigFactory|ConfigParser|import pyhocon", file.read_text())
    }
    assert parsers == set(OWN)
