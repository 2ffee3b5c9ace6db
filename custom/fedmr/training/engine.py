"""The loop over the batches of an epoch: MONAI's `SupervisedTrainer`, with handlers for what is federated."""

import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import LrScheduleHandler
from monai.inferers import SimpleInferer
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from fedmr.algorithms.base import Algorithm
from fedmr.utils.precision import Precision, training_autocast

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass
class TrainingStats:
    """Result of training: optimisation steps, mean loss over the last epoch, seconds, whether it was stopped."""

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    stopped: bool = False


class AlgorithmHandler:
    """MONAI handler that calls an algorithm's stages in every iteration, and clips the gradient between them.

    Args:
        hooks: called in their order.
        clip_norm: largest norm of the gradient.
    """

    def __init__(self, hooks: Sequence[Algorithm], clip_norm: float) -> None:
        self.hooks, self.clip_norm = hooks, clip_norm

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register for MONAI's events within an iteration."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.loss_completed)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.backward_completed)

    def loss_completed(self, engine: SupervisedTrainer) -> None:
        """Let the hooks add to the loss."""
        for hook in self.hooks:
            engine.state.output[CommonKeys.LOSS] = hook.add_loss(engine.network, engine.state.output[CommonKeys.LOSS])

    def backward_completed(self, engine: SupervisedTrainer) -> None:
        """Clip the gradient and let the hooks change it."""
        nn.utils.clip_grad_norm_(engine.network.parameters(), self.clip_norm)
        for hook in self.hooks:
            hook.gradients_ready(engine.network)


class LossSum:
    """MONAI handler that adds up the loss on its device, so that no step waits for its number.

    Attributes:
        total: scalar, sum over the iterations.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros((), device=device)

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register for the end of an iteration."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.model_completed)

    def model_completed(self, engine: SupervisedTrainer) -> None:
        """Add the iteration's loss."""
        self.total += engine.state.output[CommonKeys.LOSS].detach()


class TrainingInferer(SimpleInferer):  # type: ignore[misc]  # MONAI has no types here
    """MONAI inferer that hands over the whole batch as channels_last, in the task's precision."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Map a batch (B, 1, h, w) to the network's output."""
        with training_autocast(inputs.device, self.precision):
            output: Tensor = network(inputs.contiguous(memory_format=torch.channels_last), *args, **kwargs)
        return output


def fit(
    net: nn.Module,
    batches: Batches,
    loss_function: nn.Module,
    *,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    hooks: Sequence[Algorithm] = (),
    clip_norm: float = 1.0,
    precision: Precision = "auto",
) -> TrainingStats:
    """Train over the batches, one optimisation step each.

    Args:
        net: maps LR (B, 1, h, w) to SR (B, 1, s*h, s*w), about [0, 1], or what else the batches are pairs of.
        batches: pairs of input and target, e.g. LR and HR.
        loss_function: output and target to a scalar.
        optimizer: stepped once per batch.
        schedule: stepped with it.
        hooks: called in their order.
        clip_norm: largest norm of the gradient.
        precision: of the forward pass, see `training_autocast`.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    device, started = next(net.parameters()).device, time.perf_counter()
    total, remaining = LossSum(device), iter(batches)
    if (first := next(remaining, None)) is None:
        return TrainingStats()
    engine = SupervisedTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=itertools.chain([first], remaining),
        network=net,
        optimizer=optimizer,
        loss_function=loss_function,
        inferer=TrainingInferer(precision),
        train_handlers=[AlgorithmHandler(hooks, clip_norm), total, LrScheduleHandler(schedule, epoch_level=False)],
        decollate=False,
        optim_set_to_none=True,
    )
    engine.logger.setLevel(logging.WARNING)  # else a line for every epoch
    engine.run()
    steps, loss = engine.state.iteration, float(total.total)
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the training loss became {loss} within {steps} steps; lower learning_rate in the task"
        )
    return TrainingStats(steps, loss / steps, time.perf_counter() - started)
