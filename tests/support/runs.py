"""Runs as FLARE leaves them, written in a moment."""

import json
import shutil
from pathlib import Path

import numpy as np
from nvflare.fuel.f3.stats_pool import new_message_size_pool
from torch.utils.tensorboard import SummaryWriter

from fedmr.runs.records import FINAL_MODEL
from phantoms import phantom

CONFIGS = Path(__file__).parents[2] / "jobs" / "mscan_fedavg" / "app" / "config"
TIMES = "\N{MULTIPLICATION SIGN}"
SITES = ("site-1", "site-2", "site-3")
HOSTILE = '<img src=x onerror="alert(1)">&"'
# FLARE 2.9.0's lines. In round 1 site-2's task is handed out before its round-0 result would be due again.
LOG = """\
2026-11-22 00:29:50,000 - SimulatorRunner - INFO - Create the Simulator Server.
2026-11-22 00:29:53,000 - ScatterAndGather - INFO - [wf=train] - Round 0 started.
2026-11-22 00:29:54,000 - ServerRunner - INFO - [wf=train] - assigned task to client site-1: name=train, id=b0
2026-11-22 00:29:54,500 - _Transaction - INFO - [server] download tx T7b done: status=finished elapsed=0.08s \
size=0.6MB (643,164 bytes)
2026-11-22 00:29:57,000 - function - INFO - [client] download ref=3e done: elapsed=0.09s size=0.1MB (150,018 bytes)
2026-11-22 00:29:58,000 - function - INFO - [client] download ref=bb done: elapsed=0.03s size=0.6MB (643,164 bytes)
2026-11-22 00:29:58,250 - ServerRunner - INFO - [wf=train] - got result from client site-1 for task: name=train, id=b0
2026-11-22 00:30:03,500 - ScatterAndGather - INFO - [wf=train] - Round 0 finished.
2026-11-22 00:30:03,600 - ScatterAndGather - INFO - [wf=train] - Round 1 started.
2026-11-22 00:30:05,600 - ScatterAndGather - INFO - [wf=train] - Round 1 finished.
2026-11-22 00:30:06,000 - _Transaction - INFO - [server] download tx T8c done: status=finished elapsed=0.08s \
size=0.6MB (1,000 bytes)
2026-11-22 00:30:08,000 - MPM - INFO - MPM: Good Bye!
"""


def metrics(psnr):
    return {"psnr": psnr, "ssim": psnr / 40, "nmse": 1 / psnr}


def site_figures(psnr):
    methods = {"zero_filled": metrics(psnr), "interpolated": metrics(psnr - 1), "model": metrics(psnr + 1.5)}
    return {"n_volumes": 2} | methods


def comparison(seed):
    """(1, H, 4*W) uint8 as a site streams it."""
    reference = phantom(seed)[..., 2].astype(float)
    reference = 255 * (reference / reference.max())
    noise = np.random.default_rng(seed).normal(0, 1, (3, *reference.shape))
    tiles = [*(reference + noise * np.array([30, 20, 10])[:, None, None]), reference]
    return np.concatenate(tiles, axis=1).clip(0, 255).astype(np.uint8)[None]


def write_run(workspace: Path, sites=SITES) -> Path:
    """A finished simulator workspace, by the writers that FLARE itself uses where they can be called."""
    folder = workspace / "server" / "simulate_job"
    for name in ("metrics", "cross_site_val", "app_server"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(CONFIGS, folder / "app_server" / "config")
    for name in ("FL_global_model.pt", "best_FL_global_model.pt"):
        (folder / "app_server" / name).write_bytes(bytes(2500))
    (folder / "meta.json").write_text(json.dumps({"name": "mscan_fedavg", "job_clients": [{"name": s} for s in sites]}))
    lines = []
    for number in range(3):
        rows = [
            {"name": site, "weight": 10 * k, "metrics": metrics(30 + k + number)} for k, site in enumerate(sites, 1)
        ]
        for row in rows:
            row["metrics"] = [{"name": name, "value": value} for name, value in row["metrics"].items()]
        lines.append({"round": number, "sites": rows})
    (folder / "metrics" / "round_metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    results = {s: {FINAL_MODEL: site_figures(30.0 + k)} for k, s in enumerate(sites)}
    (folder / "cross_site_val" / "cross_val_results.json").write_text(json.dumps(results))
    for number, site in enumerate(sites):
        with SummaryWriter(str(folder / "tb_events" / site)) as writer:
            for step in (1, 2, 3):
                writer.add_scalar("train/loss", 0.1 / step, step)
            writer.add_image(f"test/{FINAL_MODEL}", comparison(number))
    (workspace / "server" / "log.txt").write_text(LOG)
    pool = new_message_size_pool("received_stream_sizes")
    for size in (0.5, 1.5):
        pool.record_value("server.simulate_job:stream:server_command:submit_update", size)
    pools = {"received_stream_sizes": {"type": "hist", "pool": pool.to_dict()}}
    (workspace / "server" / "pool_stats").mkdir()
    (workspace / "server" / "pool_stats" / "simulator_cell_stats.json").write_text(json.dumps(pools))
    return workspace
