"""Networks by class path: of MONAI and of the user's own, for super-resolution and reconstruction."""

import sys

import pytest
import torch

from fedmr.nets import build, title
from fedmr.nets.wrapped import Wrapped
from fedmr.physics.degradation import interpolate
from fedmr.tasks.registry import build_task
from fedmr.tasks.super_resolution import super_resolve
from fedmr.utils import class_path

CONVOLUTION = {"name": "conv_0", "n_features": 4, "kernel_size": 3}
SMALL = {
    "AttentionUnet": {"channels": [4, 8], "strides": [2]},
    "AutoEncoder": {"channels": [4, 8], "strides": [2, 1]},
    "BasicUNet": {"features": [4, 4, 8, 8, 8, 4]},
    "DynUNet": {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]},
    "HighResNet": {
        "norm_type": "instance",
        "layer_params": [CONVOLUTION] * 2,
    },
    "MedNeXt": {
        "init_filters": 4,
        "encoder_expansion_ratio": 2,
        "decoder_expansion_ratio": 2,
        "bottleneck_expansion_ratio": 2,
    },
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "UNet": {"channels": [4, 8], "strides": [2]},
}
OWN = """
from torch import nn
class Sharper(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))
    def forward(self, image):
        return self.layers(image)
class Enlarges(nn.Module):
    def __init__(self, scale, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, scale**2, 3, padding=1), nn.PixelShuffle(scale))
    def forward(self, image):
        return self.layers(image)
class Halves(nn.Module):
    def forward(self, image):
        return image[..., ::2]
class Lists(nn.Module):
    def forward(self, image):
        return [image]
"""


def monai(name, **args):
    return {"_target_": f"monai.networks.nets.{name}", **SMALL[name], **args}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.setattr(class_path, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    class_path.allow_folder(tmp_path)
    return lambda name, **args: {"_target_": f"own_networks.{name}", **args}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_monai_starts_at_the_interpolation_and_can_learn(name):
    net = build(**monai(name, scale=2, seed=1))
    low = torch.rand(2, 1, 13, 17, generator=torch.Generator().manual_seed(0))
    output = net(low)
    assert torch.allclose(output, interpolate(low, 2), atol=1e-6)  # other memory format
    loss = (output - torch.rand(output.shape)).square().mean()
    loss.backward()
    assert net.gain.grad.abs() > 0
    with torch.no_grad():
        net.gain += 0.1
    moved = net(low)
    assert not torch.equal(moved, output)
    moved.square().mean().backward()
    gradients = [p.grad for p in net.net.parameters() if p.grad is not None]  # heads for deep supervision have none
    assert len(gradients) > len(list(net.net.parameters())) / 2
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("grid", ["pixel0", "half"])
def test_the_interpolation_is_on_the_grid_of_the_task(grid):
    low = torch.rand(1, 1, 9, 11)
    output = build(**monai("UNet", scale=3, grid=grid))(low)
    assert torch.allclose(output, interpolate(low, 3, grid), atol=1e-6)


def test_for_reconstruction_the_network_starts_at_the_zero_filled_image():
    image = torch.randn(2, 1, 37, 40)
    assert torch.equal(build(**monai("UNet"))(image), image)


def test_a_task_takes_slices_of_any_size_through_the_wrapper():
    net = build(**monai("UNet", scale=2))
    assert super_resolve(net, torch.rand(3, 20, 23), (39, 45)).shape == (3, 39, 45)


def test_the_seed_makes_the_weights_and_the_global_random_state_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [build(**monai("SegResNet", scale=2, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_network_of_the_users_own_is_wrapped_and_one_that_enlarges_is_left(own):
    assert isinstance(build(**own("Sharper", scale=2, width=3)), Wrapped)
    net = build(**own("Enlarges", scale=3))
    assert not isinstance(net, Wrapped)
    assert net(torch.rand(1, 1, 5, 6)).shape == (1, 1, 15, 18)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"_target_": "own_networks.Halves", "scale": 2}, r"\(1, 1, 64, 32\) of an image of \(1, 1, 64, 64\)"),
        ({"_target_": "own_networks.Lists", "scale": 2}, "makes list"),
        ({"_target_": "own_networks.Sharper", "depth": 2}, "does not take the arguments"),
        ({"_target_": "own_networks.Absent"}, "cannot be imported"),
        ({"_target_": "torch.optim.SGD"}, "no torch.nn"),
        ({"_target_": "own_networks.Sharper", "name": "mscan"}, "task.network = null"),
    ],
)
def test_what_is_no_network_for_this_is_named(own, network, message):
    with pytest.raises(ValueError, match=message):
        build(**network)


def test_a_task_names_the_network_by_its_class(task):
    network = monai("SegResNet", scale=2)
    made = build_task(task.to_dict() | {"network": network})
    assert title(made.network) == "SegResNet"
    for wrong in ({}, {**network, "name": "mscan"}):
        with pytest.raises(ValueError, match="either 'name' or '_target_'"):
            build_task(task.to_dict() | {"network": {"scale": 2, **wrong}})
    with pytest.raises(ValueError, match="expressions"):
        build_task(task.to_dict() | {"network": {**network, "act": "$exec('')"}})
