"""The files of examples/extend train as they stand, each within 30 lines, without an edit of the package."""

import dataclasses
import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from fedmr.nets import build
from fedmr.tasks.patches import load_volumes
from fedmr.tasks.registry import build_task
from fedmr.training.build import make_trainer
from fedmr.training.trainer import evaluate
from fedmr.utils import class_path
from fedmr.utils.environment import ROOT
from fedmr.utils.errors import DataError

FOLDER = ROOT / "examples" / "extend"
NETWORK = {"_target_": "own_network.Dilated", "width": 8, "depth": 2, "scale": 2}
LOSS = {"l1": 1.0, "edges": {"_target_": "own_loss.Edges", "weight": 0.1}}
ALGORITHM = {"_target_": "own_algorithm.Anchored", "decay": 0.02}
CHANGES = {"network": NETWORK, "loss": LOSS, "algorithm": ALGORITHM}


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setattr(class_path, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    class_path.allow_folder(FOLDER)
    yield
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def trained(task, site, rounds=1):
    volumes = load_volumes(site, task, ("train",))
    trainer = make_trainer(task, task.sampler(volumes), rounds=rounds)
    for _ in range(rounds):
        trainer.run_round()
    return trainer


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.py")))
def test_no_file_is_longer_than_thirty_lines(name):
    assert len((FOLDER / name).read_text().splitlines()) <= 30


@pytest.mark.parametrize("name", CHANGES)
def test_each_trains_and_changes_what_is_learnt(task, site, name):
    changed = build_task(dataclasses.replace(task, **{name: CHANGES[name]}).to_dict())
    own, plain = trained(changed, site).net.state_dict(), trained(task, site).net.state_dict()
    assert all(torch.isfinite(value).all() for value in own.values())
    assert own.keys() != plain.keys() or any(not torch.equal(own[key], plain[key]) for key in own)
    start = build(**changed.network).state_dict()
    assert any(not torch.equal(own[key], start[key]) for key in own)


def test_the_algorithm_without_decay_is_fedavg(task, site):
    anchored = dataclasses.replace(task, algorithm={**ALGORITHM, "decay": 0})
    ours, theirs = (trained(one, site).net.state_dict() for one in (anchored, task))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_task_of_strange_classes_is_refused_where_nobody_allowed_them(task, site, monkeypatch):
    monkeypatch.setattr(class_path, "_folders", [])
    for change in ({"network": NETWORK}, {"loss": LOSS}, {"algorithm": ALGORITHM}):
        with pytest.raises(ValueError, match=r"own_\w+\.\w+ is not allowed here"):
            trained(dataclasses.replace(task, **change), site)


def test_a_reader_of_ones_own_gives_the_volumes_of_the_same_scans(task, site):
    listed = json.loads((site / "datalist.json").read_text())
    for entry in listed["volumes"]:
        voxels = np.asanyarray(nib.load(site / entry["image"]).dataobj)
        entry["image"] = f"{entry['patient']}.npy"
        np.save(site / entry["image"], np.moveaxis(voxels, 2, 0))
    expected = load_volumes(site, task)
    (site / "datalist.json").write_text(json.dumps(listed))
    reading = dataclasses.replace(task, reader={"_target_": "own_reader.Npy", "factor": 2.0})
    found = load_volumes(site, reading)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours.hr, theirs.hr, atol=1e-6)
        assert ours.intensity == pytest.approx(2 * theirs.intensity)
    assert evaluate(build(**task.network), found, reading)["n_volumes"] == len(expected)
    np.save(site / listed["volumes"][0]["image"], np.full((3, 40, 40), np.nan))
    with pytest.raises(DataError, match=r"sub-0\.npy.*finite"):
        load_volumes(site, reading)


def test_a_reader_without_a_class_is_refused(task, site):
    with pytest.raises(ValueError, match=r"reader.*no '_target_'"):
        load_volumes(site, dataclasses.replace(task, reader={"factor": 2.0}))
