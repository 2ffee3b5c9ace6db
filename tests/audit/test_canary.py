"""Canaries against DP-SGD's own code: the bound by experiment and the stated epsilon."""

import numpy as np
import pytest

from fedmr.audit.canary import Setting, epsilon_at_least, scores
from fedmr.privacy.accountant import sampled_epsilon

DELTA = 1e-3


def bound(setting, trainings=2000, seed=0):
    rng = np.random.default_rng(seed)
    present, absent = (scores(setting, trainings, present=there, rng=rng) for there in (True, False))
    return epsilon_at_least(present, absent, DELTA)


@pytest.mark.parametrize("noise", [0.7, 1.0, 2.0])
def test_what_an_attack_shows_lies_below_the_stated_epsilon_and_is_not_nothing(noise):
    setting = Setting(noise_multiplier=noise, rate=1.0, steps=3)
    stated = sampled_epsilon([(noise, 1.0, 3)], DELTA)
    assert 0.1 * stated < bound(setting) < stated


def test_a_mechanism_that_adds_less_noise_than_it_states_is_caught():
    """A third of the noise, e.g. by an error in the deviation."""
    assert bound(Setting(noise_multiplier=0.5, rate=1.0, steps=2)) > sampled_epsilon([(1.5, 1.0, 2)], DELTA)


def test_an_attack_that_tells_nothing_bounds_nothing():
    rng = np.random.default_rng(0)
    assert epsilon_at_least(rng.normal(size=1000), rng.normal(size=1000), DELTA) < 0.2


def test_a_certain_attack_bounds_by_what_the_number_of_trainings_can_show():
    high, low = np.full(2000, 1e9), np.zeros(2000)
    assert 5 < epsilon_at_least(high, low, DELTA) < 7
