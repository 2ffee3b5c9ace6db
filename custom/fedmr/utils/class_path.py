"""Classes that a task names by their path, as MONAI's configs do: `{ _target_ = package.module.Class, ... }`.

A task comes from elsewhere: with a job, or in a model file. So a path is imported only if it is on a list: the one
here, of classes that compute and do nothing else, or the site's own. What a list allows besides:

- In FLARE, `classes` of the site's `local/fedmr_policy.json`, and what lies in the job's own `custom` folder, which
  FLARE deploys only where the site admits custom code from the job's submitter.
- Elsewhere, the variable FEDMR_CLASSES, and files next to the job or study that the user names.

No expression is evaluated: a value that begins with "$", by which MONAI's own reader would run code, is refused.
"""

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

TARGET = "_target_"
VARIABLE = "FEDMR_CLASSES"
POLICY_FILE = "fedmr_policy.json"
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_OF_JOB = re.compile(r"[/\\]app_[^/\\]+[/\\]custom$")  # where FLARE puts a job's code, at server and sites
_NETS = (
    *("AttentionUnet", "AutoEncoder", "BasicUNet", "DynUNet", "FlexibleUNet", "HighResNet", "MedNeXt", "SegResNet"),
    *("SegResNetDS", "SwinUNETR", "UNETR", "UNet", "VNet"),
)
_LISTED: dict[str, tuple[str, ...]] = {
    "monai.networks.nets": _NETS,
    "monai.losses": ("SSIMLoss",),
    "torch.nn": ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"),
    "torch.optim": ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"),
    "torch.optim.lr_scheduler": ("ConstantLR", "CosineAnnealingLR", "ExponentialLR", "OneCycleLR", "StepLR"),
    "monai.optimizers": ("Novograd", "WarmupCosineSchedule"),
}
_TRANSFORMS = (
    *("RandAdjustContrastd", "RandBiasFieldd", "RandGaussianNoised", "RandGaussianSharpend", "RandGaussianSmoothd"),
    *("RandGibbsNoised", "RandKSpaceSpikeNoised", "RandRicianNoised", "RandScaleIntensityd", "RandShiftIntensityd"),
)
_LISTED["monai.transforms"] = _TRANSFORMS
LISTED = frozenset(f"{module}.{name}" for module, names in _LISTED.items() for name in names)
_folders: list[Path] = []


def allow_folder(folder: Path) -> None:
    """Allow the classes of the Python files in a folder that the user has named, e.g. next to a job or a study."""
    folder = folder.resolve()
    if folder not in _folders and any(folder.glob("*.py")):
        _folders.append(folder)
        sys.path.append(str(folder))  # last, so that no file there stands in for an installed module
        importlib.invalidate_caches()


def allowed_folders() -> list[Path]:
    """Return the folders that `allow_folder` was given."""
    return list(_folders)


def modules_of(values: Any) -> set[str]:
    """Return the top modules of all class paths in nested settings that are not on our list."""
    return {path.partition(".")[0] for path in targets(values) if path not in LISTED}


def targets(values: Any) -> Iterator[str]:
    """Yield every class path in nested settings."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key == TARGET:
                yield str(value)
            else:
                yield from targets(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from targets(value)


def refusal(path: str, allowed: Iterable[str] = (), folders: Iterable[Path] = ()) -> str:
    """Say why a class path is refused and what would allow it, "" if it is allowed. Nothing is imported.

    Args:
        path: the class.
        allowed: what the owner of this place adds to our list.
        folders: whose Python files are allowed.
    """
    if not _CLASS.fullmatch(path):
        return f"{path[:100]!r} is no class path such as monai.networks.nets.UNet"
    if path in LISTED or path in set(allowed):
        return ""
    top = path.partition(".")[0]
    if any((folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file() for folder in folders):
        return ""
    return (
        f"class {path[:100]} is not allowed here. If you trust it, add it: at a FLARE site or server "
        f'"classes": ["{path[:100]}"] in local/{POLICY_FILE}, elsewhere {VARIABLE}={path[:100]} in the environment'
    )


def locate(path: str, base: type[T]) -> type[T]:
    """Import an allowed class.

    Args:
        path: of the class.
        base: what it must be a subclass of.

    Raises:
        ValueError: it is not allowed, not there, or not a subclass of `base`.
    """
    if reason := refusal(path, _allowed(), [*_folders, *_of_job()]):
        raise ValueError(f"task: {reason}")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"task: class {path} cannot be imported ({error}); look at its name and PYTHONPATH") from None
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise ValueError(f"task: {path} is no {base.__module__}.{base.__name__}")
    return found


def construct(path: str, base: type[T], *args: Any, **settings: Any) -> T:
    """Make an object of an allowed class.

    Args:
        path: of the class.
        base: what it must be a subclass of.
        args: arguments of ours.
        settings: the task's arguments.

    Raises:
        ValueError: as `locate`, or an argument is refused or unknown.
    """
    check_arguments(settings)
    try:
        return locate(path, base)(*args, **settings)
    except (TypeError, ImportError) as error:  # MONAI's optional imports fail late
        raise ValueError(f"task: {path} does not take the arguments {settings}: {error}") from error


def construct_from(what: str, values: Mapping[str, Any], base: type[T], *args: Any, **ours: Any) -> T:
    """Make the object that a part of a task describes by `_target_` and arguments.

    Args:
        what: the part, for an error.
        values: `_target_`, and the task's arguments.
        base: what the class must be a subclass of.
        args, ours: arguments of ours.

    Raises:
        ValueError: as `construct`, no class is named, or the task gives an argument that is ours.
    """
    settings = dict(values)
    if (path := settings.pop(TARGET, None)) is None:
        raise ValueError(f"task: {what} {settings} has no '{TARGET}'; add the path of its class")
    if taken := sorted(settings.keys() & ours.keys()):
        raise ValueError(f"task: {what} sets {', '.join(taken)}, which the task itself gives; leave it out there")
    return construct(path, base, *args, **ours, **settings)


def check_arguments(values: Any, name: str = "") -> None:
    """Refuse arguments that make a class do more than compute: expressions, addresses, files, weights from elsewhere.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(values, Mapping):
        for key, value in values.items():
            if "pretrained" in str(key) and value:
                raise ValueError(f"task: argument {key} would fetch weights from elsewhere; leave it out")
            check_arguments(value, str(key))
    elif isinstance(values, (list, tuple)):
        for value in values:
            check_arguments(value, name)
    elif isinstance(values, str) and (values.startswith("$") or any(sign in values for sign in ":/\\")):
        raise ValueError(f"task: argument {name} is {values[:60]!r}; expressions, addresses and files are refused")


def _of_job() -> list[Path]:
    return [Path(entry) for entry in sys.path if _OF_JOB.search(entry)]


def _allowed() -> set[str]:
    """Return what the owner adds: the variable, and in a FLARE process, which works in its workspace, the policy."""
    allowed = {path.strip() for path in os.environ.get(VARIABLE, "").split(",") if path.strip()}
    policy = Path("local") / POLICY_FILE
    if any(name.startswith("nvflare.private.fed.app.") for name in sys.modules) and policy.is_file():
        with contextlib.suppress(ValueError, AttributeError, TypeError):  # whoever reads the policy says so
            allowed |= set(map(str, json.loads(policy.read_text()).get("classes", [])))
    return allowed
