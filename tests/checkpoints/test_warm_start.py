"""Training that starts from a model's weights."""

import pytest
import torch

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.model_file import Model, load_model, save_model
from fedmr.checkpoints.warm_start import starting_weights, write_start
from fedmr.nets import build


@pytest.fixture
def model(tmp_path, task):
    net = build(**task.network)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.5)
    save_model(tmp_path / "m.pt", Model(net, make_card(task)))
    return tmp_path / "m.pt"


def test_the_weights_are_the_models_and_flare_reads_them(tmp_path, task, model):
    write_start(model, task, tmp_path / "start.pt")
    written = torch.load(tmp_path / "start.pt", weights_only=True)["model"]
    for name, value in load_model(model).net.state_dict().items():
        assert torch.equal(written[name], value)


def test_another_network_is_refused_by_name(task, model):
    from dataclasses import replace

    other = replace(task, network={**task.network, "channels": 2 * task.network["channels"]})
    with pytest.raises(ValueError, match=r"m\.pt is of another network .* Set task\.network"):
        starting_weights(model, other)
