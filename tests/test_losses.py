import pytest
import torch

from fedmr.losses import WeightedSum, charbonnier, l1, spatial_gradient_profile


def pair(seed: int = 0, size: tuple[int, int] = (20, 15)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, 1, *size, generator=generator).unbind(0)


def test_sgp_is_zero_on_identical_images_and_positive_otherwise():
    a, b = pair()
    assert spatial_gradient_profile(b, b).item() == pytest.approx(0, abs=1e-6)
    assert 0 < spatial_gradient_profile(a, b) < 2
    assert spatial_gradient_profile(1 - b, b) > 1.8  # gradients reversed: cosine near -1


@pytest.mark.parametrize("loss", [l1, charbonnier, spatial_gradient_profile])
def test_losses_do_not_change_when_the_batch_is_repeated(loss):
    a, b = pair()
    assert torch.allclose(loss(a.repeat(3, 1, 1, 1), b.repeat(3, 1, 1, 1)), loss(a, b))


def test_sgp_is_blind_to_contrast_but_not_to_texture():
    _, b = pair()
    assert spatial_gradient_profile(0.7 * b, b) < 1e-3
    assert spatial_gradient_profile(b.flip(-1), b) > 0.5


@pytest.mark.parametrize("level", [0.0, 1e-4, 1e-2, 1.0])
def test_sgp_gradient_is_finite_and_bounded_on_flat_and_noisy_images(level):
    a, b = pair()
    prediction = (0.5 + level * (a - 0.5)).requires_grad_()
    spatial_gradient_profile(prediction, 0.5 + level * (b - 0.5)).backward()
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad.abs().max() < 2


def test_sgp_skips_profiles_that_are_flat_in_the_target():
    target = torch.full((1, 1, 16, 16), 0.5)
    noisy = target + 0.1 * torch.rand(1, 1, 16, 16)
    assert spatial_gradient_profile(noisy, target) == 0


def test_sgp_by_hand():
    """A 1 x 3 image: the only profile is the row (and columns of one entry) of the x gradient."""
    prediction, target = torch.tensor([[[[0.0, 1.0, 1.0]]]]), torch.tensor([[[[0.0, 0.0, 1.0]]]])
    e = 1e-2
    row = 1 - e**2 / (1 + e**2)  # orthogonal profiles (1, 0) and (0, 1)
    column = 1 - e**2 / (e * (1 + e**2) ** 0.5)  # columns: 1 against 0 is empty, 0 against 1 counts
    assert spatial_gradient_profile(prediction, target).item() == pytest.approx((row + column) / 2, rel=1e-4)


def test_charbonnier_tends_to_l1():
    a, b = pair()
    assert charbonnier(a, b, 1e-9).item() == pytest.approx(l1(a, b).item(), rel=1e-5)
    assert charbonnier(b, b).item() == pytest.approx(1e-3, rel=1e-3)


def test_weighted_sum_adds_by_weight_and_refuses_nonsense():
    a, b = pair()
    total = WeightedSum({"l1": 2.0, "sgp": 0.1, "charbonnier": 0})(a, b)
    assert torch.allclose(total, 2 * l1(a, b) + 0.1 * spatial_gradient_profile(a, b))
    for weights, message in (({"l2": 1}, "l2 is unknown"), ({"sgp": 1}, "no pixel loss"), ({"l1": -1}, "negative")):
        with pytest.raises(ValueError, match=message):
            WeightedSum(weights)
