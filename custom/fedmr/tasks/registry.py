"""The kinds of task, and the only place that tells one from another."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fedmr.tasks.base import Task
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.super_resolution import SuperResolutionTask

T = TypeVar("T", bound=Task)


def build_task(values: Mapping[str, Any]) -> Task:
    """Build the task of a config: a reconstruction if it states a `mask`, else a super-resolution.

    Raises:
        ValueError: naming the offending, unknown or missing entry.
    """
    kind: type[Task] = ReconstructionTask if "mask" in values else SuperResolutionTask
    return kind(**values)


def expect(task: Task, kind: type[T], refusal: str) -> T:
    """Return a task for code that is made for one kind.

    Raises:
        ValueError: with the text of `refusal`, if the task is of another kind.
    """
    if not isinstance(task, kind):
        raise ValueError(refusal)
    return task
