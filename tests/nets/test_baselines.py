import pytest
import torch
import torch.nn.functional as F
from pyhocon import ConfigFactory
from torch import nn

from fedmr.checkpoints.card import make_card
from fedmr.checkpoints.export import to_torchscript
from fedmr.checkpoints.model_file import Model
from fedmr.nets import build, count_parameters
from fedmr.physics.degradation import degrade, interpolate
from fedmr.tasks.registry import build_task
from phantoms import phantom

SMALL = {
    "srcnn": {"channels": 16},
    "vdsr": {"channels": 8, "depth": 3},
    "edsr": {"channels": 8, "blocks": 2},
    "rcan": {"channels": 8, "groups": 2, "blocks": 1},
    "msrn": {"channels": 8, "blocks": 2},
    "span": {"channels": 8, "blocks": 2},
}
UPSAMPLING_FIRST = ("srcnn", "vdsr")
MEAN_SHIFT = 2 * (3 * 3 + 3)  # fixed RGB layers at both ends, which the authors' counts include and we leave out


def small(name, skip=False, **args):
    """A small network; VDSR has a skip in any case."""
    return build(name, **SMALL[name], **args, **({"skip": skip} if name != "vdsr" else {}))


def convolutions(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


@pytest.fixture(scope="module")
def images():
    """LR and HR slice at x2 by k-space truncation: (1, 1, 24, 24) and (1, 1, 48, 48)."""
    high = torch.from_numpy(phantom(0, (48, 48, 1))).permute(2, 0, 1).unsqueeze(1).float()
    low = degrade(high, 2)
    return low / low.max(), high / low.max()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_output_is_scale_times_larger_for_odd_sizes_on_both_grids(name, scale):
    for grid in ("pixel0", "half"):
        net = small(name, scale=scale, grid=grid)
        for height, width in ((9, 14), (7, 11)):
            assert net(torch.rand(2, 1, height, width)).shape == (2, 1, scale * height, scale * width)


def weights(*layers):
    """Parameters of convolutions, each (kernel size, inputs, outputs)."""
    return sum(kernel**2 * inputs * outputs + outputs for kernel, inputs, outputs in layers)


MSRB = ((3, 64, 64), (5, 64, 64), (3, 128, 128), (5, 128, 128), (1, 256, 64))
MSRN_X2 = ((3, 3, 64), *8 * MSRB, (1, 9 * 64, 64), (3, 64, 64), (3, 64, 256), (3, 64, 3))
RGB_X4 = {"scale": 4, "in_channels": 3}
PUBLISHED = [
    # network, arguments, with biases, published number, its unit
    # Dong et al. 2016, section 4.3.2
    ("srcnn", {"mapping": 1}, False, 8_032, 1),
    ("srcnn", {"mapping": 3}, False, 24_416, 1),
    ("srcnn", {}, False, 57_184, 1),
    # J. Multimedia Inf. Syst. 8(2), 2021, page 101, table 3; Kim et al. give no number
    ("vdsr", {}, False, 665, 1_000),
    # Lim et al. 2017, table 1; to the last digit github.com/JiahuiYu/wdsr_ntire2018, issue 16, of one block at x2
    ("edsr", RGB_X4, True, 15, 100_000),
    ("edsr", {"blocks": 1, "in_channels": 3}, True, 262_043 - MEAN_SHIFT, 1),
    # benchmark table of github.com/the-database/traiNNer-redux; 16 M in Zhang et al. 2018
    ("rcan", RGB_X4 | {"groups": 10, "blocks": 20}, True, 15_592_379 - MEAN_SHIFT, 1),
    # the layers of the authors' code, github.com/MIVRC/MSRN-PyTorch
    ("msrn", {"in_channels": 3}, True, weights(*MSRN_X2), 1),
    # Wan et al. 2024, of the folded network: github.com/hongyuanyu/SPAN, issue 12
    ("span", RGB_X4, True, 426, 1_000),
]


@pytest.mark.parametrize(("name", "args", "biases", "published", "unit"), PUBLISHED)
def test_parameters_are_as_many_as_published(name, args, biases, published, unit):
    net = build(name, **args)
    count = count_parameters(net) if biases else sum(layer.weight.numel() for layer in convolutions(net))
    assert round(count / unit) == published


@pytest.mark.parametrize(
    ("name", "args", "published"),
    [
        ("srcnn", {"mapping": 1}, 13),  # Dong et al. 2016: 9-1-5 sees 13 x 13 pixels
        ("srcnn", {}, 17),
        ("vdsr", {}, 41),  # Kim et al. 2016, section 3.1: (2 * 20 + 1)^2
    ],
)
def test_receptive_field_of_networks_that_upsample_first_is_the_published_one(name, args, published):
    net = build(name, **args)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.01)  # nothing cancels, no ReLU is closed
    image = torch.ones(1, 1, 61, 61, requires_grad=True)
    net.layers(image)[0, 0, 30, 30].backward()
    rows = image.grad[0, 0].abs().sum(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == published


@pytest.mark.parametrize("grid", ["pixel0", "half"])
@pytest.mark.parametrize("name", UPSAMPLING_FIRST)
def test_networks_that_upsample_first_start_from_the_interpolation_on_the_grid(name, grid):
    net = small(name, scale=3, grid=grid)
    seen = []
    net.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    low = torch.rand(2, 1, 9, 12)
    net(low)
    assert torch.allclose(seen[0], interpolate(low, 3, grid), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grid", ["pixel0", "half"])
@pytest.mark.parametrize("name", SMALL)
def test_untrained_network_with_skip_is_exactly_the_interpolation(name, grid):
    low = torch.rand(2, 1, 12, 9)
    for scale in (2, 3, 4):
        net = small(name, skip=True, scale=scale, grid=grid)
        if name == "vdsr":  # its last layer starts like the others
            nn.init.zeros_(convolutions(net)[-1].weight)
        assert torch.allclose(net(low), interpolate(low, scale, grid), rtol=0, atol=1e-6)


def test_channels_are_interpolated_each_by_itself():
    net = small("edsr", skip=True, in_channels=3)
    low = torch.rand(2, 3, 9, 12)
    assert torch.allclose(net(low)[:, 1:2], interpolate(low[:, 1:2], 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "rcan"])  # its attention sees the whole slice
def test_a_shift_of_the_image_shifts_the_output(name):
    net = small(name, scale=2)
    low = torch.rand(1, 1, 48, 48)
    shifted = net(torch.roll(low, (1, 2), dims=(2, 3)))
    expected = torch.roll(net(low), (2, 4), dims=(2, 3))
    inner = (..., slice(40, -40), slice(40, -40))  # further from the border than any of these networks sees
    assert torch.allclose(shifted[inner], expected[inner], atol=1e-5)
    assert not torch.allclose(shifted, expected, atol=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name, skip, images):
    net, (low, high) = small(name, skip), images
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(3):  # under a last layer of zeros the others get theirs from the second step on
        optimizer.zero_grad()
        F.l1_loss(net(low), high).backward()
        optimizer.step()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_training_with_skip_beats_the_interpolation(name, images):
    net, (low, high) = small(name, skip=True), images
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.l1_loss(net(low), high).backward()
        optimizer.step()
    # a bias alone, where every ReLU is closed, gets to 0.978
    assert F.l1_loss(net(low), high) < 0.97 * F.l1_loss(interpolate(low, 2), high)


def test_weights_start_as_published():
    srcnn, vdsr = build("srcnn", deviation=0.001), build("vdsr")
    for layer in convolutions(srcnn):
        assert layer.weight.std().item() == pytest.approx(1e-3, rel=0.1)
    for layer in convolutions(vdsr):
        he = (2 / (layer.in_channels * 9)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(he, rel=0.15)
    assert not any(layer.bias.any() for layer in convolutions(srcnn) + convolutions(vdsr))


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("name", SMALL)
def test_any_network_runs_as_a_task_and_can_be_exported(name):
    text = f"network {{ name = {name}, scale = 2, grid = pixel0, seed = 1 }}"
    task = build_task(ConfigFactory.parse_string(text).as_plain_ordered_dict())
    assert build(**task.network).scale == (2, 2)
    assert to_torchscript(Model(small(name), make_card(task)))  # which checks that it agrees


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("srcnn", {"scale": 5}, "SRCNN: scale is 5; known are 1, 2, 3, 4"),
        ("span", {"grid": "middle"}, "SPAN: grid is 'middle'"),
        ("vdsr", {"skip": False}, "skip"),  # it is part of the network
        ("edsr", {"width": 3}, "network 'edsr' does not take .*width"),
    ],
)
def test_bad_arguments_name_the_value(name, args, message):
    with pytest.raises(ValueError, match=message):
        build(name, **args)
