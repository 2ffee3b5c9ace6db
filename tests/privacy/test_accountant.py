import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from opacus.accountants import RDPAccountant
from scipy.special import log_ndtr

from fedmr.privacy.accountant import BUDGET_FILE, Budget, BudgetError, Spent, gaussian_epsilon, sampled_epsilon

DELTA = 1e-5


@pytest.fixture
def budget(tmp_path) -> Budget:
    return Budget(tmp_path / BUDGET_FILE)


def exact_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang, ICML 2018, theorem 8, with mu = sensitivity / deviation."""
    return math.exp(log_ndtr(mu / 2 - epsilon / mu)) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))


@pytest.mark.parametrize("multiplier", [0.01, 0.1, 1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("count", [1, 10, 100])
def test_epsilon_is_above_the_exact_one_of_the_gaussian_mechanism_and_close_to_it(multiplier, count):
    epsilon = gaussian_epsilon({multiplier: count}, DELTA)
    mu = 2 * math.sqrt(count) / multiplier  # replacing a site's data moves the clipped update by up to 2 C
    assert exact_delta(epsilon, mu) <= DELTA < exact_delta(0.9 * epsilon, mu)


@pytest.mark.parametrize(("multiplier", "exact"), [(2.0, 4.3772), (4.0, 1.9931)])
def test_one_release_against_figures_of_the_analytic_gaussian_mechanism(multiplier, exact):
    assert exact_delta(exact, 2 / multiplier) == pytest.approx(DELTA, rel=1e-3)
    assert exact <= gaussian_epsilon({multiplier: 1}, DELTA) <= 1.1 * exact


@pytest.mark.parametrize("multipliers", [[2.0], [4.0] * 25, [2.0, 3.0, 2.0, 8.0]])
def test_epsilon_is_the_accountants_own(multipliers):
    accountant = RDPAccountant()
    for multiplier in multipliers:
        accountant.step(noise_multiplier=multiplier / 2, sample_rate=1.0)
    counts = {m: multipliers.count(m) for m in multipliers}
    assert gaussian_epsilon(counts, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=2e-3)


def test_releases_with_different_noise_compose_like_one_with_the_same_information():
    together = 1 / math.sqrt(1 / 3**2 + 1 / 4**2)
    assert gaussian_epsilon({3.0: 1, 4.0: 1}, DELTA) == pytest.approx(gaussian_epsilon({together: 1}, DELTA))


def test_without_releases_nothing_is_spent(budget):
    assert gaussian_epsilon({}, DELTA) == 0
    assert budget.read().epsilon(DELTA) == 0


def test_the_account_outlives_the_process_and_sums_over_jobs(budget, tmp_path):
    first = budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=100)
    second = Budget(tmp_path / BUDGET_FILE).spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=100)
    third = Budget(tmp_path / BUDGET_FILE).spend(noise_multiplier=5.0, delta=DELTA, max_epsilon=100)
    fourth = Budget(tmp_path / BUDGET_FILE).spend(pure=1.5, delta=DELTA, max_epsilon=100)
    assert [number for _, number in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert second[0] == gaussian_epsilon({2.0: 2}, DELTA)
    assert fourth[0] == pytest.approx(gaussian_epsilon({2.0: 2, 5.0: 1}, DELTA) + 1.5) == third[0] + 1.5


def test_a_spent_budget_stops_and_is_not_charged(budget, tmp_path):
    limit = gaussian_epsilon({2.0: 2}, DELTA)
    for _ in range(2):
        budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=limit)
    before = (tmp_path / BUDGET_FILE).read_text()
    for _ in range(2):
        with pytest.raises(BudgetError, match=r"budget is spent.*number 3.*max_epsilon is 7\."):
            budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=limit)
    assert (tmp_path / BUDGET_FILE).read_text() == before
    assert budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=2 * limit)[1] == 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"gaussian": {"2.0": 1}, "pure": 0}',
        '{"gaussian": {"2.0": 0}, "pure": 0, "releases": 1}',
        '{"gaussian": {"2.0": 3}, "pure": 0, "releases": 1}',
        '{"gaussian": {"-2.0": 1}, "pure": 0, "releases": 1}',
        '{"gaussian": {"nan": 1}, "pure": 0, "releases": 1}',
        '{"gaussian": {}, "pure": -1, "releases": 1}',
        '{"gaussian": {}, "pure": NaN, "releases": 1}',
    ],
)
def test_a_damaged_account_stops_the_site_and_is_kept(budget, tmp_path, content):
    (tmp_path / BUDGET_FILE).write_text(content)
    with pytest.raises(BudgetError, match="Nothing is sent"):
        budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=1e9)
    assert (tmp_path / BUDGET_FILE).read_text() == content


def test_an_account_that_cannot_be_read_or_written_stops_the_site_and_says_no_path(tmp_path):
    (tmp_path / "as-folder" / BUDGET_FILE).mkdir(parents=True)
    for folder in ("as-folder", "missing"):
        with pytest.raises(BudgetError) as caught:
            Budget(tmp_path / folder / BUDGET_FILE).spend(pure=1.0, delta=DELTA, max_epsilon=10)
        assert str(tmp_path) not in str(caught.value)
        assert f"{folder}/{BUDGET_FILE}" in str(caught.value)


def test_the_file_tells_people_what_was_spent(budget, tmp_path):
    epsilon, _ = budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=10)
    content = json.loads((tmp_path / BUDGET_FILE).read_text())
    assert content["gaussian"] == {"2.0": 1}
    assert f"{epsilon:.6g} at delta 1e-05" in content["for people"]


def test_jobs_at_the_same_time_lose_no_release(tmp_path):
    def spend(_: int) -> None:
        Budget(tmp_path / BUDGET_FILE).spend(pure=1.0, delta=DELTA, max_epsilon=1e9)

    with ThreadPoolExecutor(8) as jobs:
        list(jobs.map(spend, range(100)))
    assert Budget(tmp_path / BUDGET_FILE).read() == Spent({}, pure=100, releases=100)


STEPS = (1.5, 0.2, 20)


@pytest.mark.e2e
def test_a_round_of_dp_sgd_costs_what_opacus_says_for_its_steps(budget, tmp_path):
    accountant = RDPAccountant()
    for number in (1, 2, 3):
        for _ in range(STEPS[2]):
            accountant.step(noise_multiplier=STEPS[0], sample_rate=STEPS[1])
        account = Budget(tmp_path / BUDGET_FILE)  # as another job would open it
        found = account.spend_steps(STEPS, unit="patient", delta=DELTA, max_epsilon=100)
        assert found == (pytest.approx(accountant.get_epsilon(DELTA), rel=1e-9), number)
    assert budget.read().steps == ((1.5, 0.2, 60),)
    other = (*STEPS[:1], 0.3, STEPS[2])
    assert budget.spend_steps(other, unit="patient", delta=DELTA, max_epsilon=100)[0] > accountant.get_epsilon(DELTA)
    assert budget.read().steps == ((1.5, 0.2, 60), other)


def test_a_site_a_slice_and_a_patient_have_no_epsilon_in_common(budget):
    site, _ = budget.spend(noise_multiplier=2.0, delta=DELTA, max_epsilon=100)
    one, _ = budget.spend_steps(STEPS, unit="slice", delta=DELTA, max_epsilon=100)
    again, number = budget.spend(pure=0.5, delta=DELTA, max_epsilon=100)
    assert (again, number) == (pytest.approx(site + 0.5), 3)
    assert budget.read().epsilon(DELTA, "slice") == one
    with pytest.raises(BudgetError, match="holds DP-SGD that protects every slice; what it cost a patient is unknown"):
        budget.spend_steps(STEPS, unit="patient", delta=DELTA, max_epsilon=100)
    assert budget.read().releases == 3


def test_a_round_of_dp_sgd_beyond_the_budget_is_not_entered(budget, tmp_path):
    limit = sampled_epsilon([STEPS, STEPS], DELTA)
    for _ in range(2):
        budget.spend_steps(STEPS, unit="slice", delta=DELTA, max_epsilon=limit)
    before = (tmp_path / BUDGET_FILE).read_text()
    with pytest.raises(BudgetError, match="number 3, epsilon per slice would be"):
        budget.spend_steps(STEPS, unit="slice", delta=DELTA, max_epsilon=limit)
    assert (tmp_path / BUDGET_FILE).read_text() == before
    assert f"epsilon {limit:.6g} of DP-SGD alone, per slice" in json.loads(before)["for people"]


@pytest.mark.parametrize("steps", [[[0, 0.1, 5]], [[1.0, 1.5, 5]], [[1.0, 0.1, -5]], [[1.0, 0.1]], "none", None])
def test_an_account_whose_steps_make_no_sense_lets_nothing_leave(steps, budget, tmp_path):
    content = {"gaussian": {}, "pure": 0.0, "releases": 1, "dp_sgd": {"unit": "slice", "steps": steps}}
    (tmp_path / BUDGET_FILE).write_text(json.dumps(content))
    with pytest.raises(BudgetError):
        budget.spend_steps(STEPS, unit="slice", delta=DELTA, max_epsilon=100)
