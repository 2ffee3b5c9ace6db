"""The loop of MONAI's trainer against a plain one in torch."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from fedmr.algorithms.fedprox import FedProx
from fedmr.losses import WeightedSum
from fedmr.nets import build
from fedmr.tasks.patches import PatchSampler, load_volumes
from fedmr.training.engine import fit
from fedmr.training.trainer import Trainer

STEPS = 144


def plainly(task, sampler, rounds, mu):
    """Weights and loss of the last epoch by a loop of a few lines, without MONAI."""
    net, loss_function = build(**task.network), WeightedSum(task.loss)
    start = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.Adam(net.parameters(), lr=task.learning_rate, fused=True)
    total = rounds * sampler.steps_per_epoch
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - task.warmup_steps, task.final_learning_rate)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (task.warmup_steps + 1), total_iters=task.warmup_steps)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], [task.warmup_steps])
    for number in range(rounds):
        losses = []
        for low, high in sampler.epoch(number):
            optimizer.zero_grad()
            loss = loss_function(net(low.contiguous(memory_format=torch.channels_last)), high)
            loss = (
                loss
                + mu
                / 2
                * torch.stack([(a - b).square().sum() for a, b in zip(net.parameters(), start, strict=True)]).sum()
                if mu
                else loss
            )
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), task.clip_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return net, sum(losses) / len(losses)


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_144_steps_end_in_the_weights_of_a_plain_loop(site, task, mu):
    task = dataclasses.replace(task, patches_per_slice=8, clip_norm=0.05)
    sampler = PatchSampler([v for v in load_volumes(site, task) if v.split == "train"], task)
    rounds = math.ceil(STEPS / sampler.steps_per_epoch)
    hook = FedProx(mu)
    trainer = Trainer(task, sampler, rounds=rounds, hooks=[hook] if mu else [])
    hook.round_started(trainer.net)
    stats = [trainer.run_epoch() for _ in range(rounds)]
    net, loss = plainly(task, sampler, rounds, mu)
    assert sum(each.steps for each in stats) >= STEPS
    assert stats[-1].loss == pytest.approx(loss, rel=1e-5)
    for name, value in net.state_dict().items():
        assert torch.equal(trainer.net.state_dict()[name], value), name


def test_no_batches_are_no_steps(task):
    net = build(**task.network)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    assert fit(net, [], WeightedSum(task.loss), optimizer=optimizer, schedule=schedule).steps == 0
