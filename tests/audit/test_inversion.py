import pytest
import torch

from fedmr.audit.inversion import LinearAttack, crafted_weights, gradient_from_adam, match_gradients, to_flat
from fedmr.losses import WeightedSum
from fedmr.metrics import psnr
from fedmr.nets.mscan import MSCAN
from fedmr.training.engine import fit

P = 8


@pytest.fixture(scope="module")
def net() -> MSCAN:
    return MSCAN(2, channels=16, blocks=2)


@pytest.fixture(scope="module")
def attack(net: MSCAN) -> LinearAttack:
    net.load_state_dict(crafted_weights(net, 1.0))
    return LinearAttack(net, P)


def patch(seed: int = 1, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 1, P, P, generator=generator)
    return low, torch.rand(count, 1, 2 * P, 2 * P, generator=generator)


def update(net: MSCAN, batch, kind: str, rate: float = 1e-3) -> torch.Tensor:
    """One step of a site's training loop under the hostile server's weights, with its loss and its clipping."""
    net.load_state_dict(crafted_weights(net, {"SGD": 1.0, "Adam": 1e-6}[kind]))
    before = to_flat(net.parameters())
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    fit(net, [batch], WeightedSum({"l1": 1, "sgp": 0.005}), optimizer=optimizer, schedule=schedule, clip_norm=0.5)
    return to_flat(net.parameters()) - before


def best(attack: LinearAttack, gradient: torch.Tensor, low: torch.Tensor) -> float:
    return max(psnr(guess[0], low[0]) for guess in attack.recover(gradient))


def test_a_hostile_server_recovers_the_patch_from_a_step_of_sgd(net, attack):
    low, high = patch()
    assert best(attack, -update(net, (low, high), "SGD"), low) > 50


def test_a_hostile_server_recovers_the_patch_from_a_step_of_adam(net, attack):
    low, high = patch()
    assert best(attack, gradient_from_adam(update(net, (low, high), "Adam"), 1e-3), low) > 40


def test_of_several_patches_only_their_mean_is_recovered(net, attack):
    low, high = patch(count=4)
    assert best(attack, -update(net, (low, high), "SGD"), low.mean(dim=0, keepdim=True)) > 50


def test_what_a_filter_withholds_is_taken_as_unknown_not_as_zero(net, attack):
    low, high = patch()
    sent = update(net, (low, high), "SGD")
    withheld = torch.rand(sent.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    assert best(attack, -sent.masked_fill(withheld, 0), low) > 50


def test_huge_noise_leaves_nothing(net, attack):
    low, high = patch()
    sent = update(net, (low, high), "SGD")
    noise = torch.randn(sent.shape, generator=torch.Generator().manual_seed(0))
    flat = psnr(low[0].mean().expand_as(low[0]), low[0])
    assert best(attack, -(sent + 100 * sent.norm() * noise), low) < flat + 1


def test_the_gradient_comes_back_from_adams_first_step():
    gradient = torch.tensor([3e-8, -1e-8, 2e-9, 0.0])
    weights = torch.zeros(4, requires_grad=True)
    weights.grad = gradient.clone()
    torch.optim.Adam([weights], lr=0.1).step()
    assert torch.allclose(gradient_from_adam(weights.detach(), 0.1).float(), gradient, rtol=1e-3, atol=0)


def test_gradients_of_a_linear_network_are_matched():
    """One weight per pixel, and a slope that is the same everywhere: the gradient is the patch."""

    class Gain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, 1, P, P))
            self.bias = torch.nn.Parameter(torch.zeros(1, 1, P, P))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight + self.bias

    net, (low, _) = Gain(), patch()
    gradient = torch.cat([low.flatten(), torch.ones(P * P)])
    found = match_gradients(net, gradient, (1, 1, P, P), iterations=300, smoothness=0)
    found = found * (low.norm() / found.norm())  # a cosine does not tell the scale
    assert psnr(found[0], low[0]) > 20


def test_a_network_that_the_attack_is_not_made_for_is_refused():
    with pytest.raises(ValueError, match="scales chain, not parallel"):
        crafted_weights(MSCAN(2, channels=8, blocks=1, scales="parallel"), 1.0)
