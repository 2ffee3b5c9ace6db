"""The adversarial term at one site, against its formula; across sites in tests/flare/test_cross_site_modelling.py."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fedmr.algorithms.flmrcm import LATENTS, CrossSiteModelling, DomainIdentifier
from fedmr.nets import build
from fedmr.tasks.registry import build_task
from fedmr.tasks.slices import SliceSampler, load_volumes
from fedmr.training.build import make_trainer
from fedmr.training.engine import fit
from fedmr.training.trainer import Trainer
from kspace_site import make_task
from phantoms import write_site

WIDTH = 2 * 2**2 * 4  # of the network of `make_task`
ENCODER = ("down.", "bottleneck.")


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    """Six steps an epoch."""
    task = make_task(batch_size=2)
    site = write_site(tmp_path_factory.mktemp("data"), "site-1", seed=1, patients=5, shape=(40, 40, 4))
    return SliceSampler(load_volumes(site, task, ("train",)), task)


@pytest.fixture
def start(sampler):
    """A trainer over three rounds, of FL-MRCM or another algorithm."""

    def make(name="flmrcm", **parameters):
        own = {"target_sites": ["site-4"]} if name == "flmrcm" else {}
        task = dataclasses.replace(sampler.task, algorithm={"name": name, **own, **parameters})
        return make_trainer(task, sampler, rounds=3)

    return make


def targets(count=5, width=WIDTH, seed=0):
    return 3 + torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def run_round(trainer, latents=None):
    trainer.receive({} if latents is None else {LATENTS: latents})
    return trainer.run_round()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def one_step(hook, latents, rate=0.1):
    """The network, its gradients and the loss of one step of plain SGD, and the batch."""
    net = build("unet", channels=2, pools=2)
    batch = tuple(torch.randn(2, 3, 1, 40, 36, generator=torch.Generator().manual_seed(1)))
    before, gradients = copy.deepcopy(net), {}
    hook.gradients_ready = lambda net: gradients.update({n: p.grad.clone() for n, p in net.named_parameters()})
    hook.receive({LATENTS: latents})
    hook.round_started(net)
    optimizer = torch.optim.SGD(net.parameters(), rate)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    loss = fit(
        net, [batch], torch.nn.L1Loss(), optimizer=optimizer, schedule=constant, hooks=[hook], clip_norm=1e9
    ).loss
    return before, gradients, loss, batch


def test_a_step_is_the_published_one_by_hand():
    """First the identifier by binary cross-entropy on one-hot domains, then the network with the domains swapped."""
    hook, latents = CrossSiteModelling(weight=0.7, learning_rate=0.01), targets(1)
    net, gradients, loss, (image, target) = one_step(hook, latents)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        identifier = DomainIdentifier(WIDTH)
    optimizer = torch.optim.RMSprop(identifier.parameters(), lr=0.01)
    own, given = net.latent(image), latents.expand(3, -1)
    source, goal = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.0, 1.0]] * 3)

    def entropy(latents, domain):
        return F.binary_cross_entropy_with_logits(identifier(latents), domain)

    ((entropy(own.detach(), source) + entropy(given, goal)) / 2).backward()
    optimizer.step()
    swapped = (entropy(own, goal) + entropy(given, source)) / 2
    expected = F.l1_loss(net(image), target) + 0.7 * swapped
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    pairs = zip(hook.identifier.parameters(), identifier.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)


def test_the_adversarial_gradient_reaches_the_encoder_and_nothing_else():
    with_term, without = (one_step(CrossSiteModelling(weight=weight), targets())[1] for weight in (1.0, 0.0))
    for name, gradient in with_term.items():
        reached = not torch.allclose(gradient, without[name], rtol=1e-3, atol=1e-7)
        assert reached == name.startswith(ENCODER), name


def test_without_weight_training_is_that_of_fl_mr_to_the_last_bit(start):
    plain, mrcm = start("fedavg"), start(weight=0.0)
    before, identifiers = torch.random.get_rng_state(), []
    for number in range(3):
        assert run_round(plain).loss == run_round(mrcm, targets(seed=number)).loss
        assert same(plain.net, mrcm.net)
        identifiers.append(copy.deepcopy(mrcm.hooks[0].identifier))
    assert torch.equal(torch.random.get_rng_state(), before), "the global random state is left alone"
    assert not same(identifiers[0], identifiers[1]), "the identifier learns"


def test_a_round_without_latents_is_plain_also_after_one_with(start):
    plain, mrcm = start("fedavg"), start()
    assert run_round(plain).loss == run_round(mrcm).loss
    assert same(plain.net, mrcm.net)
    run_round(mrcm, targets())
    assert not same(plain.net, mrcm.net)
    plain.load_state_dict(copy.deepcopy(mrcm.state_dict()) | {"hooks": []})
    assert run_round(plain).loss == run_round(mrcm).loss
    assert same(plain.net, mrcm.net)


def test_a_round_that_was_stopped_leaves_nothing_behind(start):
    plain, mrcm = start("fedavg"), start()
    for trainer, latents in ((plain, {}), (mrcm, {LATENTS: targets()})):
        trainer.receive(latents)
        trainer.run_round(lambda: True)
    assert run_round(plain).loss == run_round(mrcm).loss
    assert same(plain.net, mrcm.net)


def test_the_identifier_is_saved_and_never_sent(start):
    trainer = start()
    run_round(trainer, targets())
    assert trainer.send() == {}
    assert trainer.net.state_dict().keys() == build(**trainer.task.network).state_dict().keys()
    assert not trainer.net.bottleneck._forward_hooks
    (hook,) = trainer.state_dict()["hooks"]
    assert set(hook) == {"identifier", "optimizer", "generator"}
    assert start().state_dict()["hooks"] == [{}]


def test_a_restart_between_rounds_changes_nothing(start, tmp_path):
    straight, restarted = start(), start()
    run_round(straight, targets())
    run_round(restarted, targets())
    torch.save(restarted.state_dict(), tmp_path / "state.pt")
    restarted = start()
    restarted.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for number in (1, 2):
        run_round(straight, targets(seed=number))
        run_round(restarted, targets(seed=number))
    assert same(straight.net, restarted.net)
    assert same(straight.hooks[0].identifier, restarted.hooks[0].identifier)


def test_a_step_down_the_term_makes_the_source_look_more_like_the_target():
    """To the identifier, which has learnt in the same step before."""
    net, hook = build("unet", channels=2, pools=2), CrossSiteModelling()
    image = torch.randn(3, 1, 40, 36, generator=torch.Generator().manual_seed(3))
    hook.receive({LATENTS: targets()})
    hook.round_started(net)
    net(image)
    hook.add_loss(net, torch.zeros(())).backward()

    def likeness():
        return hook.identifier(net.latent(image)).softmax(1)[:, 1].mean().item()

    before = likeness()
    torch.optim.SGD(net.parameters(), 1.0).step()
    assert likeness() > before + 1e-4


def test_in_one_process_the_gradient_goes_through_both_latents(sampler):
    """With the target's own images; through the source's alone, where they come as latents."""
    image, goal = (torch.randn(3, 1, 40, 36, generator=torch.Generator().manual_seed(k)) for k in (3, 4))
    gradients = {}
    for name, images in {"both": lambda count: goal[:count], "source": None}.items():
        net, hook = build("unet", channels=2, pools=2), CrossSiteModelling(target_images=images)
        hook.receive({} if images else {LATENTS: net.latent(goal).detach()})
        hook._latents = hook._latents if images else hook._latents[:1].expand(3, -1)
        hook.round_started(net)
        net(image)
        hook.add_loss(net, torch.zeros(())).backward()
        gradients[name] = torch.cat([p.grad.flatten() for n, p in net.named_parameters() if n.startswith(ENCODER)])
    assert gradients["both"].norm() > 0
    assert not torch.allclose(gradients["both"], gradients["source"], rtol=0.1)


def test_no_task_can_ask_for_the_targets_images(start):
    assert all(hook.target_images is None for hook in start().hooks)
    with pytest.raises(ValueError, match="target_images is unknown"):
        start(target_images="x")


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (targets(width=WIDTH + 1), rf"have {WIDTH + 1} values, the network's {WIDTH}"),
        (targets() * float("nan"), "no table of finite numbers"),
        (targets(0), "no table of finite numbers"),
        (targets()[0], "no table of finite numbers"),
    ],
)
def test_latents_that_are_none_are_refused(start, latents, message):
    with pytest.raises(ValueError, match=message):
        run_round(start(), latents)


def test_a_network_without_a_bottleneck_is_refused():
    with pytest.raises(ValueError, match="flmrcm needs network unet, not mscan"):
        build_task(
            {"network": {"name": "mscan"}, "mask": {}, "algorithm": {"name": "flmrcm", "target_sites": ["site-1"]}}
        )


def test_the_trainer_of_another_algorithm_has_no_such_hook(start):
    assert start("fedavg").hooks == []
    assert type(start()) is Trainer
