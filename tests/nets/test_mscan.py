import itertools

import pytest
import torch

from fedmr.losses import WeightedSum
from fedmr.nets import build, count_parameters
from fedmr.nets.mscan import Fusion, ScaleAttention, spatial_mean
from fedmr.physics.degradation import interpolate

VARIANTS = list(itertools.product(("chain", "parallel", "single"), ("joint", "softmax", "none"), (True, False)))
SMALL = {"channels": 8, "blocks": 2}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(9, 14), (16, 16), (7, 11)])
def test_output_is_scale_times_larger_for_odd_sizes_too(scale, size):
    net = build("mscan", scale=scale, **SMALL)
    assert net(torch.rand(2, 1, *size)).shape == (2, 1, scale * size[0], scale * size[1])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("grid", ["pixel0", "half"])
def test_untrained_network_is_exactly_the_interpolation(scale, grid):
    net = build("mscan", scale=scale, grid=grid, **SMALL)
    low = torch.rand(2, 1, 12, 9)
    assert torch.allclose(net(low), interpolate(low, scale, grid), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scales", "attention", "fuse_all"), VARIANTS)
def test_every_ablation_trains_a_step(scales, attention, fuse_all):
    net = build("mscan", scale=2, scales=scales, attention=attention, fuse_all=fuse_all, **SMALL)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    loss = WeightedSum({"l1": 1.0, "sgp": 0.05})
    low, high = torch.rand(4, 1, 12, 12), torch.rand(4, 1, 24, 24)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        values.append(loss(net(low), high))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in net.parameters()), "a parameter gets no gradient"


def test_attention_starts_at_gain_one():
    with_attention = build("mscan", scale=2, attention="joint", **SMALL)
    without = build("mscan", scale=2, attention="none", **SMALL)
    without.load_state_dict(with_attention.state_dict(), strict=False)
    for net in (with_attention, without):
        torch.nn.init.constant_(net.tail.weight, 0.1)
    low = torch.rand(1, 1, 10, 10)
    assert torch.allclose(with_attention(low), without(low), atol=1e-5)


def test_averages_and_their_gradients_are_those_of_torch():
    features = torch.rand(2, 6, 5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(12.0).view(2, 6)
    averages, expected = spatial_mean(features), features.mean(dim=(2, 3))
    torch.testing.assert_close(averages, expected)
    gradients = [torch.autograd.grad((value * weights).sum(), features)[0] for value in (averages, expected)]
    torch.testing.assert_close(*gradients)


def test_gains_in_the_weights_of_the_fusion_are_gains_on_its_features():
    generator = torch.Generator().manual_seed(0)
    fuse = Fusion(12, 4)
    features = torch.rand(3, 12, 7, 5, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    gains = torch.rand(3, 12, generator=generator).requires_grad_()
    inputs = (features, gains, fuse.weight, fuse.bias)
    weighed = fuse(features, gains)
    expected = torch.nn.functional.conv2d(features * gains[:, :, None, None], fuse.weight, fuse.bias)
    torch.testing.assert_close(weighed, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(weighed.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fuse(features, torch.ones(3, 12)), fuse(features), rtol=1e-5, atol=1e-6)


def sizes_of_features(**args):
    """Root mean square after the head, after every convolution of the last of 8 blocks, and at the end of the body."""
    net = build("mscan", scale=2, channels=32, blocks=8, **args)
    seen = []
    for module in (net.head, *net.body[-1].convs, net.gather):
        module.register_forward_hook(
            lambda _, inputs, output: seen.append(output.detach().square().mean().sqrt().item())
        )
    net(2 * torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 1)
    return [size / seen[0] for size in seen]


@pytest.mark.parametrize("scales", ["chain", "parallel", "single"])
def test_start_he_keeps_the_size_of_the_features_through_a_deep_network(scales):
    assert all(0.5 < size < 2 for size in sizes_of_features(scales=scales, start="he"))


def test_start_torch_loses_the_features_of_the_widest_scale():
    assert sizes_of_features(start="torch")[3] < 0.2


def test_start_he_still_begins_as_the_interpolation_and_takes_part_in_the_seed():
    low = torch.rand(2, 1, 12, 9)
    one, two, other = (build("mscan", seed=s, scale=2, start="he", **SMALL) for s in (1, 1, 2))
    assert torch.allclose(one(low), interpolate(low, 2, "pixel0"), rtol=0, atol=1e-6)
    assert torch.equal(one.body[0].fuse.weight, two.body[0].fuse.weight)
    assert not torch.equal(one.body[0].fuse.weight, other.body[0].fuse.weight)


def test_start_torch_is_what_it_was():
    """Goldens and saved runs rest on it: without `start` nothing is drawn anew."""
    net = build("mscan", scale=2, **SMALL)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(net.head.weight, torch.nn.Conv2d(1, 8, 3, padding=1).weight)


def test_activate_is_a_leaky_relu_before_the_last_convolution_and_nothing_else():
    plain, active = (build("mscan", seed=1, scale=2, activate=choice, **SMALL) for choice in (False, True))
    seen = []
    for net in (plain, active):
        net.tail.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        net(torch.rand(2, 1, 12, 9, generator=torch.Generator().manual_seed(0)))
    assert (seen[0] < 0).any()
    assert torch.equal(torch.where(seen[0] < 0, 0.2 * seen[0], seen[0]), seen[1])


@pytest.mark.parametrize(
    ("scales", "choice"),
    [
        *(("chain", choice) for choice in ({"pooling": "contrast"}, {"preactivate": True}, {"activate_scales": True})),
        *((scales, {"pooling": "contrast"}) for scales in ("parallel", "single")),
    ],
)
def test_every_choice_of_a_block_changes_its_result_but_neither_start_nor_number_of_weights(choice, scales):
    low = torch.rand(2, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    plain, other = (build("mscan", seed=1, scale=2, scales=scales, **more, **SMALL) for more in ({}, choice))
    assert torch.allclose(other(low), interpolate(low, 2, "pixel0"), rtol=0, atol=1e-6)
    assert count_parameters(other) == count_parameters(plain)
    for net in (plain, other):
        torch.nn.init.normal_(net.tail.weight, generator=torch.Generator().manual_seed(1))
        torch.nn.init.normal_(net.body[0].attention.excite.weight, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(other(low), plain(low), rtol=0, atol=1e-4)


def test_contrast_pooling_sees_the_spread_of_a_feature():
    flat, busy = torch.ones(1, 24, 8, 8), torch.ones(1, 24, 8, 8)
    busy[..., ::2], busy[..., 1::2] = 0.5, 1.5
    for pooling, told_apart in (("mean", False), ("contrast", True)):
        attention = ScaleAttention(8, "joint", 4, pooling)
        torch.nn.init.normal_(attention.excite.weight, generator=torch.Generator().manual_seed(2))
        assert torch.allclose(attention(flat), attention(busy), atol=1e-2) is not told_apart


def test_paper_size_has_about_1_2_million_parameters_and_equal_width_without_scales():
    assert count_parameters(build("mscan", scale=2)) == 1_207_172
    assert count_parameters(build("mscan", scale=2, scales="single")) == 1_207_172


def test_seed_fixes_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (build("mscan", seed=s, scale=2, **SMALL).head.weight for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_weights_are_channels_last():
    assert build("mscan", scale=2, **SMALL).body[0].fuse.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mscam", {"scale": 2}, "mscam"),
        ("mscan", {"scale": 5}, "scale is 5"),
        ("mscan", {"scale": 2, "attention": "some"}, "attention is 'some'"),
        ("mscan", {"scale": 2, "start": "she"}, "start is 'she'"),
        ("mscan", {"scale": 2, "width": 3}, "width"),
    ],
)
def test_bad_arguments_name_the_value(name, args, message):
    with pytest.raises(ValueError, match=message):
        build(name, **args)
