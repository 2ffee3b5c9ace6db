"""A job can tighten what a site's owner allows, and never loosen it."""

import json

import pytest

from fedmr.privacy.accountant import BUDGET_FILE, Budget, BudgetError, gaussian_epsilon
from fedmr.privacy.policy import POLICY_FILE, SUGGESTED, Policy, PolicyError, read_policy, write_policy


def test_what_is_written_is_read_and_stays_its_owners(tmp_path):
    assert write_policy(tmp_path) is True
    assert read_policy(tmp_path) == SUGGESTED
    assert write_policy(tmp_path, Policy()) is False
    assert read_policy(tmp_path) == SUGGESTED


def test_without_a_file_nothing_is_limited(tmp_path):
    assert read_policy(tmp_path).tighten("site", 0.05, 1e12) == (0.05, 1e12)


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[]",
        '"x"',
        '{"delta": 0}',
        '{"delta": 1}',
        '{"epsilon": 3}',
        '{"max_epsilon": {"site": -1}}',
        '{"max_epsilon": {"voxel": 1}}',
        '{"max_epsilon": 3}',
        '{"min_patients": 2.5}',
        '{"min_volumes": true}',
        '{"encryption": "yes"}',
        '{"classes": [3]}',
    ],
)
def test_a_damaged_policy_lets_nothing_leave(content, tmp_path):
    (tmp_path / POLICY_FILE).write_text(content)
    with pytest.raises(PolicyError, match="Nothing is sent"):
        read_policy(tmp_path)
    with pytest.raises(BudgetError, match="Nothing is sent"):
        Budget(tmp_path / BUDGET_FILE).spend(noise_multiplier=10.0, delta=1e-5, max_epsilon=100)
    assert not (tmp_path / BUDGET_FILE).exists()


@pytest.fixture
def budget(tmp_path) -> Budget:
    policy = {"delta": 1e-5, "max_epsilon": {"site": 13.0, "patient": 2.0}}
    (tmp_path / POLICY_FILE).write_text(json.dumps(policy))
    return Budget(tmp_path / BUDGET_FILE)


@pytest.mark.parametrize("job", [{"delta": 0.09, "max_epsilon": 13}, {"delta": 1e-5, "max_epsilon": 1e12}])
def test_no_job_raises_the_sites_ceiling(budget, job):
    assert gaussian_epsilon({1.0: 1}, 1e-5) < 13 < gaussian_epsilon({1.0: 2}, 1e-5)
    epsilon, number = budget.spend(noise_multiplier=1.0, **job)
    assert (epsilon, number) == (gaussian_epsilon({1.0: 1}, 1e-5), 1)
    with pytest.raises(BudgetError, match="13"):
        budget.spend(noise_multiplier=1.0, **job)
    with pytest.raises(BudgetError, match="13"):
        budget.spend(pure=14.0, **job)


def test_a_job_can_be_stricter_than_its_site(budget):
    with pytest.raises(BudgetError, match="max_epsilon is 5"):
        budget.spend(noise_multiplier=1.0, delta=1e-5, max_epsilon=5)
    stricter, _ = budget.spend(noise_multiplier=1.0, delta=8e-6, max_epsilon=1e3)
    assert stricter == gaussian_epsilon({1.0: 1}, 8e-6)


def test_every_unit_has_a_ceiling_of_its_own(budget):
    with pytest.raises(BudgetError, match="per patient"):
        budget.spend_steps((0.5, 0.5, 500), unit="patient", delta=0.09, max_epsilon=1e12)
    budget.spend_steps((0.5, 0.5, 500), unit="slice", delta=1e-5, max_epsilon=1e12)
