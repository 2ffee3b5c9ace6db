"""Federated algorithms by name or class path. A new one is one file here and one line in `ALGORITHMS`, or elsewhere."""

from collections.abc import Mapping
from typing import Any

from fedmr.algorithms.base import AlgorithmSettings, FedAvg
from fedmr.algorithms.ditto import DittoSettings
from fedmr.algorithms.fedbn import FedBNSettings
from fedmr.algorithms.feddyn import FedDynSettings
from fedmr.algorithms.fedprox import FedProxSettings
from fedmr.algorithms.flmrcm import Mrcm
from fedmr.algorithms.local import LocalSettings
from fedmr.algorithms.private_head import FedPerSettings, FedRepSettings
from fedmr.algorithms.scaffold import ScaffoldSettings
from fedmr.utils.class_path import TARGET, construct

ALGORITHMS: dict[str, type[AlgorithmSettings]] = {
    "fedavg": FedAvg,
    "fedprox": FedProxSettings,
    "scaffold": ScaffoldSettings,
    "ditto": DittoSettings,
    "local": LocalSettings,
    "flmrcm": Mrcm,
    "fedbn": FedBNSettings,
    "fedper": FedPerSettings,
    "fedrep": FedRepSettings,
    "feddyn": FedDynSettings,
}


def settings_of(values: Mapping[str, Any]) -> AlgorithmSettings:
    """Return the settings of a task's `algorithm`.

    Args:
        values: "name", a key of `ALGORITHMS`, or `_target_`, the path of a class of settings, and its settings.

    Raises:
        ValueError: naming the unknown algorithm, or the setting that is wrong, missing or unknown.
    """
    given = dict(values)
    name, path = given.pop("name", None), given.pop(TARGET, None)
    if path is not None and name is None:
        return construct(path, AlgorithmSettings, **given)
    if name not in ALGORITHMS:
        raise ValueError(f"task: algorithm {name!r} is unknown; known are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name](**given)
