"""FLARE job folders, rendered from `app_configs/*.conf` and checked before they run.

HOCON includes inside a job do not work in FLARE 2.9.0 and symbolic links arrive empty, so a job is rendered whole.
"""

import hashlib
import importlib
import inspect
import itertools
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyhocon import ConfigFactory, ConfigTree, HOCONConverter

from fedmr.aggregation.guard import Limits
from fedmr.federation.allow_list import PRIVACY_FILTERS
from fedmr.federation.old_paths import new_path, refuse_old_paths
from fedmr.nets import build
from fedmr.tasks.registry import build_task
from fedmr.utils.class_path import TARGET, allow_folder, allowed_folders, modules_of
from fedmr.utils.hocon import components, read_hocon

PACKAGED_CONFIGS, PACKAGED_JOBS = (Path(__file__).parents[1] / name for name in ("app_configs", "jobs"))
CLIENT_CONFIG = Path("app/config/config_fed_client.conf")
CUSTOM = Path("app/custom")  # code that a job brings
SERVER_CONFIG = Path("app/config/config_fed_server.conf")
_SECTIONS = {"meta": Path("meta.conf"), "server": SERVER_CONFIG, "client": CLIENT_CONFIG}
CUSTOM_README = Path(__file__).with_name("job_custom") / "README.md"


def job_names(configs: Path) -> list[str]:
    """Return the names of the jobs that `configs` describes: its *.conf files that set `name`."""
    return sorted(p.stem for p in configs.glob("*.conf") if p.stem != "base")


def rendered(configs: Path, name: str) -> dict[Path, str]:
    """Return the files of a job, by their path within the job folder.

    Raises:
        ValueError: no such job, or its file is not valid HOCON, or `name` in it differs from the file's.
    """
    return _files(_parse(configs, name), name, configs)


def _parse(configs: Path, name: str) -> ConfigTree:
    source = configs / f"{name}.conf"
    if not source.is_file():
        raise ValueError(f"{source} does not exist; jobs are {', '.join(job_names(configs)) or 'none'}")
    tree = deepcopy(_parsed(_Source(name, _digest(configs), configs)))
    if tree.get("name", None) != name:
        raise ValueError(f"{source}: name is {tree.get('name', None)!r}; it must be the file's name, {name!r}")
    return tree


@dataclass(frozen=True)
class _Source:
    """A job's source, known by its name and the content of all sources; where they lie does not matter."""

    name: str
    digest: str
    configs: Path = field(compare=False)


@lru_cache(maxsize=64)
def _parsed(source: _Source) -> ConfigTree:
    """Parse a job's source, which takes a quarter of a second, once for the same texts."""
    return ConfigFactory.parse_file(source.configs / f"{source.name}.conf")


def _digest(configs: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(configs.rglob("*.conf")):
        content.update(f"{file.relative_to(configs)}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    return content.hexdigest()


def job_tree(configs: Path, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source of a job with other settings, as plain values.

    Args:
        configs: folder with the job sources.
        name: of the job to start from.
        changes: entries of the source; nested ones change what they name. A `task.network` that names another network
            replaces the job's, all but its scale and grid.

    Raises:
        ValueError: no such job, or an entry that the job does not have.
    """
    before = _plain(_parse(configs, name))
    if unknown := sorted(set(changes) - set(before)):
        raise ValueError(f"{name} has no {', '.join(unknown)}; it has {', '.join(sorted(before))}")
    if not changes:
        return before
    text = f'include required("{name}.conf")\n'
    if "network" in changes.get("task", {}):
        network = changed_network(before["task"]["network"], changes["task"]["network"])
        changes = {**changes, "task": {**changes["task"], "network": network}}
        text += "task.network = null\n"
    return _plain(ConfigFactory.parse_string(f"{text}{json.dumps(changes)[1:-1]}\n", basedir=str(configs)))


def changed_network(own: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's arguments with changes; if they name another network, only scale and grid are kept."""
    if any(change.get(key, own.get(key)) != own.get(key) for key in ("name", TARGET)):
        own = {key: own[key] for key in ("scale", "grid") if key in own}
    return {**own, **change}


def _plain(tree: ConfigTree) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(tree.as_plain_ordered_dict()))
    return values


def _files(tree: ConfigTree, name: str, configs: Path) -> dict[Path, str]:
    header = f"# Rendered from app_configs/{name}.conf by `fedmr jobs render`; edit that file, not this one.\n"
    files = {path: header + HOCONConverter.to_hocon(tree[section]) + "\n" for section, path in _SECTIONS.items()}
    files[Path("app/custom/README.md")] = CUSTOM_README.read_text()
    return files | {
        Path("app/custom") / file.name: file.read_text() for file in own_files(tree.get("task", {}), configs)
    }


def own_files(task: Mapping[str, Any], configs: Path) -> list[Path]:
    """Return the user's Python files that hold classes which a task names, for the job to take along.

    Args:
        task: the numbers of a task.
        configs: folder of the job's source, where they are looked for first, then where the user allowed files.
    """
    places = [configs, *allowed_folders()]
    files = [[place / f"{module}.py" for place in places] for module in sorted(modules_of(task))]
    return [next(file for file in found if file.is_file()) for found in files if any(f.is_file() for f in found)]


def render(configs: Path, jobs: Path) -> list[str]:
    """Write the folders of all jobs and return their names.

    Raises:
        ValueError: as `rendered`, or the filters of a job's clients would protect less than they seem to.
    """
    for name in job_names(configs):
        tree = _parse(configs, name)
        if problems := _filter_problems(tree["client"]):
            raise ValueError(f"{configs / name}.conf: {'; '.join(problems)}")
        for path, text in _files(tree, name, configs).items():
            (jobs / name / path).parent.mkdir(parents=True, exist_ok=True)
            (jobs / name / path).write_text(text)
    return job_names(configs)


def check(configs: Path, jobs: Path) -> list[str]:
    """Problems of all jobs: stale files, components that do not import, unknown arguments, a task or limits that
    are none, privacy filters that see only ciphertext or leave a task out."""
    problems = []
    allow_folder(configs)
    for name in job_names(configs):
        tree = _parse(configs, name)
        for path, text in _files(tree, name, configs).items():
            target = jobs / name / path
            if not target.is_file() or target.read_text() != text:
                problems.append(f"{target} is not what app_configs/{name}.conf renders; run `fedmr jobs render`")
                problems += _old_paths(target)
        for section in ("server", "client"):
            found = components(tree[section])
            problems += [f"{name} {section}: {p}" for node in found for p in _component_problems(node)]
        problems += [f"{name} client: {p}" for p in _filter_problems(tree["client"])]
        try:
            if "task" in tree:  # else the job does not train
                build(**build_task(tree["task"].as_plain_ordered_dict()).network)
            if "guard" in tree:
                Limits.from_dict(tree["guard"].as_plain_ordered_dict())
        except ValueError as error:
            problems.append(f"{name}: {error}")
    known = set(job_names(configs))
    problems += [f"{p} has no app_configs file" for p in jobs.iterdir() if p.is_dir() and p.name not in known]
    return problems


def _old_paths(config: Path) -> list[str]:
    try:
        refuse_old_paths(config.read_text() if config.is_file() else "", config)
    except ValueError as error:
        return [str(error)]
    return []


def read_argument(job: Path, config: Path, name: str) -> Any:
    """Return the first component's argument `name` in a rendered job, or in the copy that FLARE leaves in a run.

    Args:
        job: job folder, app folder or config file.
        config: CLIENT_CONFIG or SERVER_CONFIG.
        name: of the argument.

    Raises:
        FileNotFoundError: no such config there.
        ValueError: no component has the argument.
    """
    path = _find(job, config)
    for node in components(read_hocon(path)):
        if name in node.get("args", {}):
            return node["args"][name]
    raise ValueError(f"{path}: no component has {name}")


def read_task(job: Path) -> dict[str, Any]:
    """Return the task numbers of a job; arguments and errors as `read_argument`."""
    return read_argument(job, CLIENT_CONFIG, "task").as_plain_ordered_dict()


def read_num_rounds(job: Path) -> int:
    """Return the number of federated rounds of a job; arguments and errors as `read_argument`."""
    return int(read_argument(job, SERVER_CONFIG, "num_rounds"))


def locate_job(job: Path) -> Path:
    """Return the place of a job: that folder, else the job of the package of that name.

    Raises:
        FileNotFoundError: neither is there; the message names the jobs of the package.
    """
    named = PACKAGED_JOBS / job.name
    if job.exists() or not (named / "meta.conf").is_file():
        if (job / "meta.conf").is_file():
            return job
        known = ", ".join(sorted(path.parent.name for path in PACKAGED_JOBS.glob("*/meta.conf")))
        raise FileNotFoundError(f"{job} is no job: give a job folder (with meta.conf), or the name of one of {known}")
    return named


def _find(job: Path, relative: Path) -> Path:
    if not job.exists():
        job = locate_job(job)
    for candidate in (job, job / relative, job / relative.relative_to("app"), job / relative.name):
        for file in (candidate, candidate.with_suffix(".json")):  # FLARE's recipes write JSON, which is HOCON
            if file.is_file():
                return file
    raise FileNotFoundError(f"{job} holds no {relative.name}; give a job folder such as jobs/mscan_fedavg")


def _filter_problems(client: ConfigTree) -> list[str]:
    problems = []
    protected = set()
    for chain in client["task_result_filters"]:
        paths = [node["path"] for node in chain["filters"]]
        protected |= {task for task in chain["tasks"] if not PRIVACY_FILTERS.isdisjoint(paths)}
        looked = [any(p.endswith("SiteGuard") for p in paths[:n]) for n, p in enumerate(paths) if _encrypts(p)]
        if "train" in chain["tasks"] and not all(looked):
            problems.append("no SiteGuard comes before the encryption, after which nobody can look at an update")
        for earlier, later in itertools.pairwise(paths):
            if _encrypts(earlier):
                problems.append(f"{later} comes after {earlier} and would see only ciphertext; put it before")
    tasks = {task for executor in client["executors"] for task in executor["tasks"]}
    if protected and tasks - protected:
        problems.append(f"no privacy filter covers {', '.join(sorted(tasks - protected))}, as one does the other tasks")
    return problems


def _encrypts(path: str) -> bool:
    return path.endswith("Encryptor")


def _component_problems(node: ConfigTree) -> list[str]:
    module_name, _, attribute = node["path"].rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        if new := new_path(node["path"]):
            return [f"{node['path']} is now {new}; change the path in app_configs"]
        return [f"{node['path']} cannot be imported: {error}"]
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return []
    return [f"{node['path']} has no argument {name!r}" for name in node.get("args", {}) if name not in parameters]
