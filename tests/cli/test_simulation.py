"""`fedmr simulate`: what cannot run. What can is in tests/e2e/test_simulate.py."""

import sys

import pytest

from fedmr.cli.main import main
from simulator import write_hospitals


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nope"], "nope is no job"),
        (["mscan_fedavg", "--sites", "9"], "has 4 sites, not 9"),
        (["mscan_fedavg", "--sites", "site-1,site-x"], "no site site-x"),
        (["mscan_fedavg_he"], "encrypts, for which provisioning makes the keys"),
        (["mscan_fedavg", "--set", "task.learning_rate"], "write NAME=VALUE"),
        (["mscan_fedavg", "--init-from", "nothing.pt"], "nothing.pt does not exist"),
    ],
)
def test_what_cannot_run_says_why_in_a_line(tmp_path, data, arguments, reason, monkeypatch, capsys):
    words = ["fedmr", "simulate", *arguments, "--data", str(data), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
