"""The trainer of a task."""

from fedmr.algorithms import settings_of
from fedmr.algorithms.base import Algorithm, refuse_batch_norm
from fedmr.tasks.base import Sampler, Task
from fedmr.training.dp_sgd import PrivateTrainer
from fedmr.training.trainer import Trainer


def make_trainer(task: Task, sampler: Sampler, *, rounds: int, shared: bool = True) -> Trainer:
    """Return the trainer of a task, with its algorithm; arguments and errors as those of `Trainer`.

    Args:
        task, sampler, rounds: as of `Trainer`.
        shared: whether the network is one of several sites, or all scans are here.

    Raises:
        ValueError: the network shares batch normalisation; see `refuse_batch_norm`.
    """
    if getattr(task, "dp_sgd", None):
        return PrivateTrainer(task, sampler, rounds=rounds)
    chosen = settings_of(task.algorithm)
    chosen.check_network(task.network)
    algorithm = chosen.local(seed=task.seed)
    hooks = [algorithm] if type(algorithm) is not Algorithm else []
    trainer = Trainer(task, sampler, rounds=rounds, hooks=hooks)
    if shared:
        refuse_batch_norm(trainer.net, hooks)
    return trainer
