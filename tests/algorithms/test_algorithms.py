"""Algorithms on one site against their papers' formulas; across sites in tests/flare/test_algorithms.py."""

import dataclasses
import io

import pytest
import torch
from rich.console import Console

from fedmr.algorithms import ALGORITHMS
from fedmr.algorithms.ditto import Ditto
from fedmr.algorithms.fedbn import FedBN
from fedmr.algorithms.feddyn import FedDyn
from fedmr.algorithms.fedprox import FedProx
from fedmr.algorithms.local import Local
from fedmr.algorithms.private_head import PrivateHead
from fedmr.algorithms.scaffold import Scaffold
from fedmr.losses import WeightedSum
from fedmr.nets import build
from fedmr.reports.table import personal_table
from fedmr.runs.figures import METHODS, summarise
from fedmr.tasks.patches import PatchSampler, load_volumes
from fedmr.tasks.registry import build_task
from fedmr.training.build import make_trainer
from fedmr.training.engine import fit
from fedmr.training.trainer import Trainer

PARAMETERS = {"mu": 0.3, "strength": 0.3, "alpha": 0.3, "private": ["tail"]}
# but FL-MRCM, whose network is another: tests/test_cross_site_modelling.py
EXAMPLES = [
    {"name": n} | {f.name: PARAMETERS[f.name] for f in dataclasses.fields(taken)}
    for n, taken in ALGORITHMS.items()
    if n not in ("flmrcm", "fedrep")
]


@pytest.fixture
def sampler(site, task):
    return PatchSampler(load_volumes(site, task, ("train",)), task)


@pytest.fixture
def start(task, sampler):
    """A trainer of an algorithm over two rounds."""

    def make(name="fedavg", **parameters):
        return make_trainer(dataclasses.replace(task, algorithm={"name": name, **parameters}), sampler, rounds=2)

    return make


def like(net, scale=0.0, seed=0):
    """Arrays shaped as the parameters, normally distributed."""
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(p.shape, generator=generator) for name, p in net.named_parameters()}


def run_round(trainer, seed=0):
    """A round from weights and controls as a server might send them, both not zero."""
    with torch.no_grad():
        for parameter, change in zip(trainer.net.parameters(), like(trainer.net, 1e-3, seed).values(), strict=True):
            parameter += change
    trainer.receive(like(trainer.net, 1e-3, seed + 1))
    return trainer.run_round()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_gradient_of_fedprox_is_that_of_its_proximal_term(task):
    net, hook = build(**task.network), FedProx(mu=0.7)
    hook.round_started(net)
    received = {name: p.detach().clone() for name, p in net.named_parameters()}
    with torch.no_grad():
        for name, change in like(net, 0.1).items():
            net.get_parameter(name).add_(change)
    loss = hook.add_loss(net, torch.tensor(2.0))
    loss.backward()
    distances = {name: p.detach() - received[name] for name, p in net.named_parameters()}
    assert loss.item() == pytest.approx(2 + 0.35 * sum(d.square().sum().item() for d in distances.values()), rel=1e-5)
    for name, parameter in net.named_parameters():
        assert torch.allclose(parameter.grad, 0.7 * distances[name], rtol=1e-6)


def test_fedprox_without_mu_and_scaffold_without_controls_are_fedavg_to_the_last_bit(start):
    plain, prox, scaffold = start(), start("fedprox", mu=0.0), start("scaffold")
    for _ in range(2):
        scaffold.receive(like(scaffold.net))
        scaffold.hooks[0].load_state_dict({"own": {}})
        losses = [trainer.run_round().loss for trainer in (plain, prox, scaffold)]
        assert losses[0] == losses[1] == losses[2]
        assert same(plain.net, prox.net)
        assert same(plain.net, scaffold.net)


def test_fedprox_stays_nearer_to_the_received_weights(start):
    moved = []
    for mu in (0.0, 1.0, 100.0):
        trainer = start("fedprox", mu=mu)
        before = [p.detach().clone() for p in trainer.net.parameters()]
        trainer.run_round()
        moved.append(sum((p - b).square().sum() for p, b in zip(trainer.net.parameters(), before, strict=True)))
    assert moved[0] > moved[1] > moved[2]


def test_the_control_of_scaffold_is_option_two_by_hand_for_sgd(task, sampler):
    """c_i - c + (x - y) / (K lr), with controls that are not zero, over two rounds."""
    net, hook, rate, own = build(**task.network), Scaffold(), 0.05, like(build(**task.network))
    for number in range(2):
        servers = like(net, 1e-2, seed=number)
        hook.receive(servers)
        hook.round_started(net)
        x = {name: p.detach().clone() for name, p in net.named_parameters()}
        sgd = torch.optim.SGD(net.parameters(), rate)
        constant = torch.optim.lr_scheduler.ConstantLR(sgd, 1.0)
        loss = WeightedSum(task.loss)
        steps = fit(net, sampler.epoch(number), loss, optimizer=sgd, schedule=constant, hooks=[hook]).steps
        hook.round_finished(net, steps)
        renewed = {n: own[n] - servers[n] + (x[n] - y.detach()) / (steps * rate) for n, y in net.named_parameters()}
        for name, change in hook.send().items():
            assert torch.allclose(change, renewed[name] - own[name], atol=2e-6), name
            assert torch.allclose(hook.state_dict()["own"][name], renewed[name], atol=2e-6), name
        own = renewed


def test_option_two_from_weights_would_drown_the_gradients_of_adam(start):
    """Why the control is a mean of gradients here."""
    trainer = start("scaffold")
    before = [p.detach().clone() for p in trainer.net.parameters()]
    rates = []
    record = trainer.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    trainer.receive(like(trainer.net))
    trainer.run_round()
    record.remove()
    gradient = torch.cat([value.flatten() for value in trainer.send().values()])
    moved = torch.cat([(b - p).flatten() for b, p in zip(before, trainer.net.parameters(), strict=True)]) / sum(rates)
    assert moved.square().mean().sqrt() > 5 * gradient.square().mean().sqrt()


def test_scaffold_corrects_every_gradient_by_the_difference_of_the_controls(task):
    net, hook = build(**task.network), Scaffold()
    hook.load_state_dict({"own": like(net, 1.0, seed=1)})
    hook.receive(like(net, 1.0, seed=2))
    hook.round_started(net)
    for name, parameter in net.named_parameters():
        parameter.grad = like(net, 1.0, seed=3)[name]
    hook.gradients_ready(net)
    for name, parameter in net.named_parameters():
        own, servers, gradient = (like(net, 1.0, seed=seed)[name] for seed in (1, 2, 3))
        assert torch.allclose(parameter.grad, gradient - own + servers, atol=1e-6)


def test_scaffold_without_the_servers_control_says_which_job_has_it(start):
    with pytest.raises(ValueError, match="mscan_scaffold"):
        start("scaffold").run_round()


def test_the_shared_network_of_ditto_is_that_of_fedavg_and_the_personal_one_another(start):
    plain, ditto = start(), start("ditto", strength=0.1)
    for number in range(2):
        assert run_round(plain, number).loss == run_round(ditto, number).loss
        assert same(plain.net, ditto.net)
    assert not same(ditto.personal, ditto.net)


def test_the_personal_network_without_pull_is_that_of_a_site_alone(start):
    alone, ditto = start("local"), start("ditto", strength=0.0)
    assert alone.personal is alone.net
    alone.run_round()
    ditto.run_round()
    assert same(alone.net, ditto.personal)
    alone.run_round()
    run_round(ditto, 5)  # received weights that it is not pulled to
    assert same(alone.net, ditto.personal)


def test_the_personal_network_starts_from_the_received_weights_and_is_pulled_to_them(start):
    distances = []
    for strength in (0.0, 1.0, 100.0):
        ditto = start("ditto", strength=strength)
        with torch.no_grad():
            for parameter in ditto.net.parameters():
                parameter += 0.01  # not what the site would begin with by itself
        received = [p.detach().clone() for p in ditto.net.parameters()]
        ditto.run_round()
        pairs = zip(ditto.personal.parameters(), received, strict=True)
        distances.append(float(sum((p - r).square().sum() for p, r in pairs)))
    assert distances[0] > distances[1] > distances[2]


def test_ditto_stops_within_the_personal_network_too(start):
    ditto = start("ditto", strength=0.1)
    steps = ditto.sampler.steps_per_epoch
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > steps + 2

    assert ditto.run_round(stop).stopped
    assert len(asked) == steps + 3


@pytest.mark.parametrize("algorithm", EXAMPLES, ids=lambda a: a["name"])
def test_a_restart_between_rounds_changes_nothing(start, algorithm, tmp_path):
    """All that an algorithm needs goes through the file that the site keeps."""
    straight, restarted = start(**algorithm), start(**algorithm)
    run_round(straight)
    run_round(restarted)
    torch.save(restarted.state_dict(), tmp_path / "state.pt")
    restarted = start(**algorithm)
    restarted.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for trainer in (straight, restarted):
        run_round(trainer, 3)
    assert same(straight.net, restarted.net)
    if straight.personal is not None:
        assert same(straight.personal, restarted.personal)
    assert straight.send().keys() == restarted.send().keys()
    assert all(torch.equal(value, restarted.send()[name]) for name, value in straight.send().items())


def test_every_algorithm_has_a_trainer_of_its_own(start):
    trainers = {a["name"]: start(**a) for a in EXAMPLES}
    hooks = {name: [type(hook) for hook in trainer.hooks] for name, trainer in trainers.items()}
    kinds = {"fedprox": FedProx, "scaffold": Scaffold, "ditto": Ditto, "local": Local, "fedbn": FedBN}
    kinds |= {"fedper": PrivateHead, "feddyn": FedDyn}
    assert hooks == {"fedavg": []} | {name: [kind] for name, kind in kinds.items()}
    assert {type(trainer) for trainer in trainers.values()} == {Trainer}


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ({"name": "fedsgd"}, "'fedsgd' is unknown; known are fedavg"),
        ({}, "None is unknown"),
        ({"name": "fedprox"}, "fedprox mu is missing; it must be a number of at least 0"),
        ({"name": "scaffold", "mu": 0.1}, "scaffold mu is unknown; it takes none"),
        ({"name": "ditto", "strength": -1.0}, "strength is -1.0; it must be a number of at least 0"),
        ({"name": "fedprox", "mu": float("nan")}, "mu is nan"),
    ],
)
def test_a_bad_algorithm_is_named(task, algorithm, message):
    with pytest.raises(ValueError, match=message):
        build_task(task.to_dict() | {"algorithm": algorithm})


def test_figures_of_personal_models_are_a_table_of_their_own():
    sites = {f"site-{k}": {m: {"psnr": 30.0 + k, "ssim": 0.9} for m in METHODS} | {"n_volumes": 1} for k in (1, 2)}
    assert personal_table(summarise(sites)) is None
    for row, psnr in zip(sites.values(), (31.5, 33.25), strict=True):
        row["personal"] = {"psnr": psnr, "ssim": 0.95}
    figures = summarise(sites)
    assert figures["mean"]["personal"] == pytest.approx({"psnr": 32.375, "ssim": 0.95})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(personal_table(figures))
    text = console.export_text()
    for cells in (("site-1", "31.00 / 0.9000", "31.50 / 0.9500", "+0.50"), ("mean", "31.50", "32.38", "+0.88")):
        assert any(all(cell in line for cell in cells) for line in text.splitlines()), cells
