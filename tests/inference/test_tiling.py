import pytest
import torch
from torch import nn

from fedmr.inference import tiling as tiles
from fedmr.inference.tiling import CELL, FAST_ERROR, SliceNetwork, TileError
from fedmr.nets import NETWORKS, build
from fedmr.physics.degradation import interpolate
from fedmr.tasks.super_resolution import super_resolve
from fedmr.utils.precision import has_bfloat16

VARIANTS = [
    {"channels": 8, "blocks": 2},
    {"channels": 8, "blocks": 1, "attention": "softmax", "scales": "parallel", "grid": "half", "scale": 3},
    {"channels": 8, "blocks": 2, "attention": "none", "fuse_all": False, "scale": 4},
    {"channels": 8, "blocks": 1, "scales": "single"},
]


def mscan(**args):
    """A network whose output and attention depend on all of its layers."""
    net = build("mscan", **args)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "excite.weight" in name or "tail.weight" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * (3 if "excite" in name else 0.02))
    return net


class Pooled(nn.Module):
    """A network with the attention of RCAN, x2, whose features are pooled by a module."""

    def __init__(self, pool):
        super().__init__()
        self.head, self.tail, self.pool = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2), pool
        self.gain = nn.Conv2d(4, 4, 1)

    def forward(self, low):
        features = self.head(low)
        return nn.functional.pixel_shuffle(self.tail(features * self.gain(self.pool(features))), 2)


def image(*shape):
    """Dark on the left, so that a tile's own mean is far from the slice's."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    return values * torch.linspace(0, 1.5, shape[-1])


@pytest.mark.parametrize("args", VARIANTS, ids=str)
@pytest.mark.parametrize("side", [CELL, 2 * CELL])
def test_tiles_give_what_the_whole_slice_gives(args, side):
    net, scale = mscan(**args), args.get("scale", 2)
    low = image(2, 50, 75)
    whole = SliceNetwork(net, scale)(low)
    assert (SliceNetwork(net, scale, tile=side)(low) - whole).abs().max() < 1e-5
    fast = SliceNetwork(net, scale, tile=side, exact=False)(low)
    assert (fast - SliceNetwork(net, scale, exact=False)(low)).square().mean().sqrt() < FAST_ERROR


def test_the_test_would_see_attention_of_a_tile_instead_of_the_slice():
    net, low = mscan(channels=8, blocks=2), image(1, 50, 103)
    whole = SliceNetwork(net, 2)(low)
    part = SliceNetwork(net, 2)(low[..., :64])
    assert (part - whole[..., :128])[..., :64].abs().max() > 1e-4


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), lambda x: x.mean((-1, -2), keepdim=True)])
def test_pooling_of_other_networks_is_known(pool):
    net, low = Pooled(pool), image(1, 40, 75)
    whole = SliceNetwork(net, 2)(low)
    assert torch.allclose(whole, net(low.unsqueeze(1))[:, 0].clamp_min(0), atol=1e-6)
    assert (SliceNetwork(net, 2, tile=CELL)(low) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("pool", [lambda x: x.amax((2, 3), keepdim=True), nn.InstanceNorm2d(4)])
def test_a_network_that_tiles_would_change_is_refused(pool):
    net, low = Pooled(pool), image(1, 40, 75)
    SliceNetwork(net, 2)(low)
    with pytest.raises(TileError, match="gives another image in tiles"):
        SliceNetwork(net, 2, tile=CELL)(low)


PEERS = {
    "srcnn": {"channels": 8},
    "vdsr": {"channels": 8, "depth": 3},
    "edsr": {"channels": 8, "blocks": 1},
    "rcan": {"channels": 8, "groups": 2, "blocks": 1, "skip": True},
    "msrn": {"channels": 8, "blocks": 1},
    "span": {"channels": 8, "blocks": 1, "skip": True},
}


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"mscan", "unet"}))
def test_every_network_is_computed_in_tiles_without_seams(name):
    net, low = build(name, **PEERS[name]), image(1, 39, 75)
    if "skip" in PEERS[name]:
        nn.init.normal_([layer for layer in net.modules() if isinstance(layer, nn.Conv2d)][-1].weight, std=0.1)
    whole = SliceNetwork(net, 2)(low)
    assert (SliceNetwork(net, 2, tile=CELL)(low) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("args", VARIANTS, ids=str)
def test_whole_slices_are_what_training_evaluates(args):
    net, scale = mscan(**args), args.get("scale", 2)
    low = image(3, 33, 50) - 0.1
    expected = super_resolve(net, low, (scale * 33, scale * 50))
    assert (SliceNetwork(net, scale)(low) - expected).abs().max() < 1e-5
    assert (SliceNetwork(net, scale, exact=False)(low) - expected).square().mean().sqrt() < FAST_ERROR


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this CPU has no 16-bit arithmetic")
def test_16_bits_are_taken_only_where_they_are_precise_enough():
    net = mscan(channels=8, blocks=2)
    assert SliceNetwork(net, 2, exact=False).fast
    assert not SliceNetwork(net, 2).fast
    nn.init.normal_(net.tail.weight)  # a residual 50 times as large
    rough = SliceNetwork(net, 2, exact=False)
    assert not rough.fast
    assert torch.equal(rough(image(1, 20, 30)), SliceNetwork(net, 2)(image(1, 20, 30)))


def test_interpolation_never_runs_in_16_bits():
    low = image(2, 40, 50)
    net = build("mscan", channels=8, blocks=1)  # untrained, so interpolation is all it does
    result = SliceNetwork(net, 2, exact=False)(low)
    expected = interpolate(low.unsqueeze(1), 2)[:, 0].clamp_min(0)
    assert (result - expected).abs().max() < 1e-6


def test_tiles_are_taken_where_the_memory_is_small(monkeypatch):
    net, low = mscan(channels=8, blocks=1), image(1, 150, 170)
    whole = SliceNetwork(net, 2)(low)
    seen = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(max(inputs[0].shape[-2:])))
    margin = 2 * SliceNetwork(net, 2).reach
    need = 2 * SliceNetwork(net, 2)._bytes_per_pixel
    for pixels, side in ((150 * 170, 170), (150 * 170 - 1, 128 + margin), ((CELL + margin) ** 2, CELL + margin)):
        monkeypatch.setattr(tiles, "_free_memory", lambda device, pixels=pixels: (pixels + 0.5) * need)
        resolver = SliceNetwork(net, 2)
        assert (resolver(low) - whole).abs().max() < 1e-5
        del seen[:]
        assert torch.equal(resolver(low), resolver(low))
        assert max(seen) <= side
        assert (max(seen) == 170) == (side == 170)
    monkeypatch.setattr(tiles, "_free_memory", lambda device: need)
    with pytest.raises(TileError, match="150 x 170 need more memory than there is, even in tiles"):
        SliceNetwork(net, 2)(low)


@pytest.mark.parametrize("tile", [-32, 1, 50])
def test_a_tile_that_does_not_fit_the_raster_is_refused(tile):
    with pytest.raises(ValueError, match=f"tile is {tile}; it must be a multiple of 32"):
        SliceNetwork(build("mscan", channels=8, blocks=1), 2, tile=tile)
