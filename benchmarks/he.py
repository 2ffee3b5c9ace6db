"""Cost of encrypted aggregation: bytes, seconds and the server's memory, for a million weights and 8 sites.

    python benchmarks/he.py             # FLARE's own filters, messages and aggregation, without training: minutes
    python benchmarks/he.py --rounds    # rounds of a provisioned federation of two sites over TLS: minutes more

Every step runs in a process of its own with the components of the jobs. Seconds are processor time, so that other work
on the machine shows little; those of `--rounds` are by the clock and need a quiet machine.
"""

import argparse
import json
import logging
import re
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from common import alone, facts, write_page

from fedmr.utils.environment import ROOT

JOBS = {
    "plain": ("mscan_fedavg", {}),
    "FLARE's own HE": ("mscan_fedavg_he", {}),
    "packed": ("mscan_fedavg_he_packed", {}),
    "packed, two weights a slot": (
        "mscan_fedavg_he_packed",
        {"clip": 2, "resolution": 1e-3, "max_sites": 8, "max_steps": 128},
    ),
}
SITES, STEPS = 8, 60
NETWORK = {"name": "mscan", "scale": 2, "channels": 64, "blocks": 8, "seed": 0}
ROUNDS = 4
EPOCHS = 1, 2
TURNS = 2  # of every job, in turn, as the machine is faster at one time than at another


def components(job: str, side: str, packing: dict[str, float]) -> dict[str, Any]:
    """The parts of a job that the benchmark needs, by their role."""
    from nvflare.fuel.utils.class_utils import instantiate_class

    from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
    from fedmr.utils.hocon import read_hocon

    path = ROOT / "jobs" / job / (CLIENT_CONFIG if side == "client" else SERVER_CONFIG)
    config = read_hocon(path).as_plain_ordered_dict()

    def make(node: dict[str, Any]) -> Any:
        arguments = dict(node["args"])
        if packing and "packing" in arguments:
            arguments["packing"] = packing
        return instantiate_class(node["path"], arguments)

    if side == "server":
        return {c["id"]: make(c) for c in config["components"] if c["id"] in ("aggregator", "shareable_generator")}
    chains = {"task_data_filters": [], "task_result_filters": []}
    return {name: [make(f) for chain in config[name] for f in chain["filters"]] for name in chains}


def prepare(folder: Path) -> Any:
    """Set up what FLARE needs before a job: serialisation, the startup folder, a context."""
    from nvflare.apis.fl_constant import FLContextKey, ReservedKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.utils.decomposers import flare_decomposers
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.app_opt.he import decomposers
    from nvflare.fuel.sec.security_content_service import SecurityContentService

    logging.disable()  # FLARE misses an engine with every message
    for module in (flare_decomposers, common_decomposers, decomposers):
        module.register()
    SecurityContentService.initialize(str(folder))
    fl_ctx = FLContext()
    fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, "site-1")
    fl_ctx.set_prop(FLContextKey.SECURE_MODE, False)
    fl_ctx.set_prop(FLContextKey.TASK_NAME, AppConstants.TASK_TRAIN)
    fl_ctx.set_prop(AppConstants.CURRENT_ROUND, 0)
    fl_ctx.set_peer_context(FLContext())
    return fl_ctx


def weights() -> dict[str, np.ndarray]:
    """The untrained network's."""
    from fedmr.nets import build

    return {name: value.numpy() for name, value in build(**NETWORK).state_dict().items()}


def update() -> dict[str, np.ndarray]:
    """As large as after a round of training."""
    rng = np.random.default_rng(0)
    return {n: (1e-3 * rng.normal(size=v.shape)).astype(v.dtype) for n, v in weights().items()}


@contextmanager
def timed(figures: dict[str, float], name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    figures[name] = figures.get(name, 0.0) + time.process_time() - started


def site(folder: Path, job: str, packing: dict[str, float]) -> dict[str, float]:
    """Encrypt an update, or decrypt what the server has sent."""
    from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_constant import FLContextKey
    from nvflare.fuel.utils import fobs

    fl_ctx, figures, filters = prepare(folder), {}, components(job, "client", packing)
    every = [part for chain in filters.values() for part in chain]
    for part in every:
        part.handle_event(EventType.START_RUN, fl_ctx)
    down = folder / "down"
    if down.is_file():
        with timed(figures, "decrypt"):
            message = fobs.loads(down.read_bytes())
            for part in filters["task_data_filters"]:
                message = part.process(message, fl_ctx)
        result = from_shareable(message).data
        expected = {name: value + update()[name] for name, value in weights().items()}
        figures["error"] = max(
            float(np.abs(np.reshape(result[n], expected[n].shape) - expected[n]).max()) for n in expected
        )
        return figures
    fl_ctx.set_prop(FLContextKey.TASK_DATA, DXO(DataKind.WEIGHTS, weights()).to_shareable())
    for part in every:
        part.handle_event(EventType.BEFORE_TASK_EXECUTION, fl_ctx)
    message = DXO(DataKind.WEIGHT_DIFF, update(), {MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS}).to_shareable()
    with timed(figures, "encrypt"):
        for part in filters["task_result_filters"]:
            message = part.process(message, fl_ctx)
        content = fobs.dumps(message)
    (folder / "up").write_bytes(content)
    return figures | {"up": len(content)}


def server(folder: Path, job: str, packing: dict[str, float]) -> dict[str, float]:
    """Add the updates of all sites, one after the other, and make the next round's message."""
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_constant import ReservedKey
    from nvflare.app_common.abstract.model import make_model_learnable
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.fuel.utils import fobs

    fl_ctx, figures, parts = prepare(folder), {}, components(job, "server", packing)
    for part in parts.values():
        part.handle_event(EventType.START_RUN, fl_ctx)
    fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, make_model_learnable(weights(), {}))
    with timed(figures, "aggregate"):
        for number in range(SITES):
            message = fobs.loads((folder / "up").read_bytes())
            message.set_peer_props({ReservedKey.IDENTITY_NAME: f"site-{number}"})
            message.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
            if not parts["aggregator"].accept(message, fl_ctx):
                raise RuntimeError("the aggregator refused an update")
        result = parts["aggregator"].aggregate(fl_ctx)
        model = parts["shareable_generator"].shareable_to_learnable(result, fl_ctx)
        content = fobs.dumps(parts["shareable_generator"].learnable_to_shareable(model, fl_ctx))
    (folder / "down").write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # Linux gives KiB
    return figures | {"down": len(content), "memory": peak}


def messages() -> list[str]:
    """Rows of bytes, seconds and memory."""
    from nvflare.lighter.impl.he import HEBuilder

    builder = HEBuilder()
    builder.initialize(None, None)
    measured = {name: measure(job, packing, builder) for name, (job, packing) in JOBS.items()}
    size, stock = sum(value.size for value in weights().values()), measured["FLARE's own HE"]["up"]
    lines = [
        "| aggregation | bytes a weight up | FLARE's / this | down "
        "| encrypt, s | aggregate, s | decrypt, s | server, GB | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, f in measured.items():
        cells = [name, f"{f['up'] / size:.1f}", f"{stock / f['up']:.1f}", f"{f['down'] / size:.1f}"]
        cells += [f"{f[key]:.2f}" for key in ("encrypt", "aggregate", "decrypt", "memory")]
        lines.append(f"| {' | '.join(cells)} | {f['error']:.1g} |")
    return lines


def measure(job: str, packing: dict[str, float], builder: Any) -> dict[str, float]:
    """All steps of a round; `builder` has the contexts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "client_context.tenseal").write_bytes(builder.get_serialized_context(is_client=True))
        (folder / "server_context.tenseal").write_bytes(builder.get_serialized_context())
        figures: dict[str, float] = {}
        for step in (site, server, site):
            figures |= alone(step, folder, job, packing)
    return figures


def round_seconds(log: str) -> list[float]:
    """Time between the starts of rounds, by the server's log; the first round starts the sites."""
    starts = re.findall(r"^(\S+ \S+?) .*Round \d+ (?:started|finished)\.", log, flags=re.MULTILINE)
    times = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f") for text in starts]
    return [(b - a).total_seconds() for a, b in zip(times[2::2], times[3::2], strict=True)]


def rounds() -> list[str]:
    """Rows of the time of rounds; the sites train a few steps on small scans, so that little hides the encryption."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from poc import consortium
    from simulator import render_tiny_job, write_hospitals

    policy = json.dumps({"scopes": [{"name": "hospital", "properties": {}}], "default_scope": "hospital"})
    network = f"network {{ channels = {NETWORK['channels']}, blocks = {NETWORK['blocks']} }}"
    lines = [
        "| epochs a round | aggregation | seconds a round, median | fastest | times plain |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_hospitals(folder / "data")
        with consortium(folder, data, dict.fromkeys(("site-1", "site-2"), policy)) as poc:
            for epochs in EPOCHS:
                seconds = defaultdict(list)
                for number, name in enumerate([*JOBS] * TURNS):
                    job, packing = JOBS[name]
                    overlay = f"task {{ {network}, local_epochs = {epochs} }}"
                    overlay += f"\npacking = {json.dumps(packing)}" if packing else ""
                    out = folder / f"{epochs}-{number}"
                    rendered = render_tiny_job(out, ROUNDS, job=job, overlay=overlay)
                    seconds[name] += round_seconds(log_of(poc, rendered))
                    print(epochs, name, seconds[name], flush=True)
                fastest = {name: min(values) for name, values in seconds.items()}
                for name, values in seconds.items():
                    times = fastest[name] / fastest["plain"]
                    cells = f"{statistics.median(values):.1f} | {fastest[name]:.1f} | {times:.2f}"
                    lines.append(f"| {epochs} | {name} | {cells} |")
    return lines


def log_of(poc: Any, job: Path) -> str:
    """The server's log of a job that runs as long as it takes."""
    number = poc._answer("job", "submit", "-j", job)["job_id"]
    poc.nvflare("job", "monitor", number, "--timeout", 1800, "--interval", 1, timeout=1900)
    poc._answer("job", "download", number, "-o", poc.folder / "downloads")
    return (poc.folder / "downloads" / number / "workspace" / "log.txt").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", action="store_true")
    arguments = parser.parse_args()
    known = facts(network=str(NETWORK))
    if arguments.rounds:
        name, title, lines = "he_rounds", "Rounds with encrypted aggregation", rounds()
        note = (
            f"Two sites over TLS on this machine, {TURNS} runs of {ROUNDS} rounds, the first rounds not counted. "
            "An epoch is some twenty steps of 4 patches of 12 x 12 LR pixels: with one a round, it is little but "
            "messages. Times plain: of the fastest rounds."
        )
    else:
        name, title, lines = "he", "Encrypted aggregation", messages()
        size = sum(value.size for value in weights().values())
        note = (
            f"{size:,} weights in {len(weights())} variables, {SITES} sites. Bytes are of whole messages, as FLARE "
            "serialises them; seconds of the processor, serialisation included: one site's, and the server's for all "
            "sites. Server: largest memory of the process, torch included. Error: largest of a weight."
        )
    write_page(name, title, known, lines, note)


if __name__ == "__main__":
    main()
