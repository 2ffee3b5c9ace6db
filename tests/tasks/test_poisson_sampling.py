import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from dp_settings_example import SETTINGS
from fedmr.tasks.patches import PatchSampler, Volume
from fedmr.tasks.poisson_sampling import UnitSampler
from fedmr.utils.errors import DataError

PATIENTS = {"a": 2, "b": 1, "c": 3}  # scans of each, of 5 slices


@pytest.fixture
def volumes():
    """Every slice has an intensity of its own, by which a patch is known: 100 * patient + slice."""
    made = []
    for number, (patient, scans) in enumerate(PATIENTS.items(), start=1):
        for scan in range(scans):
            values = 100.0 * number + 5 * scan + torch.arange(5.0)
            hr, lr = (values[:, None, None].expand(5, side, side) for side in (40, 20))
            made.append(Volume(f"{patient}{scan}", patient, "T1w", "train", hr.clone(), lr.clone(), 1.0))
    return made


@pytest.fixture
def sampler(volumes, task):
    def make(**changes):
        chosen = dataclasses.replace(task, patch_size=8, dp_sgd=SETTINGS | changes)
        found = chosen.sampler(volumes)
        assert isinstance(found, UnitSampler)
        return found

    return make


def origins(unit):
    """Whose patches a unit holds, as numbers of patient and slice; LR and HR are of the same slice."""
    low, high = unit
    values = low.mean(dim=(1, 2, 3)).round().int()
    assert torch.equal(values, high.mean(dim=(1, 2, 3)).round().int())
    return values.tolist()


@pytest.mark.parametrize(("unit", "count"), [("slice", 30), ("patient", 3)])
def test_a_unit_gives_its_patches_and_nobody_elses(unit, count, sampler):
    units = sampler(unit=unit, units_per_step=count, patches_per_unit=600).draw()  # all slices, but once in 10^16 runs
    assert len(units) == count, "a rate of 1 draws all"
    seen = [set(origins(one)) for one in units]
    assert all(one[0].shape == (600, 1, 8, 8) and one[1].shape == (600, 1, 16, 16) for one in units)
    if unit == "slice":
        assert [len(one) for one in seen] == [1] * 30
        assert len(set.union(*seen)) == 30
    else:
        assert [{value // 100 for value in one} for one in seen] == [{1}, {2}, {3}]
        assert [len(one) for one in seen] == [5 * scans for scans in PATIENTS.values()], "of all its slices"


def test_every_unit_is_drawn_by_itself_with_the_rate_the_accountant_is_told(sampler):
    """Numbers of draws per unit and of units per step are binomial; bounds are six deviations, once in 10^9 runs."""
    found, steps = sampler(units_per_step=6, patches_per_unit=1), 300
    drawn = [[origins(one)[0] for one in found.draw()] for _ in range(steps)]
    counts, rate = Counter(value for step in drawn for value in step), 6 / 30
    assert found.rate == rate
    deviation = (steps * rate * (1 - rate)) ** 0.5
    assert len(counts) == 30
    assert all(abs(n - steps * rate) < 6 * deviation for n in counts.values())
    sizes = np.array([len(step) for step in drawn])
    assert np.var(sizes) == pytest.approx(30 * rate * (1 - rate), rel=6 * (2 / steps) ** 0.5)
    assert all(len(set(step)) == len(step) for step in drawn)


def test_who_is_drawn_and_where_does_not_come_from_a_seed(sampler):
    found, steps = sampler(units_per_step=15), []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        state = torch.random.get_rng_state()
        steps.append([[origins(one) for one in found.draw()] for _ in range(4)])
        assert torch.equal(torch.random.get_rng_state(), state)
    assert steps[0] != steps[1]


def test_a_step_may_be_empty_and_an_epoch_draws_every_unit_about_once(sampler):
    found = sampler(units_per_step=0.01)
    assert found.steps_per_epoch == 3000
    assert any(found.draw() == [] for _ in range(20))
    assert sampler(units_per_step=4).steps_per_epoch == round(30 / 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units_per_step": 31}, "units_per_step is 31, and the site has 30 training slices; take fewer"),
        ({"unit": "patient"}, "units_per_step is 4, and the site has 3 training patients"),
        ({"delta": 1 / 30}, "delta is 0.0333333; it must be below 1 / 30 slices"),
    ],
)
def test_settings_that_the_site_is_too_small_for_are_refused(changes, message, sampler):
    with pytest.raises(ValueError, match=message):
        sampler(**changes)


def test_a_patient_without_anything_to_train_on_is_an_error(volumes, sampler):
    volumes[2].lr.zero_()
    with pytest.raises(DataError, match="no training patch"):
        sampler()


def test_ordinary_training_cannot_take_the_batches(sampler):
    with pytest.raises(TypeError, match="PrivateTrainer"):
        sampler().epoch(0)


def test_a_task_without_dp_sgd_has_the_ordinary_sampler(volumes, task):
    assert isinstance(dataclasses.replace(task, patch_size=8).sampler(volumes), PatchSampler)
