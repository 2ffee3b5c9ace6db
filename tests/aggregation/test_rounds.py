"""A round's updates beside each other: what honest sites keep, and what hostile ones cannot reach."""

import numpy as np
import pytest

from fedmr.aggregation.rounds import Bounds, Contribution, shares_of

SIZE = 4000
HONEST = 4
COMMON = np.random.default_rng(0).normal(size=SIZE)


def honest(number, agreement=0.3):
    """Updates whose cosines with each other are about `agreement`."""
    own = np.random.default_rng(number + 1).normal(size=SIZE)
    return np.sqrt(agreement) * COMMON + np.sqrt(1 - agreement) * own


def contribution(values, steps=40.0):
    return Contribution(steps, {"": {"w": np.asarray(values, np.float32)}})


def federation(**hostile):
    """Four honest sites and others."""
    sites = {f"site-{n}": contribution(honest(n), steps=30.0 + 5 * n) for n in range(HONEST)}
    return sites | hostile


def mean(contributions, shares):
    total = sum(share.weight for share in shares.counted.values())
    return (
        sum(
            share.weight * share.factors[""] * contributions[site].parts[""]["w"].astype(np.float64)
            for site, share in shares.counted.items()
        )
        / total
    )


def test_a_round_within_the_bounds_counts_as_it_is():
    """Also of sites that differ as the real scans' do: five times the steps, four times the norm, a cosine of 0.15."""
    sites = {
        "site-1": contribution(honest(1, 0.25) * 0.9, 40),
        "site-2": contribution(honest(2, 0.25), 44),
        "site-3": contribution(honest(3, 0.2) * 0.6, 24),
        "site-4": contribution(honest(4, 0.2) * 1.2, 57),
        "site-8": contribution(honest(8, 0.15) * 2.9, 125),
    }
    shares = shares_of(sites, Bounds())
    assert {s: share.weight for s, share in shares.counted.items()} == {s: c.steps for s, c in sites.items()}
    assert all(share.factors == {"": 1.0} for share in shares.counted.values())
    assert not shares.left_out
    assert not shares.tempered


@pytest.mark.parametrize("agreement", [0.0, 0.1, 0.15])
def test_sites_of_other_contrasts_are_not_left_out_late_in_a_training(agreement):
    """As on real scans: updates hardly agree any more, and an honest site's cosine with the others was -0.17."""
    apart = -0.17 * COMMON + honest(9, 0.0)
    sites = federation(**{f"more-{n}": contribution(honest(10 + n, agreement)) for n in range(3)}) | {
        "apart": contribution(apart)
    }
    sites |= {f"site-{n}": contribution(honest(n, agreement), 40) for n in range(HONEST)}
    shares = shares_of(sites, Bounds())
    assert not shares.left_out
    assert not shares.tempered


@pytest.mark.parametrize("sizes", [[8, 7, 4, 18, 56, 24, 2, 76], [13, 12, 12, 12, 71, 10, 12, 68]])
def test_the_sizes_of_the_real_sites_count_in_full(sizes):
    sites = {f"site-{n}": contribution(honest(n) * size**0.5, size) for n, size in enumerate(sizes)}
    assert [share.weight for share in shares_of(sites, Bounds()).counted.values()] == sizes


@pytest.mark.parametrize("times", [-0.5, -1, -6, -8, -9, -30, -1e6])
@pytest.mark.parametrize("steps", [1, 40, 2400])
def test_a_site_that_goes_against_the_others_is_left_out_by_name(times, steps):
    shares = shares_of(federation(hostile=contribution(COMMON * times, steps)), Bounds())
    assert set(shares.left_out) == {"hostile"}
    assert set(shares.counted) == {f"site-{n}" for n in range(HONEST)}


def test_two_of_three_sites_that_agree_outvote_the_third():
    sites = {"a": contribution(honest(1)), "b": contribution(honest(2)), "hostile": contribution(-COMMON * 5)}
    assert set(shares_of(sites, Bounds()).left_out) == {"hostile"}


def test_a_pair_that_goes_against_four_is_left_out():
    pair = {name: contribution(-COMMON, 60) for name in ("first", "second")}
    assert set(shares_of(federation(**pair), Bounds()).left_out) == {"first", "second"}


@pytest.mark.parametrize("scale", [0.0, 1, 5, 9, 300, 1e6])
@pytest.mark.parametrize("steps", [40, 2400])
def test_noise_of_any_size_and_weight_hardly_turns_the_mean(scale, steps):
    noise = np.random.default_rng(99).normal(size=SIZE) * scale
    sites = federation(hostile=contribution(noise, steps))
    without = mean(federation(), shares_of(federation(), Bounds()))
    found = mean(sites, shares_of(sites, Bounds()))
    cosine = found @ without / np.linalg.norm(found) / np.linalg.norm(without)
    assert cosine > 0.9
    assert 0.7 < np.linalg.norm(found) / np.linalg.norm(without) < 1.3


@pytest.mark.parametrize("steps", [240, 2400, 4000, 1e9])
def test_claimed_steps_buy_at_most_six_medians_of_weight(steps):
    shares = shares_of(federation(hostile=contribution(honest(7), steps)), Bounds())
    share = shares.counted.get("hostile")
    assert share is None or share.weight <= 6 * 40
    assert share is not None or "steps" in shares.left_out["hostile"]


@pytest.mark.parametrize("steps", [40, 400, 2400])
def test_claimed_steps_excuse_no_length(steps):
    """Three hundred times as far as the others, in their own direction, with sixty times the steps."""
    sites = federation(hostile=contribution(honest(7) * 300, steps))
    assert set(shares_of(sites, Bounds()).left_out) == {"hostile"}


def test_of_two_sites_nobody_can_tell_who_is_right():
    sites = {"a": contribution(COMMON, 1), "b": contribution(-COMMON * 100, 1000)}
    shares = shares_of(sites, Bounds())
    assert {s: share.weight for s, share in shares.counted.items()} == {"a": 1, "b": 1000}


def test_where_updates_do_not_agree_none_is_left_out_for_its_direction():
    """As under heavy noise for privacy."""
    sites = {f"site-{n}": contribution(np.random.default_rng(n).normal(size=SIZE)) for n in range(5)}
    assert not shares_of(sites, Bounds()).left_out


def test_counters_of_batch_normalisation_say_nothing_about_the_direction():
    counter = {"bn.num_batches_tracked": np.asarray(40)}
    sites = {s: Contribution(c.steps, {"": dict(c.parts[""]) | counter}) for s, c in federation().items()}
    hostile = {"hostile": Contribution(40, {"": {"w": -COMMON} | counter})}
    assert set(shares_of(sites | hostile, Bounds()).left_out) == {"hostile"}


def test_sites_without_variables_count_by_their_steps():
    shares = shares_of({f"site-{n}": Contribution(10 + n, {"": {}}) for n in range(4)}, Bounds())
    assert [share.weight for share in shares.counted.values()] == [10, 11, 12, 13]


def test_updates_of_other_shapes_are_an_error_that_names_the_variable():
    sites = federation(hostile=contribution(np.zeros(3)))
    with pytest.raises(ValueError, match="'w' could not be broadcast together"):
        shares_of(sites, Bounds())
