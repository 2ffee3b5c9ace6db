"""Loss, optimiser and schedule by class path: as torch's own, or refused by name."""

import dataclasses

import pytest
import torch
from torch import nn

from fedmr.losses import WeightedSum
from fedmr.training.parts import make_loss, make_optimizer, make_schedule

ADAMW = {"_target_": "torch.optim.AdamW", "weight_decay": 0.3}


def images(seed):
    return torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_a_class_adds_its_weight_times_its_value():
    a, b = images(0), images(1)
    both = make_loss({"l1": 0.5, "squares": {"_target_": "torch.nn.MSELoss", "weight": 2}})
    assert torch.allclose(both(a, b), 0.5 * (a - b).abs().mean() + 2 * nn.functional.mse_loss(a, b))
    assert torch.equal(make_loss({"l1": 1, "sgp": 0.1})(a, b), WeightedSum({"l1": 1, "sgp": 0.1})(a, b))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"mine": {"weight": 1}}, "loss mine.*_target_"),
        ({"mine": {"_target_": "torch.nn.MSELoss"}}, "loss mine.*weight"),
        ({"mine": {"_target_": "torch.nn.MSELoss", "weight": True}}, "loss mine"),
        ({"mine": {"_target_": "torch.nn.MSELoss", "weight": "1"}}, "loss mine"),
        ({"mine": {"_target_": "torch.nn.MSELoss", "weight": -1}}, "must not be negative"),
        ({"mine": {"_target_": "os.system", "weight": 1}}, "not allowed here"),
        ({"mine": {"_target_": "torch.optim.Adam", "weight": 1}}, "no torch.nn"),
        ({"mine": {"_target_": "torch.nn.MSELoss", "weight": 1, "reduction": "$os"}}, "refused"),
        ({"mine": 1}, "loss mine is unknown.*class path"),
    ],
)
def test_what_is_no_loss_is_refused_by_name(terms, message):
    with pytest.raises(ValueError, match=message):
        make_loss(terms)


def test_an_optimiser_by_class_path_steps_as_torchs_and_has_the_tasks_rate(task):
    task = dataclasses.replace(task, optimizer=ADAMW, learning_rate=0.02)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    pairs = [(ours, make_optimizer(task, ours.parameters()))]
    pairs.append((theirs, torch.optim.AdamW(theirs.parameters(), lr=0.02, weight_decay=0.3)))
    for net, optimizer in pairs:
        net(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1]),
        ({"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR"}, [1, 0.8536, 0.5, 0.1464]),  # T_max: the steps
        ({"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 2}, [1, 0.5, 0, 0.5]),
        ({}, [0.5, 1, 0.75, 0.25]),  # a step of warm-up, then the cosine
    ],
)
def test_a_schedule_is_as_torchs_over_all_steps(task, schedule, rates):
    task = dataclasses.replace(task, schedule=schedule, warmup_steps=1, learning_rate=1.0, final_learning_rate=0)
    optimizer = make_optimizer(task, nn.Linear(1, 1).parameters())
    course, seen = make_schedule(task, optimizer, 4), []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    assert seen == pytest.approx(rates, abs=1e-3)


@pytest.mark.parametrize("name", ["optimizer", "schedule"])
def test_a_mapping_without_a_class_is_refused_when_the_task_is_made(task, name):
    with pytest.raises(ValueError, match=f"{name}.*no '_target_'"):
        dataclasses.replace(task, **{name: {"lr": 1}})


def test_an_optimiser_cannot_take_another_rate_than_the_tasks_which_the_guard_knows(task):
    task = dataclasses.replace(task, optimizer=ADAMW | {"lr": 1.0})
    with pytest.raises(ValueError, match=r"optimizer sets lr.*leave it out"):
        make_optimizer(task, nn.Linear(1, 1).parameters())
