"""Training losses. Images are (N, 1, H, W) with intensities about [0, 1]; every loss is a mean, so it does not
change when the batch is repeated."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error of (N, 1, H, W) and (N, 1, H, W), a scalar in intensity units."""
    return (prediction - target).abs().mean()


def charbonnier(prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return the mean of sqrt(d^2 + epsilon^2), a smooth L1 (Charbonnier et al., ICIP 1994).

    Both images are (N, 1, H, W), about [0, 1]; the result is a scalar in intensity units.
    """
    return ((prediction - target).square() + epsilon**2).sqrt().mean()


def spatial_gradient_profile(prediction: Tensor, target: Tensor, epsilon: float = 1e-2) -> Tensor:
    """Spatial gradient profile (SGP) loss: 1 - cosine similarity of gradient-map profiles.

    For the x- and the y-gradient map, every row and every column is a profile; a (prediction) and b (target)
    are compared by (<a,b> + e^2) / (sqrt(|a|^2 + e^2) sqrt(|b|^2 + e^2)), the cosine after the constant e has
    been appended to both, averaged over all profiles with |b| >= e. So identical images give exactly 0 and the
    gradient stays bounded on flat regions, where the published form (spatial profile loss, Sarfraz et al., BMVC
    2019, arXiv 1908.00274) grows without limit. Almost blind to contrast: use it together with a pixel loss only.

    Args:
        prediction: (N, 1, H, W), about [0, 1]; computed in float32 whatever its type.
        target: (N, 1, H, W).
        epsilon: e, in intensity units.

    Returns:
        scalar in [0, 2]; 0 with zero gradient if every target profile is empty.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = prediction.float(), target.float()
        total = prediction.new_zeros(())
        count = prediction.new_zeros(())
        for axis in (-2, -1):
            a_map, b_map = prediction.diff(dim=axis), target.diff(dim=axis)
            for along in (-2, -1):
                a_norm = (a_map.square().sum(along) + epsilon**2).sqrt()
                b_square = b_map.square().sum(along)
                b_norm = (b_square + epsilon**2).sqrt()
                cosine = ((a_map * b_map).sum(along) + epsilon**2) / (a_norm * b_norm)
                used = b_square >= epsilon**2
                total = total + ((1 - cosine) * used).sum()
                count = count + used.sum()
        return total / count.clamp_min(1)


LOSSES: dict[str, Loss] = {"l1": l1, "charbonnier": charbonnier, "sgp": spatial_gradient_profile}
SHAPE_ONLY = {"sgp"}  # says nothing about the intensity, so it cannot stand alone


class WeightedSum(nn.Module):
    """Sum of losses by weights, e.g. ``{"l1": 1.0, "sgp": 0.05}``; weight 0 switches a term off.

    Args:
        weights: by name, at least 0.
        others: further losses by name, which a task names by class path.

    Raises:
        ValueError: unknown loss, negative weight, or no pixel loss with a positive weight.
    """

    def __init__(self, weights: Mapping[str, float], others: Mapping[str, Loss] | None = None) -> None:
        super().__init__()
        self.losses = LOSSES | dict(others or {})
        unknown = sorted(set(weights) - set(self.losses))
        if unknown:
            raise ValueError(f"loss {', '.join(unknown)} is unknown; known are {sorted(LOSSES)}, or give a class path")
        if any(weight < 0 for weight in weights.values()):
            raise ValueError(f"loss weights {dict(weights)} must not be negative")
        self.terms = {name: float(weight) for name, weight in weights.items() if weight > 0}
        if not set(self.terms) - SHAPE_ONLY:
            raise ValueError(f"loss weights {dict(weights)} hold no pixel loss; add l1 or charbonnier")

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Map (N, 1, H, W) twice to the weighted sum, a scalar."""
        parts = [weight * self.losses[name](prediction, target) for name, weight in self.terms.items()]
        return torch.stack(parts).sum()
