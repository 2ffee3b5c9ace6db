"""A job that goes on where another one stopped: FLARE 2.9.0 does not resume a job after its server died."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from pyhocon import ConfigTree, HOCONConverter

from fedmr.federation.kits import ConsortiumError, Kits
from fedmr.federation.render import CLIENT_CONFIG, SERVER_CONFIG
from fedmr.runs.checks import RunError
from fedmr.runs.run import MODEL_FILES, Run
from fedmr.utils.files import replace_folder
from fedmr.utils.hocon import read_hocon
from fedmr.utils.text import one_line

MODEL_FILE = MODEL_FILES[0]
_STATELESS = (
    "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
    "fedmr.flare.flmrcm.CrossSiteScatterAndGather",
    "fedmr.flare.undoing.UndoingScatterAndGather",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")  # of a job, as FLARE allows it: it names a folder here
_KEPT = ("name", "resource_spec", "min_clients", "deploy_map")  # of the job's meta.json
_SERVER_OPTIMISER = "nvflare.app_opt.pt.fedopt.PTFedOptModelShareableGenerator"


def unfinished_run(kits: Kits, job_id: str) -> Path:
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


def resumed_job(path: Path, out: Path) -> Path:
    """Make a job of the rounds that a run still lacks.

    It starts from the last global model, and every site from its own state after the same round.

    Args:
        path: the run's folder on the server, or a downloaded job.
        out: folder to hold the job; the result is OUT/NAME and replaces what is there.

    Raises:
        ConsortiumError: the run has no finished round, is complete, or keeps a state on the server that is lost.
        UnsafeConfigError: its config reaches out of its file.
    """
    try:
        run = Run(path)
    except RunError as error:
        raise ConsortiumError(f"{error}, or of the server's folder of the job; meta.json is missing there") from None
    app, meta = run.folder / "app_server", _checked_meta(run)
    server, client = (read_hocon(app / path.relative_to("app")) for path in (SERVER_CONFIG, CLIENT_CONFIG))
    workflow, done = _training(server, run.folder), run.log.done if run.log else 0
    total = workflow["args"].get("start_round", 0) + workflow["args"]["num_rounds"]
    if not done or not (app / MODEL_FILE).is_file():
        raise ConsortiumError(f"{run.folder} has no finished round to go on from; submit its job again")
    if done >= total:
        raise ConsortiumError(f"{run.folder} has all its {total} rounds; there is nothing to resume")
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
    kept = {key: meta[key] for key in _KEPT}
    (folder / "meta.conf").write_text(json.dumps(kept, indent=1) + "\n")
    junk = shutil.ignore_patterns("__pycache__", ".__nvfl*")
    if (app / "custom").is_dir():
        shutil.copytree(app / "custom", folder / "app" / "custom", ignore=junk)
    # FLARE looks for a checkpoint without a path in the app's custom folder
    (folder / "app" / "custom").mkdir(exist_ok=True)
    shutil.copy(app / MODEL_FILE, folder / "app" / "custom" / MODEL_FILE)


def _checked_meta(run: Run) -> dict[str, Any]:
    """Return what the server noted of the job, with what a resumed job takes from it.

    Raises:
        ConsortiumError: it is missing, or a name in it could be a path.
    """
    absent = [key for key in (*_KEPT, "job_id") if key not in run.meta]
    if absent:
        raise ConsortiumError(
            f"{run.path} is no run of a provisioned federation: meta.json is missing or lacks {', '.join(absent)}. "
            "Give the folder of the job on the server, or one that `fedmr poc collect` made"
        )
    for key in ("name", "job_id"):
        value = run.meta[key]
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ConsortiumError(f"{run.path}: meta.json gives the {key} {one_line(value, 60)!r}, which is none")
    return run.meta


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
