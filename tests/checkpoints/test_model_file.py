import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmr.checkpoints.card import describe, make_card
from fedmr.checkpoints.model_file import CARD_KEY, Model, load_model, save_model
from fedmr.federation.render import read_task
from fedmr.nets import build
from fedmr.runs.checks import RunError
from fedmr.runs.records import FINAL_MODEL
from fedmr.tasks.patches import load_volumes
from fedmr.tasks.registry import build_task

JOB = Path(__file__).parents[2] / "jobs" / "mscan_fedavg"
CONFIG = JOB / "app" / "config"


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def model(task):
    net = build(**task.network | {"seed": 7})
    return Model(net, make_card(task))


@pytest.fixture
def saved(model, tmp_path):
    save_model(tmp_path / "model.pt", model)
    return tmp_path / "model.pt"


def test_a_model_file_is_all_that_is_needed(saved, model, task):
    loaded = load_model(saved)
    assert same(loaded.net, model.net)
    assert loaded.task == task
    assert loaded.task is loaded.task, "built once"
    assert loaded.card == model.card == json.loads(json.dumps(model.card))
    assert not hasattr(torch.load(saved, weights_only=True)[CARD_KEY], "__dict__")  # plain values only


def test_the_normalisation_on_the_card_is_that_of_the_training_data(site, task):
    for volume in load_volumes(site, task):
        at = np.percentile(volume.lr.numpy(), task.normalisation["percentile"])
        assert at == pytest.approx(task.normalisation["becomes"], rel=1e-5)


@pytest.fixture
def flare_model(tmp_path):
    """What FLARE's persistor leaves: weights under "model", beside them the job's config."""
    net = build(**build_task(read_task(JOB)).network | {"seed": 3})
    shutil.copytree(CONFIG, tmp_path / "w" / "app_server" / "config")
    path = tmp_path / "w" / "app_server" / "FL_global_model.pt"
    torch.save({"model": net.state_dict(), "train_conf": {"train": {"model": "MSCAN"}}}, path)
    return path, net


def test_flares_own_file_is_read_with_the_config_beside_it_or_named(flare_model, tmp_path):
    path, net = flare_model
    assert same(load_model(path).net, net)
    alone = tmp_path / "alone" / "model.pt"
    alone.parent.mkdir()
    shutil.copy(path, alone)
    with pytest.raises(FileNotFoundError, match="--job"):
        load_model(alone)
    loaded = load_model(alone, JOB)
    assert same(loaded.net, net)
    assert loaded.card == make_card(build_task(read_task(JOB)))


def test_a_run_gives_its_final_model_with_figures_and_without_the_sites_names(flare_model):
    path, net = flare_model
    run, hospitals = path.parents[1], ("st-mary", "st-john")
    shutil.copy(path, path.with_name("best_FL_global_model.pt"))
    (run / "meta.json").write_text(json.dumps({"job_clients": [{"name": name} for name in hospitals]}))
    score = {m: {"psnr": 30.0, "ssim": 0.9} for m in ("zero_filled", "interpolated", "model")}
    results = {name: {FINAL_MODEL: {"n_volumes": 2} | score} for name in hospitals}
    rounds = [
        {"round": r, "sites": [{"name": n, "weight": 5, "metrics": [{"name": "psnr", "value": 30}]} for n in hospitals]}
        for r in range(3)
    ]
    (run / "metrics").mkdir()
    (run / "metrics" / "round_metrics.jsonl").write_text("\n".join(map(json.dumps, rounds)))
    with pytest.raises(RunError, match="no test figures"):
        load_model(run)
    (run / "cross_site_val").mkdir()
    (run / "cross_site_val" / "cross_val_results.json").write_text(json.dumps(results))
    loaded = load_model(run)
    assert same(loaded.net, net)
    assert loaded.card["training"] == {"federated": True, "sites": 2, "rounds": 3, "steps": 30}
    assert loaded.card["metrics"] == {"split": "test", "n_volumes": 4} | score
    assert not any(name in json.dumps(loaded.card) for name in hospitals)
    assert "Federated training: 2 sites, 3 rounds, 30 steps" in describe(loaded.card)


def change(**values):
    def spoil(content):
        content[CARD_KEY] |= values

    return spoil


def poison(content):
    content["model"]["head.weight"][0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.pop("model"), 'no weights under "model"'),
        (lambda content: content["model"].pop("head.weight"), "does not hold the network"),
        (lambda content: content["model"].update({"head.weight": "x"}), "does not hold the network"),
        (poison, "NaN or infinite, in head.weight"),
        (lambda content: content.update({CARD_KEY: "x"}), "its card is damaged"),
        (lambda content: content[CARD_KEY].pop("licence"), "its card is damaged: it has no licence"),
        (change(task={"network": {"name": "mscan", "scale": 2, "blocks": 2}}), "does not hold the network"),
        (change(task={"network": {"name": "other", "scale": 2}}), "does not hold .* network 'other' is unknown"),
        (change(task={"network": {"name": "mscan", "scale": 2}, "lr": 1}), "lr is unknown"),
        (change(scale=4), "scale is 4, that of its network 2"),
        (change(degradation="bicubic"), "degradation is 'bicubic'"),
        (change(grid="half"), "grid is 'half'"),
        (change(normalisation={"percentile": 50}), "another normalisation"),
        (change(format=2), "format 2"),
    ],
)
def test_a_model_that_does_not_fit_its_card_is_refused_by_name(saved, spoil, message):
    content = torch.load(saved, weights_only=True)
    spoil(content)
    torch.save(content, saved)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_that_is_not_the_cards_is_refused(saved):
    with pytest.raises(ValueError, match=r"its card says .* Leave out --job"):
        load_model(saved, JOB)


def test_what_is_no_model_or_only_half_of_one_is_refused_by_name(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"other\.pt does not exist"):
        load_model(tmp_path / "other.pt")
    content = saved.read_bytes()
    for spoiled in (b"", b"not a model", content[:100], content[: len(content) // 2], content[:-1]):
        saved.write_bytes(spoiled)
        with pytest.raises(ValueError, match=r"model\.pt is not a (torch )?model file") as caught:
            load_model(saved)
        assert "\n" not in str(caught.value)


class Malware:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "executed")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize(
    ("write", "read_carelessly"),
    [
        (torch.save, lambda path: torch.load(path, weights_only=False)),
        (lambda content, path: path.write_bytes(pickle.dumps(content)), lambda path: pickle.loads(path.read_bytes())),
    ],
)
def test_pickled_malware_is_not_executed(write, read_carelessly, model, tmp_path):
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    write({"model": model.net.state_dict(), CARD_KEY: model.card, "train_conf": Malware(trace)}, path)
    with pytest.raises(ValueError, match=r"model\.pt is not a model file.*foreign code") as caught:
        load_model(path)
    assert not trace.exists()
    assert "weights_only" not in str(caught.value)
    read_carelessly(path)
    assert trace.exists()  # so the file was armed


def test_a_failed_save_leaves_the_file_that_was_there(saved, model):
    before = saved.read_bytes()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_model(saved, replace(model, card=model.card | {"licence": lambda: None}))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
