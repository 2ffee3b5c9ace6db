"""A job that goes on where another one stopped: FLARE 2.9.0 does not resume a job after its server died."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from pyhocon import ConfigTree, HOCONConverter

from fedmr.federation.kits import ConsortiumError, Kits
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.utils.files import replace_folder
from fedmr.utils.hocon import read_hocon

MODEL_FILE = "FL_global_model.pt"
_STATELESS = (
    "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "fedmr.flare.flmrcm.CrossSiteScatterAndGather",
    "fedmr.flare.undoing.UndoingScatterAndGather",
)
# of the workflow's own logger: other components repeat what sites say
_FINISHED = re.compile(r"^[\d-]+ [\d:,]+ - \w*ScatterAndGather\w* - INFO - .*?Round (\d+) finished\.$", re.MULTILINE)
_SERVER_OPTIMISER = "nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator"


def find_run(kits: Kits, job_id: str) -> Path:
    """Return what the server has of a job that has not ended properly.

    Raises:
        ConsortiumError: nothing there.
    """
    folder = kits.folder / kits.server["name"] / job_id
    if not folder.is_dir():
        raise ConsortiumError(
            f"the server has no folder {job_id}. If the job has ended, download it with `fedmr poc collect {job_id}` "
            "and resume the downloaded folder"
        )
    return folder


def resumed_job(run: Path, out: Path) -> Path:
    """Make a job of the rounds that a run still lacks.

    It starts from the last global model, and every site from its own state after the same round.

    Args:
        run: the run's folder on the server, or a downloaded job.
        out: folder to hold the job; the result is OUT/NAME and replaces what is there.

    Raises:
        ConsortiumError: the run has no finished round, is complete, or keeps a state on the server that is lost.
    """
    run = run / "workspace" if (run / "workspace").is_dir() else run
    app, meta = run / "app_server", _read_meta(run)
    server, client = (read_hocon(app / path.relative_to("app")) for path in (SERVER_CONFIG, CLIENT_CONFIG))
    workflow, done = _training(server, run), rounds_done(run)
    total = workflow["args"].get("start_round", 0) + workflow["args"]["num_rounds"]
    if not done or not (app / MODEL_FILE).is_file():
        raise ConsortiumError(f"{run} has no finished round to go on from; submit its job again")
    if done >= total:
        raise ConsortiumError(f"{run} has all its {total} rounds; there is nothing to resume")
    workflow["args"]["start_round"], workflow["args"]["num_rounds"] = done, total - done
    _component(server, "persistor")["args"]["source_ckpt_file_full_name"] = MODEL_FILE
    _component(client, "learner")["args"]["resume"] = ConfigTree(job=meta["job_id"], round=done)
    target = out / meta["name"]
    with replace_folder(target) as passing:
        _write_job(passing, app, server, client, meta)
    return target


def _write_job(folder: Path, app: Path, server: ConfigTree, client: ConfigTree, meta: dict[str, Any]) -> None:
    (folder / "app" / "config").mkdir(parents=True)
    (folder / SERVER_CONFIG).write_text(HOCONConverter.to_hocon(server) + "\n")
    (folder / CLIENT_CONFIG).write_text(HOCONConverter.to_hocon(client) + "\n")
    kept = {key: meta[key] for key in ("name", "resource_spec", "min_clients", "deploy_map")}
    (folder / "meta.conf").write_text(json.dumps(kept, indent=1) + "\n")
    junk = shutil.ignore_patterns("__pycache__", ".__nvfl*")
    if (app / "custom").is_dir():
        shutil.copytree(app / "custom", folder / "app" / "custom", ignore=junk)
    # FLARE looks for a checkpoint without a path in the app's custom folder
    (folder / "app" / "custom").mkdir(exist_ok=True)
    shutil.copy(app / MODEL_FILE, folder / "app" / "custom" / MODEL_FILE)


def rounds_done(run: Path) -> int:
    """Rounds whose model the server has saved, by FLARE's own line in its log, which follows the saving."""
    finished = _FINISHED.findall((run / "log.txt").read_text(errors="replace"))
    return int(finished[-1]) + 1 if finished else 0


def _read_meta(run: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((run / "meta.json").read_text())
    except OSError:
        raise ConsortiumError(
            f"{run} is no run of a provisioned federation: meta.json is missing. Give the folder of the job on the "
            "server, or one that `fedmr poc collect` made"
        ) from None
    return meta


def _training(server: ConfigTree, run: Path) -> ConfigTree:
    workflow: ConfigTree = next((w for w in server["workflows"] if w["id"] == "train"), None)
    if workflow is None or workflow["path"] not in _STATELESS:
        raise ConsortiumError(
            f"{run} cannot be resumed: its workflow keeps state on the server that FLARE does not save"
        )
    if _component(server, "shareable_generator")["path"] == _SERVER_OPTIMISER:
        raise ConsortiumError(f"{run} cannot be resumed: FLARE does not save the state of the server's optimiser")
    return workflow


def _component(config: ConfigTree, name: str) -> ConfigTree:
    found: ConfigTree = next(component for component in config["components"] if component["id"] == name)
    return found
