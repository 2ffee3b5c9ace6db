"""FedBN, FedPer, FedRep and FedDyn against their definitions: the control that is FedAvg, and a step by hand."""

import dataclasses

import pytest
import torch
from torch import nn

from fedmr.algorithms.base import refuse_batch_norm
from fedmr.algorithms.feddyn import FedDyn
from fedmr.algorithms.local import Local
from fedmr.tasks.patches import PatchSampler, load_volumes
from fedmr.training.build import make_trainer


@pytest.fixture
def start(site, task):
    sampler = PatchSampler(load_volumes(site, task, ("train",)), task)

    def make(name="fedavg", epochs=1, **parameters):
        changed = dataclasses.replace(task, algorithm={"name": name, **parameters}, local_epochs=epochs)
        return make_trainer(changed, sampler, rounds=2)

    return make


def weights(trainer):
    return {name: value.clone() for name, value in trainer.net.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "fedbn"},  # the network has no batch normalisation
        {"name": "fedper", "private": []},
        {"name": "fedrep", "private": [], "head_epochs": 0},
        {"name": "feddyn", "alpha": 0.0},
    ],
    ids=lambda a: a["name"],
)
def test_the_control_of_an_algorithm_is_fedavg_to_the_last_bit(start, algorithm):
    plain, other = start(), start(**algorithm)
    for _ in range(2):
        assert plain.run_round().loss == other.run_round().loss
        assert same(weights(plain), weights(other))


def test_a_private_layer_is_the_sites_own_from_the_second_round_on_and_the_rest_the_servers(start):
    trainer = start("fedper", private=["tail"])
    received = {name: torch.full_like(value, 2.0) for name, value in weights(trainer).items()}
    assert same(trainer.before_load(received, {}), received)
    own = {name: torch.full_like(value, 3.0) for name, value in received.items()}
    loaded = trainer.before_load(received, own)
    assert {name for name, value in loaded.items() if value.flatten()[0] == 3} == {"tail.weight", "tail.bias"}
    assert trainer.personal is trainer.net


def test_fedrep_trains_the_head_alone_and_then_the_body_alone(start):
    trainer = start("fedrep", epochs=2, private=["tail"], head_epochs=1)
    states = [weights(trainer)]
    trainer.run_round(epoch_done=lambda *_: states.append(weights(trainer)))
    for number, moves in ((0, {True}), (1, {False})):
        changed = {n for n, value in states[number].items() if not torch.equal(value, states[number + 1][n])}
        assert {name.startswith("tail") for name in changed} == moves
        assert changed


def test_fedrep_says_if_the_body_is_never_trained_and_which_layer_is_not_there(start):
    with pytest.raises(ValueError, match="head_epochs is 1 of 1 local_epochs"):
        start("fedrep", private=["tail"])
    with pytest.raises(ValueError, match="no layer 'tali'"):
        start("fedper", private=["tali"])


def test_the_gradient_and_the_state_of_feddyn_are_the_papers(task):
    net = nn.Linear(2, 1, bias=False)
    hook, alpha = FedDyn(0.5), 0.5
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 2.0]]))
    hook.load_state_dict({"h": {"weight": torch.tensor([[0.1, -0.2]])}})
    hook.round_started(net)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.5, 1.0]]))
    loss = hook.add_loss(net, torch.tensor(3.0))
    loss.backward()
    moved = torch.tensor([[0.5, -1.0]])
    assert loss.item() == pytest.approx(3 - (0.1 * 1.5 - 0.2 * 1.0) + alpha / 2 * 1.25)
    assert torch.allclose(net.weight.grad, alpha * moved - torch.tensor([[0.1, -0.2]]))
    hook.round_finished(net, 1)
    assert torch.allclose(hook.state_dict()["h"]["weight"], torch.tensor([[0.1, -0.2]]) - alpha * moved)


def test_the_servers_half_of_feddyn_is_sgd_with_nesterov_momentum_of_one():
    """w_t = mean - h/alpha with h/alpha = -(sum of the mean updates), for updates by hand."""
    weight = nn.Parameter(torch.tensor([1.0]))
    sgd, expected, total = torch.optim.SGD([weight], lr=1.0, momentum=1.0, nesterov=True), 1.0, 0.0
    for update in (0.3, -0.1, 0.05):
        total += update
        expected += update + total
        weight.grad = torch.tensor([-update])
        sgd.step()
        assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_fedbn_keeps_batch_normalisation_and_without_it_the_network_is_refused(task, site):
    network = {"_target_": "monai.networks.nets.UNet", "channels": [4, 8], "strides": [2], "norm": "batch", "scale": 2}
    batch = dataclasses.replace(task, network=network)
    sampler = PatchSampler(load_volumes(site, batch, ("train",)), batch)
    with pytest.raises(ValueError, match=r"algorithm \{ name = fedbn \}"):
        make_trainer(batch, sampler, rounds=1)
    trainer = make_trainer(dataclasses.replace(batch, algorithm={"name": "fedbn"}), sampler, rounds=1)
    private = {name for name in trainer.net.state_dict() if trainer.is_private(name)}
    batch_norms = [n for n, m in trainer.net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert batch_norms
    assert private == {name for name in trainer.net.state_dict() if name.rpartition(".")[0] in batch_norms}
    assert {name.rpartition(".")[2] for name in private} >= {"weight", "bias", "running_mean", "running_var"}
    refuse_batch_norm(trainer.net, [Local()])
