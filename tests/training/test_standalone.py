import json

import pytest
import torch

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.metrics import psnr
from fedmr.nets import build
from fedmr.tasks.patches import load_volumes
from fedmr.tasks.super_resolution import super_resolve
from fedmr.training.standalone import comparison_images, evaluate_sites, train_pooled
from fedmr.training.trainer import evaluate
from fedmr.utils.errors import DataError
from phantoms import write_site
from simulator import render_tiny_job


@pytest.fixture
def job(tmp_path):
    """A rendered job of the real base with a tiny task."""
    return render_tiny_job(tmp_path / "configs", rounds=2)


@pytest.fixture
def data(tmp_path):
    for number in (1, 2):
        write_site(tmp_path / "data", f"site-{number}", seed=number, patients=2 + number)
    return tmp_path / "data"


def test_pooled_training_writes_a_model_and_a_log_line_per_round(job, data, tmp_path):
    said = []
    model = train_pooled(data, tmp_path / "out", job=job, say=said.append)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [record["round"] for record in log] == [0, 1]
    assert log[0]["steps"] == log[1]["steps"] == -(-3 * 5 * 6 // 4)  # 3 patients, 5 slices, 6 patches, batches of 4
    assert len(said) == 3
    loaded = load_model(model)
    assert not torch.equal(loaded.net.head.weight, build(**loaded.task.network).head.weight)
    validation = [v for n in (1, 2) for v in load_volumes(data / f"site-{n}", loaded.task, ("val",))]
    card = loaded.card
    assert card["training"] == {"federated": False, "sites": 2, "rounds": 2, "steps": 2 * log[0]["steps"]}
    assert card["data"] == {"volumes": {"train": 3, "val": 2}, "contrasts": {"T1w": 5}}
    assert card["metrics"] == {"split": "val", **evaluate(loaded.net, validation, loaded.task, with_baselines=True)}
    assert not any(word in json.dumps(card) for word in ("sub-", "site-", str(tmp_path)))


def test_sites_and_rounds_can_be_chosen(job, data, tmp_path):
    train_pooled(data, tmp_path / "out", job=job, sites=["site-1"], rounds=1, say=lambda _: None)
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert record["steps"] == -(-5 * 6 // 4)
    with pytest.raises(DataError, match=r"no site site-9; it has site-1, site-2"):
        train_pooled(data, tmp_path / "out", job=job, sites=["site-9"])


def test_evaluation_is_per_site_and_of_the_named_split(task, data, tmp_path):
    net = build(**task.network)
    torch.nn.init.normal_(net.tail.weight, std=0.01)
    save_model(tmp_path / "model.pt", Model(net, make_card(task)))
    for split in ("val", "test"):
        figures = evaluate_sites(tmp_path / "model.pt", data, split=split)
        images = comparison_images(tmp_path / "model.pt", data, split=split)
        assert set(figures["sites"]) == set(images) == {"site-1", "site-2"}
        volume = load_volumes(data / "site-2", task, (split,))[0]
        expected = psnr(super_resolve(net, volume.lr, tuple(volume.hr.shape[1:])), volume.hr)
        assert figures["sites"]["site-2"]["model"]["psnr"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="split is 'dev'"):
        evaluate_sites(tmp_path / "model.pt", data, split="dev")
