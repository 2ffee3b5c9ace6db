import dataclasses
import math

import pytest

from dp_settings_example import SETTINGS
from fedmr.tasks.dp_settings import DpSgd
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.registry import build_task

NETWORK = {"name": "mscan", "scale": 2}


def test_settings_survive_the_dictionary_of_their_task():
    task = build_task({"network": NETWORK, "dp_sgd": SETTINGS})
    assert build_task(task.to_dict()) == task
    assert dataclasses.asdict(DpSgd.from_dict(task.dp_sgd)) == SETTINGS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "volume"}, "unit is 'volume'; it must be slice or patient"),
        ({"units_per_step": 0}, "units_per_step is 0"),
        ({"patches_per_unit": 1.5}, "patches_per_unit is 1.5; it must be a whole number"),
        ({"patches_per_unit": 0}, "patches_per_unit is 0"),
        ({"max_grad_norm": math.inf}, "max_grad_norm is inf"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier is nan"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"max_epsilon": -1}, "max_epsilon is -1"),
        ({"sigma": 1}, "sigma is unknown; known are unit, units_per_step"),
    ],
)
def test_a_bad_number_is_named(changes, message):
    with pytest.raises(ValueError, match=f"task: dp_sgd {message}"):
        build_task({"network": NETWORK, "dp_sgd": SETTINGS | changes})


def test_no_number_has_a_default():
    for name in SETTINGS:
        with pytest.raises(ValueError, match=f"dp_sgd {name} is missing"):
            DpSgd.from_dict({key: value for key, value in SETTINGS.items() if key != name})


@pytest.mark.parametrize("algorithm", [{"name": "scaffold"}, {"name": "ditto", "strength": 1.0}, {"name": "local"}])
def test_an_algorithm_that_uses_the_data_in_another_way_is_refused(algorithm):
    with pytest.raises(ValueError, match=f"fedavg only, not {algorithm['name']}"):
        build_task({"network": NETWORK, "dp_sgd": SETTINGS, "algorithm": algorithm})


def test_a_kind_of_task_without_dp_sgd_says_so_and_does_not_ignore_it():
    assert "dp_sgd" not in {f.name for f in dataclasses.fields(ReconstructionTask)}
    with pytest.raises(ValueError, match="dp_sgd is unknown"):
        build_task({"network": {"name": "unet"}, "mask": {}, "dp_sgd": SETTINGS})
