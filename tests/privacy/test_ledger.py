"""The ledger: what every kind of release is charged, logged and streamed."""

import json

import pytest

from fedmr.privacy.accountant import BUDGET_FILE, Budget, BudgetError, gaussian_epsilon, sampled_epsilon
from fedmr.privacy.ledger import LOCAL_RECORD, Charge, Ledger

LIMITS = {"delta": 1e-5, "max_epsilon": 100.0}
STEPS = (2.0, 0.25, 4)
CHARGES = {
    "Gaussian": (
        Charge(noise_multiplier=5.0, **LIMITS),
        gaussian_epsilon({5.0: 1}, 1e-5),
        "privacy/epsilon",
        "of 100, release 1",
    ),
    "pure": (Charge(pure=1.5, **LIMITS), 1.5, "privacy/epsilon", "of 100, release 1"),
    "DP-SGD": (
        Charge(steps=STEPS, unit="patient", **LIMITS),
        sampled_epsilon([STEPS], 1e-5),
        "privacy/epsilon_patient",
        "of 100 per patient, release 1",
    ),
}


@pytest.fixture
def lines():
    return []


@pytest.fixture
def points():
    return []


@pytest.fixture
def ledger(tmp_path, lines, points):
    local, run = tmp_path / "local", tmp_path / "run"
    local.mkdir()
    run.mkdir()
    return Ledger(local, run, lines.append, lambda *point: points.append(point))


@pytest.mark.parametrize(("charge", "epsilon", "tag", "text"), CHARGES.values(), ids=CHARGES)
def test_every_release_is_entered_logged_and_streamed_once(ledger, lines, points, charge, epsilon, tag, text):
    assert ledger.charge(charge) == {"epsilon": pytest.approx(epsilon), "release": 1}
    assert Budget(ledger.site_folder / BUDGET_FILE).read().releases == 1
    assert points == [(tag, pytest.approx(epsilon), 1)]
    assert lines == [f"privacy: epsilon {epsilon:.5g} {text}"]


@pytest.mark.parametrize("charge", [one[0] for one in CHARGES.values()], ids=CHARGES)
def test_what_exceeds_the_budget_leaves_no_trace(ledger, lines, points, charge):
    poor = Charge(**vars(charge) | {"max_epsilon": 1e-3})
    with pytest.raises(BudgetError, match="the privacy budget is spent"):
        ledger.charge(poor)
    assert Budget(ledger.site_folder / BUDGET_FILE).read().releases == 0
    assert not lines
    assert not points


def test_the_local_record_is_neither_logged_nor_streamed(ledger, lines, points):
    ledger.record("A", {"cosine": 0.5})
    ledger.record("B", {"cosine": 0.25})
    rows = [json.loads(line) for line in (ledger.run_folder / LOCAL_RECORD).read_text().splitlines()]
    assert rows == [{"filter": "A", "cosine": 0.5}, {"filter": "B", "cosine": 0.25}]
    assert not lines
    assert not points
