import pytest

from fedmr.tasks.registry import build_task
from fedmr.tasks.super_resolution import SuperResolutionTask

NETWORK = {"name": "mscan", "scale": 2, "grid": "pixel0"}


def test_a_task_survives_its_dictionary():
    task = SuperResolutionTask(network=NETWORK, loss={"l1": 1.0, "sgp": 0.1}, batch_size=3)
    assert build_task(task.to_dict()) == task
    assert (task.scale, task.grid) == ((2, 2), "pixel0")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "network is missing"),
        ({"network": NETWORK, "batchsize": 3}, "batchsize is unknown"),
        ({"network": NETWORK, "batch_size": 0}, "batch_size is 0"),
        ({"network": NETWORK, "degradation": "blur"}, "degradation is 'blur'"),
        ({"network": {"name": "mscan"}}, "no 'scale'"),
        ({"network": NETWORK, "degradation": "bicubic"}, "shifts by"),
    ],
)
def test_a_bad_value_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        build_task(values)
