import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmr.physics.masks import KINDS, Mask, make_mask, seed_of

RULES = [(kind, acceleration, fraction) for kind in KINDS for acceleration, fraction in ((4, 0.08), (8, 0.04))]


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("kind", "acceleration", "fraction"), RULES)
@pytest.mark.parametrize("width", [200, 233, 372])
def test_masks_accelerate_as_stated_on_average(kind, acceleration, fraction, width):
    mask = Mask(kind, acceleration, fraction)
    numbers = [int(mask.columns(width, generator(seed)).sum()) for seed in range(400)]
    assert np.mean(numbers) == pytest.approx(width / acceleration, rel=0.04)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rule=st.sampled_from([(4, 0.08), (8, 0.04), (2, 0.3)]),
    width=st.integers(16, 400),
    seed=st.integers(0, 2**40),
)
def test_the_centre_is_always_measured_and_one_seed_gives_one_mask(kind, rule, width, seed):
    mask = Mask(kind, *rule)
    columns = mask.columns(width, generator(seed))
    center = mask.center(width)
    assert columns.shape == (width,)
    assert columns.dtype == torch.bool
    assert columns[center].all()
    assert center.start <= width // 2 < center.stop, "DC is in the centre"
    assert center.stop - center.start == max(round(width * rule[1]), 1)
    assert torch.equal(columns, mask.columns(width, generator(seed)))


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_give_other_masks_and_leave_the_global_state_alone(kind):
    state = torch.get_rng_state()
    drawn = {tuple(Mask(kind).columns(200, generator(seed)).tolist()) for seed in range(50)}
    assert len(drawn) >= 4
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("width", [200, 233, 372])
@pytest.mark.parametrize(("acceleration", "fraction"), [(4, 0.08), (8, 0.04)])
def test_the_rules_are_monais(width, acceleration, fraction):
    from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask, RandomKspaceMask

    def theirs(masker, seed):
        masker.set_random_state(seed)
        masker(np.zeros((1, 1, width, 2), np.float32))
        return tuple(masker.mask.flatten().bool().tolist())

    arguments = {"center_fractions": [fraction], "accelerations": [acceleration]}
    equispaced = EquispacedKspaceMask(**arguments)
    ours = {tuple(Mask("equispaced", acceleration, fraction).columns(width, generator(s)).tolist()) for s in range(80)}
    assert ours == {theirs(equispaced, seed) for seed in range(80)}, "one mask for every possible first column"
    random = RandomKspaceMask(**arguments)
    shares = [
        np.mean([Mask("random", acceleration, fraction).columns(width, generator(s)).numpy() for s in range(300)], 0),
        np.mean([theirs(random, seed) for seed in range(300)], 0),
    ]
    assert np.array_equal(shares[0] == 1, shares[1] == 1), "the same centre"
    assert shares[0].mean() == pytest.approx(shares[1].mean(), rel=0.05)


def test_a_name_gives_the_same_seed_on_every_machine():
    assert seed_of("volumes/a.nii") == 48813563295966800
    assert seed_of("volumes/a.nii") != seed_of("volumes/b.nii")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "radial"}, "kind is 'radial'; it must be random or equispaced"),
        ({"acceleration": 1}, "acceleration is 1"),
        ({"acceleration": 8, "center_fraction": 0.2}, r"0\.2 times acceleration 8"),
        ({"acceleration": True}, "acceleration is True; it must be a number above 1"),
        ({"center_fraction": float("nan")}, "center_fraction is nan; it must be a number above 0"),
        ({"centre": 0.08}, "centre is unknown; known are kind, acceleration, center_fraction"),
    ],
)
def test_a_bad_mask_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        make_mask(values)
