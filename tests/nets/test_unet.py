import pytest
import torch

from fedmr.algorithms.base import Algorithm
from fedmr.nets import build, count_parameters, title
from fedmr.nets.unet import pooled
from fedmr.training.engine import fit

SMALL = {"channels": 4, "pools": 2}


def test_paper_size_is_that_of_fastmri():
    """7.76 million parameters (Zbontar et al.); counted layer by layer as the paper describes it."""
    net = build("unet")
    expected, width_in = 0, 1
    for width in (32, 64, 128, 256, 512):  # two convolutions without bias each
        expected += 9 * width_in * width + 9 * width * width
        width_in = width
    for width in (256, 128, 64, 32):  # upsampling, then two convolutions on twice the width
        expected += 4 * 2 * width * width + 9 * 2 * width * width + 9 * width * width
    expected += 32 + 1
    assert count_parameters(net) == expected == 7_756_097
    assert title({"name": "unet"}) == "U-Net"


@pytest.mark.parametrize("size", [(32, 32), (45, 33), (47, 64), (63, 50)])
def test_every_size_gives_an_image_of_that_size(size):
    net = build("unet", channels=2)
    assert net(torch.rand(2, 1, *size)).shape == (2, 1, *size)


def test_with_the_skip_an_untrained_network_changes_nothing():
    image = torch.randn(2, 1, 33, 40)
    assert torch.equal(build("unet", skip=True, **SMALL)(image), image)
    assert not torch.allclose(build("unet", **SMALL)(image), image, atol=0.1)


def test_instances_of_a_batch_do_not_see_each_other():
    net = build("unet", **SMALL)
    images = torch.randn(3, 1, 32, 40)
    assert torch.allclose(net(images)[1:2], net(images[1:2]), atol=1e-5)
    assert not [name for name, _ in net.named_buffers()], "no running statistics"


def test_the_latent_is_the_bottleneck_pooled_to_two_by_two():
    assert build("unet").latent(torch.randn(3, 1, 64, 48)).shape == (3, 2048)
    net = build("unet", **SMALL)
    image = torch.randn(2, 1, 40, 48)
    bottleneck, levels = net.encode(image)
    assert bottleneck.shape == (2, 16, 10, 12)
    assert [level.shape[1:] for level in levels] == [(4, 40, 48), (8, 20, 24)]
    quarter = bottleneck[0, 3, :5, 6:].mean()
    assert net.latent(image)[0, 3 * 4 + 1].item() == pytest.approx(quarter.item(), abs=1e-6)


def test_a_training_hook_reaches_the_latent_of_the_batch_and_its_gradient_the_encoder():
    """What cross-site modelling needs: no second pass, and only the encoder learns from the latent."""

    class Aligned(Algorithm):
        def round_started(self, net):
            net.bottleneck.register_forward_hook(lambda module, given, output: setattr(self, "features", output))

        def add_loss(self, net, loss):
            return 0 * loss + pooled(self.features).square().mean()

    net = build("unet", **SMALL)
    hook, gradients = Aligned(), {}
    hook.round_started(net)
    hook.gradients_ready = lambda net: gradients.update(
        {name: float(p.grad.abs().sum()) for name, p in net.named_parameters()}
    )
    batch = torch.randn(2, 1, 33, 32), torch.randn(2, 1, 33, 32)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    latent = net.latent(batch[0])
    progress = fit(net, [batch], torch.nn.L1Loss(), optimizer=optimizer, schedule=schedule, hooks=[hook])
    assert progress.loss == pytest.approx(latent.square().mean().item(), rel=1e-5)
    encoder = ("down.", "bottleneck.")
    assert all((gradient > 0) == name.startswith(encoder) for name, gradient in gradients.items())
