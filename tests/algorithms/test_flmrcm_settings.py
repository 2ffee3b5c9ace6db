"""The numbers of FL-MRCM: what is refused, and whose turn it is."""

import pytest

from fedmr.algorithms.flmrcm import Mrcm
from fedmr.tasks.registry import build_task

SETTINGS = {"target_sites": ["site-4"]}


def test_targets_take_turns_round_by_round():
    settings = Mrcm(target_sites=["a", "b", "c"])
    assert [settings.target_of(number) for number in range(5)] == ["a", "b", "c", "a", "b"]


@pytest.mark.parametrize(("train_target", "outside"), [(True, ()), (False, ("a", "b"))])
def test_targets_that_do_not_train_are_outside(train_target, outside):
    assert Mrcm(target_sites=["a", "b"], train_target=train_target).outside == outside


def test_a_task_holds_them_and_gives_them_back():
    network = {"name": "unet"}
    task = build_task({"network": network, "mask": {}, "algorithm": {"name": "flmrcm", **SETTINGS, "vectors": 8}})
    assert Mrcm.from_dict(task.algorithm) == Mrcm(target_sites=["site-4"], vectors=8)
    assert build_task(task.to_dict()) == task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_sites": []}, r"target_sites is \[\]; it must be a list of sites"),
        ({"target_sites": "site-4"}, "target_sites is 'site-4'; it must be a list"),
        ({"target_sites": [4]}, "it must be a list of sites"),
        ({"target_sites": ["a", "a"]}, "each once"),
        ({"train_target": "no"}, "train_target is 'no'; it must be true or false"),
        ({"weight": -0.1}, "weight is -0.1; it must be a number of at least 0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"vectors": 0}, "vectors is 0"),
        ({"vectors": 2.5}, "vectors is 2.5; it must be a whole number"),
        ({"delta": 0.5}, "delta is 0.5"),
        ({"noise_multiplier": 1.0}, "clip is 0.0; it must be a number above 0"),
        ({"noise_multiplier": 1.0, "clip": 1.0}, "max_epsilon is 0.0"),
        ({"lambda": 1.0}, "lambda is unknown; known are target_sites, train_target, weight"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Mrcm.from_dict(SETTINGS | change)


def test_a_target_must_be_named():
    with pytest.raises(ValueError, match="target_sites is missing; it must be a list of sites, each once"):
        Mrcm.from_dict({"name": "flmrcm"})
