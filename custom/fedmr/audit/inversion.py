"""Attacks that rebuild a training patch from a site's update, for the leakage audit.

Two attackers on the side of the server:

- A *curious* one sends the model as it is and looks at what comes back (`match_gradients`).
- A *hostile* one sends weights of its own making (`crafted_weights`), under which the gradient is a linear function of
  the patch, and solves that (`LinearAttack`). After Fowl et al., "Robbing the Fed" (ICLR 2022, arXiv 2110.13057), who
  add a layer for it, and Boenisch et al., "When the curious abandon honesty" (EuroS&P 2023, arXiv 2112.02918), who
  change weights only; here made for MSCAN, whose layers stay as they are.

Both look for the network's input, the low-resolution (LR) patch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedmr.nets.mscan import MSCAN

OFFSET = 100.0  # added to the prediction; no intensity comes near it
_LEVEL = 0.1  # added to the input, so that every ReLU is open
STRENGTHS = tuple(10.0**k for k in range(-13, 4))


def to_flat(parameters: Any) -> Tensor:
    """Concatenate all tensors of an iterable, each of any shape, into one vector (parameters,)."""
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def crafted_weights(net: MSCAN, slope: float, seed: int = 0) -> dict[str, Tensor]:
    """Return the weights of a hostile server, shaped as in the network.

    Every channel carries the input, shifted ever further towards a corner.

    Zero padding cuts off what is shifted out, so the gradient of a convolution, a mean over positions, is the sum of
    the input over some rectangle; the many pairs of channels and taps give so many rectangles that they determine each
    pixel. For this the loss must have a known gradient: the prediction is far above any image, so that the L1 loss has
    slope +1 everywhere, and a chequerboard, so that the gradient of the SGP loss vanishes. ReLUs stay open.

    Args:
        net: gives the sizes; a chain of scales is needed.
        slope: weight of the last layer, and so the size of the gradients. Under Adam it must keep them about its
            epsilon of 1e-8, else only their signs are sent.
        seed: of the shifts.

    Raises:
        ValueError: the network has no chain of scales.
    """
    if net.body[0].scales != "chain":
        raise ValueError(f"the audit's attack is made for MSCAN with scales chain, not {net.body[0].scales}")
    weights = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    channels = net.head.out_channels
    generator = torch.Generator().manual_seed(seed)
    e = torch.arange(channels // 2)  # the other half keeps what a block received, to take it off again
    corner = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])[e % 4]
    pace = torch.rand(len(e), 2, generator=generator) * 0.6 + 0.4
    pace[:4] = 1
    weights["head.weight"][e, 0, 1, 1] = 1
    weights["head.bias"][e] = _LEVEL
    for block in range(len(net.body)):
        prefix = f"body.{block}."
        weights[prefix + "convs.0.weight"][len(e) + e, e, 1, 1] = 1
        for layer in range(3):
            tap = 1 + corner * (torch.rand(len(e), 2, generator=generator) < pace)
            weights[prefix + f"convs.{layer}.weight"][e, e, tap[:, 0], tap[:, 1]] = 1
        weights[prefix + "fuse.weight"][e, len(e) + e, 0, 0] = -1
        weights[prefix + "fuse.weight"][e, 2 * channels + e, 0, 0] = 1
    last = (len(net.body) - 1) * channels if net.fuse_all else 0
    if net.fuse_all:
        weights["gather.0.weight"][e, last + e, 0, 0] = 1
    weights["gather.1.weight"][e, e, 1, 1] = 1
    weights["tail.weight"][:, e, 1, 1] = slope
    rows, columns = (torch.arange(factor) for factor in net.scale)
    weights["tail.bias"][:] = OFFSET * (1 + (rows[:, None] + columns) % 2).reshape(-1)
    return weights


class LinearAttack:
    """The gradient of a network with crafted weights as a matrix, and its inverse.

    Args:
        net: with `crafted_weights`; it is left as it is.
        patch_size: side of the LR patch in LR pixels.
        progress: called with columns done and all of them.
    """

    def __init__(
        self, net: MSCAN, patch_size: int, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.size = patch_size
        double = MSCAN(net.scale, **_arguments(net)).double()
        double.load_state_dict(net.state_dict())
        # the gradients of biases do not depend on the image: they tell the scale
        names = [name for name, _ in double.named_parameters() if ".convs." in name]
        used = [double.get_parameter(name) for name in names]
        # a change of a weight that is zero is sent without loss of digits
        self._rows = torch.cat(
            [
                (value == 0).reshape(-1) if name in names else torch.zeros(value.numel(), dtype=torch.bool)
                for name, value in double.named_parameters()
            ]
        )
        zero = to_flat(used) == 0

        def gradient(low: Tensor) -> Tensor:
            return to_flat(torch.autograd.grad(double(low).mean(), used))[zero]

        origin = gradient(torch.zeros(1, 1, patch_size, patch_size, dtype=torch.float64))
        seen = torch.nonzero(origin).squeeze(1)  # what was shifted out has no gradient
        self._rows = torch.nonzero(self._rows).squeeze(1)[seen]
        columns = []
        for number, pixel in enumerate(torch.eye(patch_size**2, dtype=torch.float64)):
            columns.append((gradient(pixel.view(1, 1, patch_size, patch_size)) - origin)[seen])
            progress(number + 1, patch_size**2)
        matrix = torch.stack([*columns, origin[seen]])
        self._matrix = matrix / matrix.norm()
        self._normal = self._matrix @ self._matrix.T

    def recover(self, gradient: Tensor, strengths: Sequence[float] = STRENGTHS) -> list[Tensor]:
        """Return LR patches (1, 1, p, p), of least roughness as weighed by each strength.

        Args:
            gradient: (parameters,) of any scale, or what is left of it: zeros are taken as withheld by a filter.
            strengths: of the penalty on the squared differences of neighbours.
        """
        values = gradient.double()[self._rows]
        sent = values != 0
        matrix, normal = self._matrix, self._normal
        if not sent.all():
            matrix, values = matrix[:, sent], values[sent]
            normal = matrix @ matrix.T
        product = matrix @ values
        penalty = torch.zeros_like(normal)
        penalty[:-1, :-1] = normal[:-1, :-1].diagonal().mean() * _roughness(self.size)
        patches = []
        for strength in strengths:
            # the last unknown, which multiplies what does not depend on the image, is the scale of the gradient
            solution = torch.linalg.lstsq(normal + strength * penalty, product[:, None]).solution[:, 0]
            level = solution[-1] if solution[-1].abs() > 0 else solution.new_ones(())
            patches.append((solution[:-1] / level).view(1, 1, self.size, self.size).float())
        return patches


def _arguments(net: MSCAN) -> dict[str, Any]:
    block: Any = net.body[0]
    attention = getattr(block.attention, "kind", "none")
    arguments = {"channels": net.head.out_channels, "blocks": len(net.body), "fuse_all": net.fuse_all}
    return arguments | {"grid": net.grid, "attention": attention}


def _roughness(size: int) -> Tensor:
    """(size^2, size^2): x^T R x is the sum of the squared differences of neighbours."""
    line = torch.eye(size, dtype=torch.float64)
    difference = line[1:] - line[:-1]
    return torch.kron(difference.T @ difference, line) + torch.kron(line, difference.T @ difference)


def gradient_from_adam(update: Tensor, learning_rate: float, epsilon: float = 1e-8) -> Tensor:
    """Return the gradient (parameters,) from the first step of Adam, -lr * g / (|g| + epsilon), of the same shape.

    Where |g| is far above epsilon only the sign is left; such values come back as the largest that can be told.
    """
    share = (-update.double() / learning_rate).clamp(-1 + 1e-6, 1 - 1e-6)
    return epsilon * share / (1 - share.abs())


def match_gradients(
    net: nn.Module,
    gradient: Tensor,
    shape: tuple[int, int, int, int],
    *,
    iterations: int,
    smoothness: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Inverting gradients (Geiping et al., NeurIPS 2020, arXiv 2003.14053): cosine, total variation, signed Adam.

    The target image is not looked for: all it does to the gradient is the slope of the loss at every pixel of the
    prediction, which is an unknown in [-1, 1] of its own (that of an L1 loss is a sign). Every layer counts alike.

    Args:
        net: the network that the server sent.
        gradient: (parameters,) of any scale.
        shape: (N, 1, p, p) of the LR patches.
        iterations: steps of the optimiser.
        smoothness: weight of the total variation.
        seed: of the start.
        progress: called with iterations done and all of them.

    Returns:
        LR patches.
    """
    parameters = list(net.parameters())
    parts = [g.view_as(p) for g, p in zip(gradient.split([p.numel() for p in parameters]), parameters, strict=True)]
    used = [(p, g / g.norm()) for p, g in zip(parameters, parts, strict=True) if g.norm() > 0]
    generator = torch.Generator().manual_seed(seed)
    low = (0.5 + 0.05 * torch.randn(shape, generator=generator)).requires_grad_()
    slope = (0.5 * torch.randn(net(low).shape, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [low], "lr": 0.02}, {"params": [slope], "lr": 0.08}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for number in range(iterations):
        guess = torch.autograd.grad(
            net(low), [p for p, _ in used], grad_outputs=torch.tanh(slope), create_graph=True, materialize_grads=True
        )
        mismatch = sum(1 - (g * t).sum() / (g.norm() + 1e-12) for g, (_, t) in zip(guess, used, strict=True))
        rough = low.diff(dim=-1).abs().mean() + low.diff(dim=-2).abs().mean()
        low.grad, slope.grad = (
            g.sign() for g in torch.autograd.grad(mismatch / len(used) + smoothness * rough, [low, slope])
        )
        optimizer.step()
        schedule.step()
        progress(number + 1, iterations)
    return low.detach().clamp_min(0)
