"""Configs are read as they are now, and what a caller changes is its own."""

from pathlib import Path

from pyhocon import ConfigFactory

from fedmr.federation.render import SERVER_CONFIG
from fedmr.utils.environment import ROOT
from fedmr.utils.hocon import read_hocon

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
