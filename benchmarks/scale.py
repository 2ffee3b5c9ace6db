"""The server's work on a round of many updates, and of large ones: seconds of the processor, bytes and memory.

    python benchmarks/scale.py

FLARE's own controller with the demo job's guard, aggregator and model selection; sites and network are stood in for by
messages, serialised as FLARE sends them. Needs no data; the table goes to benchmarks/results.
"""

import argparse
import logging
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import alone, facts, memory, table, write_page

from fedmr.federation.render import read_task
from fedmr.nets import build
from fedmr.utils.environment import ROOT

SITES = (10, 100, 1000)
LARGE = (1_000_000, 10_000_000, 100_000_000)  # weights
LARGE_SITES = 4
VARIABLES = 100  # into which the weights of a large model are cut
STEPS, RATE = 100, 2e-3


def demo_weights() -> dict[str, np.ndarray]:
    return {
        name: value.numpy()
        for name, value in build(**read_task(ROOT / "jobs" / "mscan_fedavg")["network"]).state_dict().items()
    }


def large_weights(size: int) -> dict[str, np.ndarray]:
    return {f"layer{n}.weight": np.zeros(size // VARIABLES, np.float32) for n in range(VARIABLES)}


def round_of(sites: int, size: int) -> dict[str, float]:
    """One round: seconds per update, bytes of an update, and what the server held before and at most."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from nvflare.apis.dxo import DXO, DataKind, MetaKey
    from nvflare.apis.utils.decomposers import flare_decomposers
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.fuel.utils import fobs

    from fedmr.flare.guard import ServerGuard
    from server import Server

    logging.disable()
    flare_decomposers.register()
    common_decomposers.register()
    weights = large_weights(size) if size else demo_weights()
    rng = np.random.default_rng(0)
    update = {name: rng.normal(0, RATE / 10, value.shape).astype(np.float32) for name, value in weights.items()}
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS, MetaKey.INITIAL_METRICS: {"psnr": 30.0}}
    content = fobs.dumps(DXO(DataKind.WEIGHT_DIFF, update, meta).to_shareable())
    del update
    taken = {"reading": 0.0}

    def answer(message: Any) -> Any:
        """A site's update, as the server gets it."""
        started = time.process_time()
        reply = fobs.loads(content)
        taken["reading"] += time.process_time() - started
        return reply

    with tempfile.TemporaryDirectory() as name:
        answers = {f"site-{n}": answer for n in range(sites)}
        guard = ServerGuard({"learning_rate": RATE}, min_sites=sites)
        server = Server(Path(name), answers, guard)
        before, _ = memory()
        started = time.process_time()
        server.train(weights)
        seconds = time.process_time() - started
    if server.panic:
        raise RuntimeError(f"the round ended: {server.panic}")
    return {
        "weights": sum(math.prod(value.shape) for value in weights.values()),
        "bytes": len(content),
        "reading": taken["reading"] / sites,
        "adding": (seconds - taken["reading"]) / sites,
        "before": before,
        "peak": memory()[1],
    }


def rows(cases: list[tuple[int, int]]) -> list[list[str]]:
    made = []
    for sites, size in cases:
        f = alone(round_of, sites, size)
        made.append(
            [
                f"{sites:,}",
                f"{f['weights']:,}",
                f"{f['bytes'] / f['weights']:.2f}",
                f"{1000 * f['reading']:.1f}",
                f"{1000 * f['adding']:.1f}",
                f"{f['before'] / 2**20:,.0f}",
                f"{f['peak'] / 2**20:,.0f}",
                f"{(f['peak'] - f['before']) / f['weights']:,.0f}",
            ]
        )
        print(*made[-1], flush=True)
    return made


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    known = facts()
    head = ["updates", "weights", "bytes a weight", "read an update, ms", "judge and add it, ms"]
    head += ["memory before, MB", "at most, MB", "added, bytes a weight"]
    cases = [(number, 0) for number in SITES] + [(LARGE_SITES, size) for size in LARGE]
    note = (
        "One round in one process: FLARE's ScatterAndGather, the job's guard, aggregator and model selection. Seconds "
        "of the processor by update, the round's own work shared among them. The first rows: the demo's network; the "
        f"others: {VARIABLES} variables of one size. The process also holds one update in serialised form, which a "
        "server gets from the network."
    )
    write_page("scale", "The server's part of a round", known, table(head, rows(cases)), note)


if __name__ == "__main__":
    main()
