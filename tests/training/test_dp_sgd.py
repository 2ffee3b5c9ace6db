"""DP-SGD against ordinary training, against Opacus, and against what it promises."""

import copy
import dataclasses
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleModule
from torch import nn

from dp_settings_example import SETTINGS
from fedmr.losses import WeightedSum
from fedmr.nets import NETWORKS, build
from fedmr.privacy.accountant import BudgetError
from fedmr.training.build import make_trainer
from fedmr.training.dp_sgd import PrivateTrainer, check_network, private_sum, unit_gradient
from fedmr.training.engine import fit
from fedmr.training.trainer import Trainer

L1, BOTH = WeightedSum({"l1": 1.0}), WeightedSum({"l1": 1.0, "sgp": 0.1})


@pytest.fixture
def start(site, task):
    """A private trainer on a site of 5 slices of one patient."""

    def make(rounds=3, **changes):
        chosen = dataclasses.replace(task, loss={"l1": 1.0}, dp_sgd=SETTINGS | changes)
        trainer = make_trainer(chosen, chosen.sampler(chosen.load(site)), rounds=rounds)
        assert isinstance(trainer, PrivateTrainer)
        return trainer

    return make


def some_units(count, patches=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(patches, 1, 12, 12, generator=generator), torch.rand(patches, 1, 24, 24, generator=generator))
        for _ in range(count)
    ]


def awake(**args):
    """A network all of whose weights have a gradient; an untrained one's last convolution is zero."""
    net = build(**args)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return net


MSCAN = {"name": "mscan", "scale": 2, "channels": 4, "blocks": 1}


def plain(units, net, loss, *, bound=math.inf, **changes):
    gradients = [unit_gradient(net, unit, loss) for unit in units]
    return private_sum(gradients, len(gradients[0]), max_grad_norm=bound, **{"noise_multiplier": 0.0} | changes)


def test_without_noise_and_clipping_it_is_ordinary_training_on_the_same_batches(start, task):
    trainer = start()
    ordinary = Trainer(dataclasses.replace(task, loss={"l1": 1.0}), trainer.sampler, rounds=3)
    trainer.settings = SimpleNamespace(max_grad_norm=math.inf, noise_multiplier=0.0, units_per_step=3)
    steps = [some_units(3, seed=n) for n in range(8)]
    for step in steps:
        trainer.step(step)
    batches = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in steps]
    arguments = {"optimizer": ordinary.optimizer, "schedule": ordinary.schedule, "clip_norm": math.inf}
    fit(ordinary.net, batches, ordinary.loss, **arguments)
    started = build(**task.network).state_dict()
    for name, value in trainer.net.state_dict().items():
        assert torch.allclose(value, ordinary.net.state_dict()[name], atol=2e-5), name
    assert max(float((v - started[n]).abs().max()) for n, v in trainer.net.state_dict().items()) > 1e-3


class WeighedFeatures(torch.nn.Module):
    """`mscan.Fusion` in layers that Opacus knows."""

    def __init__(self, fuse):
        super().__init__()
        self.layer = torch.nn.Conv2d(fuse.in_channels, fuse.out_channels, 1)
        self.layer.load_state_dict(fuse.state_dict())

    def forward(self, features, gains):
        return self.layer(features * gains[:, :, None, None])


@pytest.mark.parametrize("arguments", [{}, {"scales": "parallel", "attention": "softmax"}, {"scales": "single"}])
def test_a_units_gradient_in_every_layer_of_mscan_is_that_of_opacus(arguments):
    """Of a patch as Opacus calls it; of a group of patches the mean over them."""
    net = awake(**MSCAN, **arguments)
    units = some_units(3, patches=2)
    known = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    for block in known.body:
        block.fuse = WeighedFeatures(block.fuse)
    # not strict: its one buffer is a constant kernel. Of our channels_last layers Opacus 1.6.0 gives wrong gradients
    hooked = GradSampleModule(known, strict=False)
    low, high = (torch.cat(parts) for parts in zip(*units, strict=True))
    L1(hooked(low.requires_grad_()), high).backward()
    samples = torch.cat([p.grad_sample.flatten(1) for p in hooked.parameters()], dim=1).reshape(3, 2, -1)
    for unit, expected in zip(units, samples.mean(dim=1), strict=True):
        ours = unit_gradient(net, unit, L1)
        assert np.count_nonzero(ours) > 0.9 * ours.size
        assert np.allclose(ours, expected.detach().numpy(), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(bound=st.floats(1e-4, 10), scale=st.sampled_from([1.0, 1e6]), removed=st.integers(0, 3))
def test_one_unit_moves_the_sum_by_no_more_than_the_bound(bound, scale, removed):
    """Whatever its values; with `sgp`, which is no mean over patches, as well."""
    net, units = awake(**MSCAN), some_units(4)
    units[removed] = (units[removed][0], scale * units[removed][1])
    without = [unit for number, unit in enumerate(units) if number != removed]
    with_all, rest = (plain(some, net, BOTH, bound=bound) for some in (units, without))
    own = np.linalg.norm(unit_gradient(net, units[removed], BOTH))
    assert np.linalg.norm(with_all - rest) <= bound * (1 + 1e-9)
    assert np.linalg.norm(with_all - rest) == pytest.approx(min(own, bound), rel=1e-6)


def test_the_sum_is_divided_by_the_expected_number_of_units_and_not_by_that_drawn(start):
    """Else the size of a step would tell how many were drawn, and one unit would change the others' part."""
    trainer, units = start(), some_units(2)
    trainer.settings = SimpleNamespace(max_grad_norm=math.inf, noise_multiplier=0.0, units_per_step=5)
    expected = sum(unit_gradient(trainer.net, unit, trainer.loss) for unit in units) / 5
    trainer.step(units)
    taken = torch.cat([p.grad.flatten() for p in trainer.net.parameters()])
    assert np.allclose(taken.numpy(), expected, atol=1e-7)


def test_the_noise_has_the_stated_deviation_also_where_nobody_was_drawn():
    """Of n numbers the variance has a deviation of sqrt(2/n) of itself; the bound is six of them, once in 10^9 runs."""
    noise = private_sum([], 100_000, max_grad_norm=0.3, noise_multiplier=2.0)
    assert noise.mean() == pytest.approx(0, abs=6 * 0.6 / noise.size**0.5)
    assert noise.var() == pytest.approx(0.6**2, rel=6 * (2 / noise.size) ** 0.5)


def test_the_noise_is_added_to_the_clipped_sum():
    net, units = awake(**MSCAN), some_units(3)
    fixed = np.linspace(-1, 1, unit_gradient(net, units[0], L1).size)
    noised = plain(units, net, L1, bound=0.01, noise_multiplier=2.0, normal=lambda count: fixed[:count])
    assert np.allclose(noised - plain(units, net, L1, bound=0.01), 2.0 * 0.01 * fixed)


def test_how_far_the_steps_are_from_the_true_gradients_is_known_to_the_site(start):
    """Without noise a clipped sum of two is between both and shorter; with much noise it has no direction."""
    found = []
    for noise in (0.0, 1e6):
        trainer = start()
        assert trainer.distance() == {}
        trainer.settings = SimpleNamespace(max_grad_norm=1e-4, noise_multiplier=noise, units_per_step=2)
        trainer.step(some_units(2))
        trainer.step([])
        found.append(trainer.distance())
    clipped, noised = found
    assert clipped["cosine"] > 0.9
    assert clipped["norm_ratio"] < 1
    assert abs(noised["cosine"]) < 0.2
    assert noised["norm_ratio"] > 100


def test_the_noise_does_not_come_from_the_training_seed(start):
    """Two sites with the same task, data and seeds end apart, and leave the seeded generators as they are."""
    ends = []
    for _ in range(2):
        trainer = start(units_per_step=5)  # all slices, so that no draw differs
        torch.manual_seed(0)
        np.random.seed(0)
        for _ in range(3):
            trainer.step([])
        ends.append(trainer.net.state_dict())
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert not any(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_gradient_that_is_not_finite_ends_the_training(start):
    trainer = start()
    low, high = some_units(1)[0]
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        trainer.step([(low, high * math.nan)])


@pytest.mark.e2e
@pytest.mark.parametrize("local_epochs", [1, 3])
def test_epsilon_is_opacus_own_after_every_step(local_epochs, start, task):
    trainer = start(units_per_step=2, noise_multiplier=1.5)
    trainer.task = dataclasses.replace(trainer.task, local_epochs=local_epochs)
    accountant = RDPAccountant()
    assert trainer.epsilon() == 0
    for number in (1, 2):
        progress = trainer.run_round()
        assert progress.steps == local_epochs * round(5 / 2)
        for _ in range(progress.steps):
            accountant.step(noise_multiplier=1.5, sample_rate=2 / 5)
        assert trainer.epsilon() == pytest.approx(accountant.get_epsilon(SETTINGS["delta"]), rel=1e-9)
        assert len(trainer.spent) == number


@pytest.mark.e2e
def test_the_round_that_would_exceed_the_budget_is_not_trained(start):
    budget = start().epsilon(2)
    trainer = start(max_epsilon=budget)
    assert trainer.run_round().steps == trainer.run_round().steps > 0
    before = copy.deepcopy(trainer.net.state_dict())
    with pytest.raises(BudgetError, match=r"the privacy budget is spent: with this round epsilon per slice"):
        trainer.run_round()
    assert all(torch.equal(value, before[name]) for name, value in trainer.net.state_dict().items())
    assert trainer.epsilon() == budget


@pytest.mark.e2e
def test_a_resumed_training_has_spent_what_an_uninterrupted_one_has(start):
    straight, interrupted = start(), start()
    for _ in range(3):
        straight.run_round()
        interrupted.run_round()
        saved = io.BytesIO()
        torch.save(interrupted.state_dict(), saved)
        interrupted = start()
        interrupted.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    assert interrupted.spent == straight.spent
    assert interrupted.epsilon() == straight.epsilon() > 0
    assert interrupted.schedule.state_dict()["last_epoch"] == straight.schedule.state_dict()["last_epoch"]


def test_what_protected_another_unit_or_nobody_is_not_resumed(start, task, site):
    trainer = start(unit="patient", units_per_step=1)
    trainer.run_round()
    with pytest.raises(ValueError, match="protected every patient, the task's dp_sgd unit is 'slice'"):
        start().load_state_dict(trainer.state_dict())
    ordinary = Trainer(task, task.sampler(task.load(site)), rounds=3)
    with pytest.raises(ValueError, match="protected nobody"):
        start().load_state_dict(ordinary.state_dict())


def test_the_loss_of_the_training_data_is_not_told(start):
    told = []
    progress = start().run_round(epoch_done=lambda number, epoch: told.append(epoch.loss))
    assert math.isnan(progress.loss)
    assert all(math.isnan(loss) for loss in told)


def test_ordinary_training_does_not_take_a_private_task(start):
    trainer = start()
    with pytest.raises(TypeError, match="PrivateTrainer"):
        Trainer(trainer.task, trainer.sampler, rounds=1).run_round()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_by_dp_sgd_or_is_refused(name):
    """Whatever leaves the site is a parameter, and every parameter's part is in the vector that is clipped."""
    net = build(name, **({} if name == "unet" else {"scale": 2}))
    check_network(net)
    size = (1, 1, 32, 32)
    side = net(torch.rand(size)).shape[-1]
    vector = unit_gradient(net, (torch.rand(size), torch.rand(1, 1, side, side)), L1)
    assert vector.size == sum(value.numel() for value in net.state_dict().values())


def test_running_means_are_refused_since_they_leave_without_noise():
    with pytest.raises(ValueError, match=r"the network's 1\.num_batches_tracked is made from the data without noise"):
        check_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
