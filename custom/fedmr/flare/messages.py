"""The messages of algorithms that exchange more than weights, as FLARE's SCAFFOLD workflow shapes them.

FL-MRCM's are shaped alike, with a target's latents in the place of the controls.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.shareable import Shareable, make_copy
from nvflare.app_common.app_constant import AlgorithmConstants, AppConstants

from fedmr.algorithms import settings_of
from fedmr.algorithms.flmrcm import LATENTS
from fedmr.tasks.base import Task
from fedmr.training.target_latents import Latents

LATENTS_TASK = "latents"  # by which the server asks FL-MRCM's target site
VALIDATION_SPLIT = "fedmr_split"  # header of a `validate` task: "val" asks for the validation volumes, not the test's
REASON = "fedmr_reason"  # header by which a site tells the server why it has no update
OUTSIDE = "fedmr_outside"  # in the server's context: sites of the job that do not train

Arrays = Mapping[str, Any]


def unpack(task: Shareable) -> tuple[Arrays, Arrays]:
    """The server's weights, and what it sends with them: SCAFFOLD's controls, a target's latents, or nothing."""
    dxo = from_shareable(task)
    if dxo.data_kind != DataKind.COLLECTION:
        return dxo.data, {}
    parts = dict(dxo.data)
    weights = parts.pop(AppConstants.MODEL_WEIGHTS).data
    return weights, {name: value for part in parts.values() for name, value in part.data.items()}


def with_latents(task: Shareable, latents: Latents) -> Shareable:
    """A train task of weights alone, and the same with a target's latents."""
    parts = {AppConstants.MODEL_WEIGHTS: from_shareable(task), LATENTS: latents_message(latents)}
    return DXO(DataKind.COLLECTION, data=parts).update_shareable(make_copy(task))


def latents_message(latents: Latents) -> DXO:
    """Latents and nothing else."""
    return DXO(DataKind.APP_DEFINED, data={LATENTS: latents})


def pack(difference: dict[str, np.ndarray], steps: int, controls: dict[str, np.ndarray]) -> DXO:
    """Return a site's reply: its weight difference and, if it has them, changes of its controls; arrays of any shape.

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
    """Return what the server sends in the first round: the weights, of any shape, and the algorithm's extra arrays."""
    dxo = DXO(DataKind.WEIGHTS, data=dict(weights))
    arrays = settings_of(task.algorithm).local(seed=task.seed).first_arrays(weights)
    if not arrays:
        return dxo
    extra = DXO(DataKind.WEIGHT_DIFF, data=arrays)
    parts = {AppConstants.MODEL_WEIGHTS: dxo, AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL: extra}
    return DXO(DataKind.COLLECTION, data=parts)
