"""Whether a job, as it arrived at a site, stays within what the site's owner allows. Needs no FLARE."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmr.federation.allow_list import ALLOWED, PRIVACY_FILTERS
from fedmr.privacy.policy import Policy
from fedmr.utils.class_path import refusal, targets
from fedmr.utils.hocon import UnsafeConfigError, nodes, read_hocon

_CLIENT = "config_fed_client"
_FILE_NAME = re.compile(r"[\w-][\w.-]*")
_LOG_STREAMS = "nvflare.app_common.logging."
_ENCRYPTORS = ("fedmr.flare.he.PackedEncryptor", "fedmr.flare.ckks.CkksEncryptor")
_STATISTICS, _STATISTICS_FILTER = (
    "fedmr.flare.statistics.SiteStatistics",
    "fedmr.flare.statistics.StrictStatisticsFilter",
)
_ALONE = frozenset({"validate"})  # tasks whose results are metrics, which no encryptor takes


def problems_of(config: Path, policy: Policy, *, code: bool | None = None) -> list[str]:
    """Return what in a job's client config goes beyond the policy; empty if nothing does.

    No value of the config is repeated, only paths of classes that the policy names or would have to name.

    Args:
        config: folder with the job's configs, `config_fed_client.*` among them.
        policy: of the site.
        code: whether FLARE knows that the job brings code, and has let it in; by default whether there is any.
    """
    custom = config.parent / "custom"
    if code is None:
        code = custom.is_dir()
    elif not code and custom.exists():
        return ["it brings code that it does not declare, which FLARE would import"]
    if misplaced := _misplaced(config):
        return [misplaced]
    try:
        trees = {path: _read(path) for path in sorted(config.rglob("*")) if path.suffix in (".conf", ".json")}
    except UnsafeConfigError:
        return ["a config includes files or asks for variables of the environment; render the job whole"]
    except Exception as error:  # whatever a hostile text does to the parser, the job does not run
        return [f"a config cannot be read ({type(error).__name__})"]
    client = next((tree for path, tree in trees.items() if path.stem == _CLIENT), None)
    general = [problem for tree in trees.values() for problem in _general(tree)]
    if not code:  # else FLARE does not look at classes either
        general += [problem for tree in trees.values() for problem in _strange_classes(tree, policy)]
    folders = [custom] if code else []
    general += [
        problem for path in targets(list(trees.values())) if (problem := refusal(path, policy.classes, folders))
    ]
    return list(dict.fromkeys([*general, *(_of_client(client, policy) if client is not None else [])]))


def _misplaced(config: Path) -> str:
    """Why it is not clear which configs FLARE would take, "" if it is.

    FLARE looks for a config by its name with each ending in turn, in folders below as well, and takes the first.
    """
    found = [path for path in config.rglob("*") if path.name.startswith("config_fed_")]
    if any(path.suffix not in (".conf", ".json") for path in found):
        return "a config is neither HOCON nor JSON, and cannot be checked"
    if any(path.parent != config for path in found) or len({path.stem for path in found}) < len(found):
        return "there are several configs of one name, and FLARE might take another than is checked"
    return ""


def _read(path: Path) -> Any:
    """A config as FLARE reads it: JSON by Python's own parser, which knows escapes, HOCON by pyhocon.

    Raises:
        ValueError: a name stands twice in JSON, of which parsers take one or the other.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    return read_hocon(path)


def _general(tree: Any) -> Iterator[str]:
    """Problems of any config, whatever the site allows: variables of the environment, logs that leave, pickles."""
    for value in _walk(tree):
        if isinstance(value, str):
            if any(sign in "".join(value.split()) for sign in ("{$", "${")):
                yield "a value asks for a variable of the site's environment ({$NAME})"
            if value.startswith(_LOG_STREAMS) or value.rpartition(".")[2] == "JobLogStreamer":
                yield "it streams the site's log, which stays at the site"
    for node in nodes(tree):
        if node.get("load_weights_only", True) is not True:
            yield "it would read a model file that can hold commands (load_weights_only)"
        if not _FILE_NAME.fullmatch(str(node.get("source_ckpt_file_full_name", None) or "model")):
            yield "it starts from a model file outside the job (source_ckpt_file_full_name)"


def _strange_classes(tree: Any, policy: Policy) -> Iterator[str]:
    """Class paths beyond the site's list, wherever they stand.

    FLARE checks a path when it builds a component. What it takes for a plain dictionary (`config_type`) passes, and its
    own components build such later, e.g. the persistor its network.
    """
    allowed = {*ALLOWED, *policy.classes}
    for node in nodes(tree):
        for key in ("path", "class_path"):
            if key in node and not (isinstance(node[key], str) and node[key] in allowed):
                yield f"a class is not on the site's list ({key}); a job without code may name those of FedMR's jobs"


def _of_client(client: Mapping[str, Any], policy: Policy) -> Iterator[str]:
    paths = {value for value in _walk(client) if isinstance(value, str)}
    tasks = {task for executor in client.get("executors", []) for task in executor.get("tasks", [])}
    trained = tasks - _ALONE
    for node in nodes(client.get("executors", [])):
        if any(name.endswith("_task") and value != name.removesuffix("_task") for name, value in node.items()):
            yield "an executor does one task under the name of another, whose filters are not the same"
    if _STATISTICS in paths:
        if policy.min_patients > 1 and _STATISTICS_FILTER not in _filters(client, tasks):
            yield f"statistics must pass {_STATISTICS_FILTER} (min_patients)"
        return
    for needed in policy.required_filters:
        if needed not in _filters(client, trained):
            yield f"not all that it trains passes {needed} (required_filters)"
    if policy.encryption and not any(encryptor in _filters(client, tasks) for encryptor in _ENCRYPTORS):
        yield "not all that it sends is encrypted or rounded by an encryptor (encryption)"
    if policy.min_volumes > 1 and PRIVACY_FILTERS.isdisjoint(_filters(client, tasks)):
        yield "no filter counts the volumes behind its metrics (min_volumes)"


def _filters(client: Mapping[str, Any], tasks: set[str]) -> set[str]:
    """Paths of the result filters that every one of the tasks passes."""
    by_task: dict[str, set[str]] = {task: set() for task in tasks}
    for chain in client.get("task_result_filters", []):
        for task in tasks & set(chain.get("tasks", [])):
            if chain.get("direction", "out") in ("out", "inout"):
                by_task[task] |= {node.get("path", "") for node in chain.get("filters", [])}
    return set.intersection(*by_task.values()) if by_task else set()


def _walk(node: Any) -> Iterator[Any]:
    """All keys and values of a config, from the outside in."""
    yield node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield key
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)
