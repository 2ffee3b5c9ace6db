"""A job with settings of one's own: a copy of its rendered folder, changed wherever the settings have effect."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmr.federation.job_bundle import read_name
from fedmr.federation.render import CLIENT_CONFIG, CUSTOM, SERVER_CONFIG, locate_job, own_files
from fedmr.nets import build
from fedmr.tasks.overrides import merge
from fedmr.tasks.registry import build_task
from fedmr.utils.files import replace_folder
from fedmr.utils.hocon import components, nodes, read_hocon

SETTINGS = Path("app/config/fedmr_settings.json")  # FLARE leaves both with the configs in the run
MEANT = Path("app/config/fedmr_sites.json")
WEIGHTS = "fedmr_start.pt"
_META = Path("meta.conf")
# settings in addition to the task's: the argument of a component that each changes
_ARGUMENTS = {"num_rounds": "num_rounds", "train_timeout": "train_timeout", "min_clients_per_round": "min_sites"}
_ENCRYPTS = ("Encryptor", "Decryptor")

Tree = dict[str, Any]


def configure(
    job: Path, out: Path, settings: Mapping[str, Any], *, weights: Path | None = None, origin: str = ""
) -> Path:
    """Copy a job, with other settings and other first weights, and with the files of the classes that settings name.

    Args:
        job: job folder, or the name of a job of the package.
        out: folder to hold the copy; the result is OUT/NAME and replaces what is there.
        settings: of `overrides.parse_overrides`: "task" and the names of `num_rounds`, `train_timeout` and
            `min_clients_per_round`.
        weights: file as FLARE saves models, from which the server starts instead of from random weights.
        origin: what the weights are, for the record.

    Raises:
        FileNotFoundError: no such job.
        ValueError: an unknown setting, or one that the job has no use for, or a value that the task refuses.
    """
    job = locate_job(job)
    trees = {path: _plain(job / path) for path in (SERVER_CONFIG, CLIENT_CONFIG)}
    _check_names(settings)
    for name in sorted(set(settings) & set(_ARGUMENTS)):
        _set_argument(trees, name, settings[name], job)
    if "task" in settings:
        _set_task(trees, settings["task"], job)
    if weights:
        _component(trees[SERVER_CONFIG], "persistor", job)["args"]["source_ckpt_file_full_name"] = WEIGHTS
    target = out / read_name(job)
    with replace_folder(target) as passing:
        shutil.copytree(job, passing, ignore=shutil.ignore_patterns("__pycache__", ".__nvfl*"), dirs_exist_ok=True)
        for file in own_files(settings.get("task", {}), job / CUSTOM):
            shutil.copy(file, passing / CUSTOM / file.name)
        for path, tree in trees.items():
            (passing / path).write_text(json.dumps(tree, indent=1) + "\n")
        record = {"job": read_name(job), "set": dict(settings), "init_from": origin}
        (passing / SETTINGS).write_text(json.dumps(record, indent=1) + "\n")
        if weights:  # FLARE looks for a checkpoint without a path in the app's custom folder
            shutil.copy(weights, passing / "app" / "custom" / WEIGHTS)
    return target


def mean_sites(job: Path, sites: Sequence[str], required: Sequence[str] = ()) -> None:
    """Write into a job who is meant to take part, so that whoever is missing in the end can be named.

    FLARE deploys it to those alone, and starts it with as many as a round needs, `min_clients_per_round`.

    Args:
        job: job folder, changed in its place.
        sites: names of the sites that are meant.
        required: those without which it must not start.

    Raises:
        ValueError: nobody is meant, or somebody is required and not meant.
    """
    if not sites:
        raise ValueError("no site is meant to take part; name at least one")
    if strange := sorted(set(required) - set(sites)):
        raise ValueError(f"{', '.join(strange)} is required and not among the sites {', '.join(sites)}; mend the name")
    meta, server = _plain(job / _META), _plain(job / SERVER_CONFIG)
    needed = next((int(args["min_sites"]) for args in _arguments(server) if "min_sites" in args), 1)
    meta["min_clients"] = min(needed, len(sites))
    meta["deploy_map"] = {"app": ["server", *sites]}
    meta["mandatory_clients"] = list(required)
    (job / _META).write_text(json.dumps(meta, indent=1) + "\n")
    (job / MEANT).write_text(json.dumps({"sites": list(sites), "required": list(required)}) + "\n")


def read_deployment(job: Path) -> list[str]:
    """Return whom a job's `deploy_map` names, "server" and "@ALL" among them."""
    deployment = _plain(job / _META).get("deploy_map", {})
    return list(dict.fromkeys(str(name) for names in deployment.values() for name in names))


def read_least_sites(job: Path) -> int:
    """Return the number of sites without which FLARE does not start a job."""
    return int(_plain(job / _META).get("min_clients", 1))


def read_meant(folder: Path) -> list[str]:
    """Return the sites that were meant to take part in a job, or in the copy that FLARE leaves in a run; else none."""
    for path in (folder / MEANT, folder / MEANT.relative_to("app")):
        if path.is_file():
            sites = json.loads(path.read_text()).get("sites")
            return [str(site) for site in sites] if isinstance(sites, list) else []
    return []


def needs_keys(job: Path) -> bool:
    """Whether a job's sites encrypt, for which only provisioning makes keys."""
    config = _plain(locate_job(job) / CLIENT_CONFIG)
    return any(component["path"].endswith(_ENCRYPTS) for component in components(config))


def _check_names(settings: Mapping[str, Any]) -> None:
    known = ("task", *_ARGUMENTS)
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{unknown[0]} is no setting of a job; known are task.NAME, {', '.join(_ARGUMENTS)}")
    block = settings.get("task", {})
    if not isinstance(block, Mapping):
        raise ValueError(f"task is set to {block!r}; set what is in it, e.g. task.learning_rate=1e-3")
    for name, least in (("num_rounds", 1), ("min_clients_per_round", 1), ("train_timeout", 0)):
        value = settings.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} on")


def _plain(path: Path) -> Tree:
    tree: Tree = json.loads(json.dumps(read_hocon(path).as_plain_ordered_dict()))
    return tree


def _arguments(config: Tree) -> list[Tree]:
    return [node["args"] for node in nodes(config) if isinstance(node.get("args"), dict)]


def _set_argument(trees: Mapping[Path, Tree], name: str, value: Any, job: Path) -> None:
    argument = _ARGUMENTS[name]
    holders = [n["args"] for n in nodes(trees[SERVER_CONFIG]) if argument in (n.get("args") or {})]
    if not holders:
        raise ValueError(f"{job} has no use for {name}: none of its components takes {argument}")
    for args in holders:
        args[argument] = value


def _set_task(trees: Mapping[Path, Tree], changes: Mapping[str, Any], job: Path) -> None:
    """Change the task at the sites, and on the server its network and the learning rate that the guard knows."""
    arguments = [args for tree in trees.values() for args in _arguments(tree)]
    holders = [args for args in arguments if _is_tree(args.get("task"))]
    if not holders:
        raise ValueError(f"{job} trains nothing, so it has no task to change")
    old = holders[0]["task"]
    new = merge(old, changes)
    checked = build_task(new)
    build(**checked.network)
    for args in holders:
        args["task"] = new
    for component in list(components(list(trees.values()))):
        if component["path"] == "fedmr.nets.build":
            component["args"] = new["network"]
    for args in arguments:
        limits = args.get("limits")
        if isinstance(limits, dict) and limits.get("learning_rate") == old.get("learning_rate"):
            limits["learning_rate"] = checked.learning_rate


def _is_tree(value: Any) -> bool:
    return isinstance(value, dict)


def _component(config: Tree, name: str, job: Path) -> Tree:
    found = next((c for c in config["components"] if c.get("id") == name), None)
    if found is None:
        raise ValueError(f"{job} has no {name}, so it starts from no weights")
    component: Tree = found
    return component
