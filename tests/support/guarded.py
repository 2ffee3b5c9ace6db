"""Rounds of FLARE's own server with the guard before it, and sites whose replies are in order or changed."""

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.app_common.app_constant import AppConstants

from fedmr.flare.guard import ServerGuard
from server import Server

LIMITS = {"learning_rate": 1e-2}
MODEL = {"w": np.zeros((50, 7), np.float32), "b": np.zeros((), np.float32)}
STEPS = {"site-1": 3, "site-2": 50, "site-3": 7, "site-4": 11}
SITES = tuple(STEPS)


def update(site, number=0, steps=None, psnr=30.0, kind=DataKind.WEIGHT_DIFF, **changes):
    """The reply of a site in order, or with something changed."""
    rng = np.random.default_rng([SITES.index(site), number])
    values = {n: np.asarray(rng.normal(size=v.shape) * 1e-3, np.float32) for n, v in MODEL.items()} | changes
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: steps or STEPS[site], MetaKey.INITIAL_METRICS: {"psnr": psnr}}
    return DXO(kind, data=values, meta=meta).to_shareable()


def reply_with(site, faults=None):
    """Answers of a site that is in order but in the rounds of `faults`, whose value is a reply or changes to it."""

    def answer(message):
        number = message.get_header(AppConstants.CURRENT_ROUND)
        fault = (faults or {}).get(number, {})
        return update(site, number, **fault) if isinstance(fault, dict) else fault()

    return answer


def serve(folder, faults, *, guard=True, sites=SITES, min_sites=3, rounds=1, aggregator=None):
    """A finished server and its model."""
    answers = {site: reply_with(site, faults.get(site)) for site in sites}
    filters = [ServerGuard(LIMITS, min_sites)] if guard else []
    errors = True if guard else None
    server = Server(folder, answers, *filters, aggregator=aggregator, rounds=rounds, ignore_result_error=errors)
    return server, server.train(MODEL)
