"""`fedmr doctor` and the checks before torch is loaded."""

import socket
import subprocess
import sys

import pytest

from fedmr.cli import doctor
from phantoms import write_site


def test_a_machine_with_sites_and_free_ports_is_well(tmp_path, monkeypatch):
    write_site(tmp_path, "site-1", seed=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(doctor, "PORTS", (port,))
    rows = doctor.findings(tmp_path)
    assert rows["data root"] == (True, f"{tmp_path}: site-1")
    assert rows[f"port {port}"] == (True, "free")
    assert all(rows[name][0] for name in ("Python", "fedmr", *doctor.PACKAGES, "GPU"))


def test_what_is_amiss_says_what_to_do(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", (port,))
        monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
        monkeypatch.setenv("PATH", str(tmp_path))
        rows = doctor.findings(tmp_path / "nowhere")
    assert rows[f"port {port}"] == (
        False,
        "taken; stop what uses it (`fedmr poc stop`), or name another in poc/project.yml",
    )
    assert rows["no-such-package"] == (False, "not installed; pip install no-such-package")
    assert not rows["nvflare command"][0]
    assert "demo-data" in rows["data root"][1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("infer", "missing.pt", "scan.nii", "out.nii"),
        ("infer", "HERE", "scan.nii", "out.nii"),
        ("export", "missing.pt", "--to", "onnx"),
        ("card", "missing.pt"),
        ("evaluate", "HERE", "nowhere"),
    ],
)
def test_a_wrong_path_is_named_before_torch_is_loaded(arguments, tmp_path):
    (tmp_path / "m.pt").touch()
    words = [str(tmp_path / "m.pt") if word == "HERE" else word for word in arguments]
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); sys.argv[1:] = WORDS\n"
        "from fedmr.cli.main import main; main()"
    ).replace("WORDS", repr(words))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "does not exist" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.splitlines()[-1] == "False"
