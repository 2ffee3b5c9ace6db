"""DP-SGD (Abadi et al., CCS 2016): training whose every step is differentially private, for a slice or a patient.

A unit's gradient is that of its own loss over its own patches, so no other unit has a part in it, whatever the loss.
It is clipped as one to norm C; a step takes the sum over the drawn units, adds Gaussian noise of deviation
noise_multiplier * C and divides by the *expected* number of units. Adding or removing one unit changes the sum by at
most C: that is the neighbourhood which Opacus' accountant, told the true sampling rate, states epsilon for. All that
follows (Adam, the weights, what is sent) is made from noised gradients and has the same epsilon.

Every unit takes a backward pass of its own, about as dear per patch as ordinary training, and right for every layer and
loss. Opacus' own GradSampleModule was a quarter slower, needs a loss that is a mean over patches, which `sgp` is not,
and, in 1.6.0, gives wrong gradients without a word for convolutions whose input is channels_last, as ours is.
"""

import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmr.privacy.accountant import Steps, check_total, sampled_epsilon
from fedmr.privacy.ledger import Charge
from fedmr.privacy.mechanism import Vector, clip, compare, system_normal
from fedmr.tasks.base import Sampler, Task
from fedmr.tasks.poisson_sampling import UnitSampler
from fedmr.training.engine import TrainingStats
from fedmr.training.trainer import Trainer
from fedmr.utils.precision import Precision, training_autocast

Unit = tuple[Tensor, Tensor]


def unit_gradient(net: nn.Module, unit: Unit, loss_function: nn.Module, precision: Precision = "auto") -> Vector:
    """Gradient of a unit's loss by all trainable parameters, in their order, as one vector.

    Args:
        net: the network.
        unit: input and target, see `fit`.
        loss_function: output and target to a scalar.
        precision: of the forward pass, see `training_autocast`.

    Raises:
        FloatingPointError: it, or the loss, is not finite.
    """
    given, target = unit
    given = given.contiguous(memory_format=torch.channels_last)
    with training_autocast(given.device, precision):
        loss = loss_function(net(given), target)
    gradients = torch.autograd.grad(loss, _trainable(net), allow_unused=True, materialize_grads=True)
    vector = torch.cat([g.reshape(-1) for g in gradients]).double().cpu().numpy()
    if not (torch.isfinite(loss) and np.isfinite(vector).all()):
        raise FloatingPointError("the loss or its gradient is not finite; lower learning_rate in the task")
    return vector


def private_sum(
    gradients: Sequence[Vector],
    size: int,
    *,
    max_grad_norm: float,
    noise_multiplier: float,
    normal: Callable[[int], Vector] = system_normal,
) -> Vector:
    """Sum of the units' clipped gradients, with noise.

    Args:
        gradients: of the units that were drawn; none is possible.
        size: values in a gradient.
        max_grad_norm: C; infinite means no clipping, and then no noise is possible.
        noise_multiplier: noise per C; 0 means no noise.
        normal: source of standard normal numbers; another one than the system's is for tests alone.
    """
    total = np.zeros(size)
    for gradient in gradients:
        total += clip(gradient, max_grad_norm)
    return total + noise_multiplier * max_grad_norm * normal(size) if noise_multiplier else total


class PrivateTrainer(Trainer):
    """A site's training by DP-SGD; see `Trainer`. `clip_norm` and `batch_size` of the task have no part in it.

    The loss is not told: it is a mean over the training data without noise. What the steps so far cost is kept and
    restored with the rest of the state, of which the unit is a part.

    Args:
        task: with `dp_sgd`, and the algorithm fedavg.
        sampler: a `UnitSampler`.
        rounds: see `Trainer`.

    Raises:
        ValueError: the network holds what noised gradients do not make; see `check_network`.
    """

    def __init__(self, task: Task, sampler: Sampler, *, rounds: int) -> None:
        super().__init__(task, sampler, rounds=rounds)
        assert isinstance(sampler, UnitSampler)
        self.units, self.settings = sampler, sampler.settings
        self.spent: list[Steps] = []
        self._distances: list[dict[str, float]] = []
        check_network(self.net)

    @property
    def round_cost(self) -> Steps:
        """Noise multiplier, sampling rate and number of steps of a round."""
        return self.settings.noise_multiplier, self.units.rate, self.task.local_epochs * self.units.steps_per_epoch

    @property
    def charge(self) -> Charge:
        """Return what the site's ledger is charged for a round."""
        own = self.settings
        return Charge(steps=self.round_cost, unit=own.unit, delta=own.delta, max_epsilon=own.max_epsilon)

    def epsilon(self, further_rounds: int = 0) -> float:
        """Epsilon of all rounds so far, and of some more, for one unit."""
        return sampled_epsilon([*self.spent, *[self.round_cost] * further_rounds], self.settings.delta)

    def distance(self) -> dict[str, float]:
        """`privacy.compare` of the sum of gradients with what was made of it, mean over the last round's steps.

        It says more of the data than epsilon allows and stays at the site. Empty if nobody was drawn.
        """
        steps = self._distances
        return {name: fmean(step[name] for step in steps) for name in steps[0]} if steps else {}

    def run_round(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        epoch_done: Callable[[int, TrainingStats], None] = lambda number, progress: None,
    ) -> TrainingStats:
        """A round, paid for before it begins; see the base class.

        Raises:
            BudgetError: the round would exceed `max_epsilon`.
        """
        own = self.settings
        check_total(self.epsilon(1), "this round", unit=own.unit, delta=own.delta, max_epsilon=own.max_epsilon)
        self.spent.append(self.round_cost)
        self._distances.clear()
        return super().run_round(should_stop, epoch_done)

    def run_epoch(self, should_stop: Callable[[], bool] = lambda: False) -> TrainingStats:
        """An epoch; the loss is stated as NaN."""
        progress, started = TrainingStats(loss=float("nan")), time.perf_counter()
        self.net.train()
        for _ in range(self.units.steps_per_epoch):
            if should_stop():
                progress.stopped = True
                break
            self.step(self.units.draw())
            progress.steps += 1
        progress.seconds = time.perf_counter() - started
        self.epoch += 1
        return progress

    def step(self, units: Sequence[Unit]) -> None:
        """One optimisation step with the noised gradient of these units."""
        gradients = [unit_gradient(self.net, unit, self.loss, self.task.precision) for unit in units]
        parameters = _trainable(self.net)
        sizes = [p.numel() for p in parameters]
        noise = {name: getattr(self.settings, name) for name in ("max_grad_norm", "noise_multiplier")}
        total = private_sum(gradients, sum(sizes), **noise)
        if gradients:
            self._distances.append(compare(np.sum(gradients, axis=0), total))
        parts = torch.from_numpy(total / self.settings.units_per_step).split(sizes)
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.to(parameter).reshape(parameter.shape)
        self.optimizer.step()
        self.schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """With the unit, and what was spent."""
        return super().state_dict() | {"dp_sgd": {"unit": self.settings.unit, "spent": self.spent}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: the state belongs to another unit, or to training without DP-SGD.
        """
        unit = state.get("dp_sgd", {}).get("unit")
        if unit != self.settings.unit:
            raise ValueError(
                f"the saved training protected {f'every {unit}' if unit else 'nobody'}, the task's dp_sgd unit is "
                f"{self.settings.unit!r}: no epsilon covers both. Start a new job"
            )
        super().load_state_dict(state)
        self.spent = [(float(noise), float(rate), int(steps)) for noise, rate, steps in state["dp_sgd"]["spent"]]


def check_network(net: nn.Module) -> None:
    """Refuse a network that sends more than what noised gradients made.

    Raises:
        ValueError: naming a buffer, e.g. the running mean of a batch normalisation.
    """
    buffers = sorted(set(net.state_dict()) - {name for name, _ in net.named_parameters()})
    if buffers:
        raise ValueError(
            f"task: the network's {buffers[0]} is made from the data without noise, so dp_sgd would not protect it; "
            "take a network without such buffers"
        )


def _trainable(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]
