"""The messages of algorithms that exchange more than weights, as FLARE's SCAFFOLD workflow shapes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AlgorithmConstants, AppConstants

from fedmr.config import Task

Arrays = Mapping[str, Any]


def unpack(task: Shareable) -> tuple[Arrays, Arrays]:
    """The server's weights, and its controls if it sends any."""
    dxo = from_shareable(task)
    if dxo.data_kind != DataKind.COLLECTION:
        return dxo.data, {}
    return dxo.data[AppConstants.MODEL_WEIGHTS].data, dxo.data[AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL].data


def pack(difference: dict[str, np.ndarray], steps: int, controls: dict[str, np.ndarray]) -> DXO:
    """A site's reply: its weight difference and, if it has them, changes of its controls.

    Both state the steps, so that the server weighs them alike: its control stays the mean of the sites' for the
    same objective as the weights'. The paper's sites all count the same.
    """
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
    update = DXO(DataKind.WEIGHT_DIFF, data=difference, meta=dict(meta))
    if not controls:
        return update
    change = DXO(DataKind.WEIGHT_DIFF, data=controls, meta=dict(meta))
    parts = {AppConstants.MODEL_WEIGHTS: update, AlgorithmConstants.SCAFFOLD_CTRL_DIFF: change}
    return DXO(DataKind.COLLECTION, data=parts, meta=meta)


def first_task(task: Task, weights: Mapping[str, np.ndarray]) -> DXO:
    """What the server sends in the first round: the weights, and for SCAFFOLD controls of zero."""
    dxo = DXO(DataKind.WEIGHTS, data=dict(weights))
    if task.algorithm["name"] != "scaffold":
        return dxo
    zeros = {name: np.zeros_like(value) for name, value in weights.items()}
    controls = DXO(DataKind.WEIGHT_DIFF, data=zeros)
    parts = {AppConstants.MODEL_WEIGHTS: dxo, AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL: controls}
    return DXO(DataKind.COLLECTION, data=parts)
