"""The likelihood-ratio attack on losses whose dependence on membership is known."""

import numpy as np
import pytest

from fedmr.audit.likelihood_ratio import LEAST_MODELS, likelihood_ratios, power_of

MODELS, EXAMPLES = 64, 24


def experiment(shift, seed=0):
    """Log losses that lie `shift` deviations lower for members, of examples of very different difficulty."""
    rng = np.random.default_rng(seed)
    members = rng.random((MODELS, EXAMPLES)) < 0.5
    difficulty = rng.normal(size=EXAMPLES) * 5
    logs = difficulty + rng.normal(size=(MODELS, EXAMPLES)) * 0.1 - 0.1 * shift * members
    return np.exp(logs), members


def test_members_that_models_remember_are_found_where_the_plain_loss_sees_only_difficulty():
    losses, members = experiment(shift=3)
    found = power_of(likelihood_ratios(losses, members), members)
    assert found.auc > 0.95
    assert found.at_low_rate > 0.5
    assert power_of(-losses, members).auc < 0.7


def test_without_a_trace_the_attack_guesses():
    found = [power_of(likelihood_ratios(*experiment(0, seed)), experiment(0, seed)[1]) for seed in range(8)]
    assert np.mean([power.auc for power in found]) == pytest.approx(0.5, abs=0.015)
    assert np.mean([power.at_low_rate for power in found]) < 0.03
    assert all(power.low < power.auc < power.high for power in found)
    assert found[0].trials == MODELS * EXAMPLES


def test_more_memory_is_found_more_often():
    areas = []
    for shift in (0, 1, 2, 4):
        losses, members = experiment(shift)
        areas.append(power_of(likelihood_ratios(losses, members), members).auc)
    assert areas == sorted(areas)


def test_too_few_models_and_examples_that_all_models_had_are_refused():
    losses, members = experiment(1)
    with pytest.raises(ValueError, match=f"with {LEAST_MODELS} models or more"):
        likelihood_ratios(losses[:-1], members[:-1])
    members[:, 3] = True
    with pytest.raises(ValueError, match="out of at least three"):
        likelihood_ratios(losses, members)


def test_losses_of_zero_are_no_error():
    losses, members = experiment(1)
    losses[:, 0] = 0
    assert np.isfinite(likelihood_ratios(losses, members)).all()
