import copy
import subprocess
import sys

import pytest
import torch

from fedmr.nets import build
from fedmr.utils.optimizers import OPTIMIZERS

OF_TORCH = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
TRAIN = """
import sys
from fedmr.nets import build
from fedmr.utils.optimizers import OPTIMIZERS
import torch
for make in OPTIMIZERS.values():
    net = build("mscan", channels=4, blocks=1)
    optimizer = make(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    optimizer.zero_grad()
    net(torch.rand(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""


def steps(make, count, state=None):
    """Weights after steps on made-up gradients, and the optimiser."""
    net = build("mscan", channels=8, blocks=1)
    optimizer = make(net.parameters(), lr=1e-2)
    if state:
        optimizer.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        optimizer.zero_grad()
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]), optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch(name):
    torch.testing.assert_close(steps(OPTIMIZERS[name], 5)[0], steps(OF_TORCH[name], 5)[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_goes_on_from_a_state_of_torchs_optimiser(name):
    state = steps(OF_TORCH[name], 3)[1].state_dict()
    ours, theirs = (steps(make, 2, copy.deepcopy(state))[0] for make in (OPTIMIZERS[name], OF_TORCH[name]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_a_step_keeps_no_graph():
    _, optimizer = steps(OPTIMIZERS["adam"], 1)
    assert not any(value.requires_grad for state in optimizer.state.values() for value in state.values())


@pytest.mark.e2e
def test_training_does_not_import_torchs_compiler():
    assert subprocess.run([sys.executable, "-c", TRAIN], check=False).returncode == 0
