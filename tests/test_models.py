import shutil
from pathlib import Path

import pytest
import torch

from fedmr.config import Task
from fedmr.jobs import read_task
from fedmr.models import load_model, save_model
from fedmr.nets import build

JOB = Path(__file__).parents[1] / "jobs" / "mscan_fedavg"


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_model_file_is_all_that_is_needed(tmp_path, task):
    net = build(**task.network | {"seed": 7})
    save_model(tmp_path / "out" / "model.pt", net, task)
    loaded, loaded_task = load_model(tmp_path / "out" / "model.pt")
    assert same(loaded, net)
    assert loaded_task == task


@pytest.fixture
def flare_model(tmp_path):
    """What FLARE's persistor leaves: weights under "model", beside them the job's config."""
    net = build(**Task.from_dict(read_task(JOB)).network | {"seed": 3})
    shutil.copytree(JOB / "app" / "config", tmp_path / "app_server" / "config")
    path = tmp_path / "app_server" / "FL_global_model.pt"
    torch.save({"model": net.state_dict(), "train_conf": {"train": {"model": "MSCAN"}}}, path)
    return path, net


def test_flares_own_file_is_read_with_the_config_beside_it_or_named(flare_model, tmp_path):
    path, net = flare_model
    assert same(load_model(path)[0], net)
    alone = tmp_path / "alone" / "model.pt"
    alone.parent.mkdir()
    shutil.copy(path, alone)
    with pytest.raises(FileNotFoundError, match="--job"):
        load_model(alone)
    assert same(load_model(alone, JOB)[0], net)


def test_what_is_no_model_is_refused_by_name(tmp_path, task):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match=r"model\.pt does not exist"):
        load_model(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"model\.pt is not a torch model file"):
        load_model(path)
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match='no weights under "model"'):
        load_model(path)
    other = Task(task.network | {"blocks": 2})
    torch.save({"model": build(**task.network).state_dict(), "fedmr_task": other.to_dict()}, path)
    with pytest.raises(ValueError, match="does not hold the network"):
        load_model(path)
