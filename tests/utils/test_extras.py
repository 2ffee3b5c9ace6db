"""What a site without the extras is told, and that pins, extras and lock name the same packages."""

import re
import sys
import tomllib

import pytest

import he_context
from fedmr.privacy.accountant import gaussian_epsilon
from fedmr.privacy.bfv import check_secret
from fedmr.utils.extras import MissingExtraError
from simulator import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if re.match(r"[\w-]+==", line)
)


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("opacus.accountants", "dp", lambda: gaussian_epsilon({1.0: 1}, 1e-5)),
        ("tenseal", "he", lambda: check_secret(he_context.client())),
    ],
)
def test_a_missing_package_is_named_with_the_extra_to_install(monkeypatch, module, extra, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"fedmr\[{extra}\]"):
        call()


def test_every_package_that_the_project_names_has_its_exact_version():
    named = [*PROJECT["dependencies"], *(name for names in PROJECT["optional-dependencies"].values() for name in names)]
    assert {plain(name) for name in named} <= {plain(name) for name in PINS}
    assert set(PROJECT["optional-dependencies"]) == {"he", "dp", "export", "dev"}


def test_the_lock_holds_every_pin_with_a_hash():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        locked = re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
        assert locked, line
        found[plain(locked[1])] = locked[2]
    assert found.items() >= {plain(name): version for name, version in PINS.items()}.items()
