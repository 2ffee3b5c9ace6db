"""The kinds of task, and the only place that tells one from another."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fedmr.tasks.base import Task
from fedmr.tasks.reconstruction import ReconstructionTask
from fedmr.tasks.super_resolution import SuperResolutionTask
from fedmr.tasks.through_plane import ThroughPlaneTask

T = TypeVar("T", bound=Task)

_KINDS: dict[str, type[Task]] = {"mask": ReconstructionTask, "slice_profile": ThroughPlaneTask}  # by what it must state


def build_task(values: Mapping[str, Any]) -> Task:
    """Build the task of a config by what it states: a `mask` makes a reconstruction, a `slice_profile` a through-plane
    super-resolution, neither a super-resolution.

    Raises:
        ValueError: naming the offending, unknown or missing entry.
    """
    kind = next((kind for entry, kind in _KINDS.items() if entry in values), SuperResolutionTask)
    return kind(**values)


def expect(task: Task, kind: type[T], refusal: str) -> T:
    """Return a task for code that is made for one kind.

    Raises:
        ValueError: with the text of `refusal`, if the task is of another kind.
    """
    if not isinstance(task, kind):
        raise ValueError(refusal)
    return task
