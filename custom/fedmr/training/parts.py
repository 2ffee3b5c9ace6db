"""Loss, optimiser and schedule of a task, ours by name or any allowed class by its path."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from fedmr.losses import WeightedSum
from fedmr.tasks.base import Task
from fedmr.utils.class_path import TARGET, construct_from, locate
from fedmr.utils.optimizers import OPTIMIZERS

WEIGHT = "weight"
_LENGTHS = ("total_steps", "T_max", "t_total")  # what torch's and MONAI's schedules call the number of steps


def make_loss(terms: Mapping[str, Any]) -> WeightedSum:
    """Return the loss of a task: a weight by name, or by any name a mapping with `_target_`, `weight` and arguments.

    A class of one's own maps (N, 1, H, W) and (N, 1, H, W), about [0, 1], to a scalar that is a mean.

    Raises:
        ValueError: as `WeightedSum` and `class_path.construct`, or a mapping without class or weight.
    """
    weights, others = dict[str, float](), dict[str, Any]()
    for name, term in terms.items():
        if not isinstance(term, Mapping):
            weights[name] = float(term)
            continue
        weight = term.get(WEIGHT)
        if TARGET not in term or isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"task: loss {name} is {dict(term)}; it must be a number, or have {TARGET} and {WEIGHT}")
        settings = {key: value for key, value in term.items() if key != WEIGHT}
        weights[name], others[name] = float(weight), construct_from(f"loss {name}", settings, nn.Module)
    return WeightedSum(weights, others)


def make_optimizer(task: Task, parameters: Iterable[Tensor]) -> Optimizer:
    """Return the optimiser of a task; a class path is given the task's learning rate.

    Raises:
        ValueError: as `class_path.construct`.
    """
    chosen = task.optimizer
    if isinstance(chosen, str):
        return OPTIMIZERS[chosen](parameters, lr=task.learning_rate)
    return construct_from("optimizer", chosen, Optimizer, parameters, lr=task.learning_rate)


def make_schedule(task: Task, optimizer: Optimizer, total: int) -> LRScheduler:
    """Return the schedule of the learning rate over `total` steps: linear warm-up and cosine, or the task's own class.

    A class that takes the number of steps, and is not told it by the task, is told it here.

    Raises:
        ValueError: as `class_path.construct`.
    """
    if task.schedule:
        takes = inspect.signature(locate(task.schedule[TARGET], LRScheduler)).parameters
        lengths = {name: total for name in _LENGTHS if name in takes and name not in task.schedule}
        return construct_from("schedule", task.schedule, LRScheduler, optimizer, **lengths)
    warmup = min(task.warmup_steps, total - 1)
    cosine = CosineAnnealingLR(optimizer, total - warmup, task.final_learning_rate)
    if warmup < 1:
        return cosine
    linear = LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [linear, cosine], [warmup])
