import copy
import dataclasses
from itertools import pairwise

import pytest
import torch

from fedmr.algorithms.base import Algorithm
from fedmr.losses import WeightedSum
from fedmr.metrics import psnr
from fedmr.nets import build
from fedmr.physics.degradation import interpolate, zero_filled_acquisition
from fedmr.tasks.patches import PatchSampler, load_volumes
from fedmr.tasks.super_resolution import super_resolve
from fedmr.training.build import make_trainer
from fedmr.training.engine import fit
from fedmr.training.trainer import Trainer, evaluate
from fedmr.utils.precision import has_bfloat16


@pytest.fixture
def volumes(site, task):
    return load_volumes(site, task)


@pytest.fixture
def train(volumes):
    return [v for v in volumes if v.split == "train"]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.e2e
def test_training_improves_on_the_interpolation(volumes, train, task):
    network = task.network | {"channels": 16, "blocks": 2}
    task = dataclasses.replace(task, network=network, patches_per_slice=16, learning_rate=3e-3)
    trainer = Trainer(task, PatchSampler(train, task), rounds=24)
    before = evaluate(trainer.net, train, task, with_baselines=True)
    assert before["model"]["psnr"] == pytest.approx(before["interpolated"]["psnr"], abs=1e-3)
    losses = [trainer.run_epoch().loss for _ in range(24)]
    after = evaluate(trainer.net, train, task)
    assert losses[-1] < losses[0]
    assert after["model"]["psnr"] > before["model"]["psnr"] + 0.3


def test_the_same_seed_gives_the_same_weights(train, task):
    trainers = [Trainer(task, PatchSampler(train, task), rounds=2) for _ in range(2)]
    for trainer in trainers:
        trainer.run_epoch()
    assert same(trainers[0].net, trainers[1].net)


def test_a_restart_between_rounds_changes_nothing(train, task, tmp_path):
    """Optimiser, schedule, epoch and weights go through a file, as when the simulator restarts a site."""
    straight = Trainer(task, PatchSampler(train, task), rounds=4)
    for _ in range(4):
        straight.run_epoch()
    interrupted = Trainer(task, PatchSampler(train, task), rounds=4)
    for _ in range(4):
        interrupted.run_epoch()
        torch.save(interrupted.state_dict(), tmp_path / "state.pt")
        interrupted = Trainer(task, PatchSampler(train, task), rounds=4)
        interrupted.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(straight.net, interrupted.net)


def test_the_learning_rate_warms_up_and_falls_over_all_rounds(train, task):
    trainer = Trainer(task, PatchSampler(train, task), rounds=3)
    rates = []

    class Recorder(Algorithm):
        def gradients_ready(self, net):
            rates.append(trainer.optimizer.param_groups[0]["lr"])

    trainer.hooks.append(Recorder())
    for _ in range(3):
        trainer.run_epoch()
    assert len(rates) == 3 * trainer.sampler.steps_per_epoch
    assert rates[0] < rates[1] < rates[2] == pytest.approx(task.learning_rate)
    assert all(a > b for a, b in pairwise(rates[2:]))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(task.final_learning_rate)


def test_one_step_is_the_optimiser_step_by_hand(train, task):
    low, high = next(PatchSampler(train, task).epoch(0))
    loss = WeightedSum(task.loss)
    nets = [build(**task.network) for _ in range(2)]
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizers[0], 1.0)
    progress = fit(nets[0], [(low, high)], loss, optimizer=optimizers[0], schedule=schedule, clip_norm=1e9)
    value = loss(nets[1](low), high)
    value.backward()
    optimizers[1].step()
    assert progress.steps == 1
    assert progress.loss == pytest.approx(value.item(), rel=1e-5)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_hooks_change_the_loss_and_the_gradients(train, task):
    class Freeze(Algorithm):
        def add_loss(self, net, loss):
            return loss + 1.0

        def gradients_ready(self, net):
            for p in net.parameters():
                p.grad.zero_()

    plain, hooked = (
        Trainer(task, PatchSampler(train, task), rounds=1),
        Trainer(task, PatchSampler(train, task), rounds=1, hooks=[Freeze()]),
    )
    initial = build(**task.network)
    losses = [t.run_epoch().loss for t in (plain, hooked)]
    assert losses[1] == pytest.approx(losses[0] + 1, abs=0.2)
    assert same(hooked.net, initial)
    assert not same(plain.net, initial)


def test_training_stops_within_a_step(train, task):
    trainer = Trainer(task, PatchSampler(train, task), rounds=1)
    answers = iter([False, False, True])
    progress = trainer.run_epoch(lambda: next(answers))
    assert (progress.steps, progress.stopped) == (2, True)


def test_a_diverged_loss_is_an_error(train, task):
    trainer = Trainer(task, PatchSampler(train, task), rounds=1)
    torch.nn.init.constant_(trainer.net.tail.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="learning_rate"):
        trainer.run_epoch()


def test_super_resolve_equals_one_forward_pass_and_crops(task):
    net = build(**task.network)
    torch.nn.init.normal_(net.tail.weight, std=0.1)
    low = torch.rand(700, 23, 24)  # several batches
    output = super_resolve(net, low, (45, 48))
    assert output.shape == (700, 45, 48)
    expected = net(low[-1:, None])[0, 0, :45].clamp_min(0)
    assert torch.allclose(output[-1], expected, atol=1e-5)
    with torch.no_grad():
        batches = [net(part.unsqueeze(1).contiguous(memory_format=torch.channels_last)) for part in low.split(118)]
    assert torch.equal(output, torch.cat(batches)[:, 0, :45].clamp_min(0))


def test_baselines_are_those_of_physics(volumes, task):
    volume = volumes[-1]
    height, width = volume.hr.shape[1:]
    images = task.baselines(volume)
    assert torch.equal(images["zero_filled"], zero_filled_acquisition(volume.hr, 2))
    bicubic = interpolate(volume.lr[:, None], 2)[:, 0, :height, :width].clamp_min(0)
    assert torch.equal(images["interpolated"], bicubic)
    result = evaluate(build(**task.network), [volume], task, with_baselines=True)
    assert result["zero_filled"]["psnr"] == psnr(images["zero_filled"], volume.hr)
    assert result["n_volumes"] == 1


def test_evaluation_can_be_stopped(volumes, task):
    with pytest.raises(InterruptedError):
        evaluate(build(**task.network), volumes, task, should_stop=lambda: True)


def test_a_round_is_its_epochs_with_the_hooks_around(train, task):
    calls = []

    class Recorder(Algorithm):
        def round_started(self, net):
            calls.append("started")

        def round_finished(self, net, steps):
            calls.append(steps)

    task = dataclasses.replace(task, local_epochs=3)
    by_round = Trainer(task, PatchSampler(train, task), rounds=2, hooks=[Recorder()])
    by_epoch = Trainer(task, PatchSampler(train, task), rounds=2)
    progress = by_round.run_round(epoch_done=lambda number, epoch: calls.append((number, epoch.steps)))
    epochs = [by_epoch.run_epoch() for _ in range(3)]
    n = by_round.sampler.steps_per_epoch
    assert calls == ["started", (0, n), (1, n), (2, n), 3 * n]
    assert progress.steps == 3 * n
    assert progress.loss == epochs[-1].loss
    assert same(by_round.net, by_epoch.net)
    calls.clear()
    assert by_round.run_round(should_stop=lambda: True).stopped
    assert calls == ["started"]


def test_training_in_16_bits_ends_near_training_in_32(train, task):
    """The interpolation that the network starts from is not rounded, so the result is as good."""
    nets = {}
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(dataclasses.replace(task, precision=precision), PatchSampler(train, task), rounds=2)
        for _ in range(2):
            trainer.run_epoch()
        nets[precision] = trainer.net
    exact, rounded = (evaluate(net, train, task)["model"]["psnr"] for net in nets.values())
    assert same(*nets.values()) is not has_bfloat16(torch.device("cpu"))
    assert rounded == pytest.approx(exact, abs=0.05)


def test_an_untrained_network_interpolates_in_32_bits_under_autocast(task):
    net, low = build(**task.network), torch.rand(2, 1, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(low)
    assert torch.allclose(output, interpolate(low, 2), atol=1e-6)


def test_the_last_round_gives_the_averaged_weights(train, task):
    plain, averaging = (
        Trainer(dataclasses.replace(task, ema_decay=decay), PatchSampler(train, task), rounds=2) for decay in (0, 0.9)
    )
    expected, number = {}, 0

    class ByHand(Algorithm):
        def gradients_ready(self, net):
            nonlocal number
            if averaging.optimizer.state:  # a step was made: these are the weights after it
                decay = min(0.9, (1 + number) / (10 + number)) if number else 0
                for name, value in net.state_dict().items():
                    expected[name] = decay * expected[name] + (1 - decay) * value if number else value.clone()
                number += 1

    averaging.hooks.append(ByHand())
    for _ in range(2):
        plain.run_epoch()
        averaging.run_epoch()
        if averaging.epoch == 1:
            assert all(torch.equal(v, averaging.net.state_dict()[k]) for k, v in averaging.result().items())
            state = copy.deepcopy(averaging.state_dict() | {"hooks": []})
    averaging.hooks[-1].gradients_ready(averaging.net)
    assert same(plain.net, averaging.net)
    for name, value in averaging.result().items():
        assert torch.allclose(value, expected[name], atol=1e-6)
    assert not torch.equal(averaging.result()["head.weight"], averaging.net.state_dict()["head.weight"])
    resumed = Trainer(averaging.task, PatchSampler(train, task), rounds=2)
    resumed.load_state_dict(state)
    resumed.run_epoch()
    assert all(torch.equal(v, averaging.result()[k]) for k, v in resumed.result().items())


def test_averaging_is_refused_where_the_network_is_not_shared(train, task):
    task_of_one = dataclasses.replace(task, algorithm={"name": "local"}, ema_decay=0.9)
    with pytest.raises(ValueError, match="ema_decay averages the shared network"):
        make_trainer(task_of_one, PatchSampler(train, task), rounds=1)
    with pytest.raises(ValueError, match="ema_decay is 1"):
        dataclasses.replace(task, ema_decay=1)
    with pytest.raises(ValueError, match="precision is 'float16'; it must be auto, float32 or bfloat16"):
        dataclasses.replace(task, precision="float16")
