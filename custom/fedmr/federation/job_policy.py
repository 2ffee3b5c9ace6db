"""Whether a job, as it arrived at a site, stays within what the site's owner allows. Needs no FLARE."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmr.federation.allow_list import PRIVACY_FILTERS
from fedmr.privacy.policy import Policy
from fedmr.utils.class_path import refusal, targets
from fedmr.utils.hocon import UnsafeConfigError, read_hocon

_LOG_STREAMS = "nvflare.app_common.logging."
_ENCRYPTORS = ("fedmr.flare.he.PackedEncryptor", "fedmr.flare.ckks.CkksEncryptor")
_STATISTICS, _STATISTICS_FILTER = (
    "fedmr.flare.statistics.SiteStatistics",
    "fedmr.flare.statistics.StrictStatisticsFilter",
)
_ALONE = frozenset({"validate"})  # tasks whose results are metrics, which no encryptor takes


def problems_of(config: Path, policy: Policy) -> list[str]:
    """Return what in a job's client config goes beyond the policy; empty if nothing does.

    No value of the config is repeated, only paths of classes that the policy names or would have to name.

    Args:
        config: folder with the job's configs, `config_fed_client.*` among them.
        policy: of the site.
    """
    try:
        trees = {path: read_hocon(path) for path in sorted(config.glob("*")) if path.suffix in (".conf", ".json")}
    except UnsafeConfigError:
        return ["a config includes files or asks for variables of the environment; render the job whole"]
    except Exception as error:  # whatever a hostile text does to the parser, the job does not run
        return [f"a config cannot be read ({type(error).__name__})"]
    if any(path.suffix not in (".conf", ".json") for path in config.glob("config_fed_*")):
        return ["a config is neither HOCON nor JSON, and cannot be checked"]
    client = next((tree for path, tree in trees.items() if path.stem == "config_fed_client"), None)
    general = [problem for tree in trees.values() for problem in _general(tree)]
    custom = [config.parent / "custom"]  # code of the job, which FLARE has let in
    general += [problem for path in targets(list(trees.values())) if (problem := refusal(path, policy.classes, custom))]
    return list(dict.fromkeys([*general, *(_of_client(client, policy) if client is not None else [])]))


def _general(tree: Any) -> Iterator[str]:
    """Problems of any config, whatever the site allows: variables of the environment, and logs that leave."""
    for value in _walk(tree):
        if isinstance(value, str):
            if "{$" in value.replace(" ", ""):
                yield "a value asks for a variable of the site's environment ({$NAME})"
            if value.startswith(_LOG_STREAMS) or value.rpartition(".")[2] == "JobLogStreamer":
                yield "it streams the site's log, which stays at the site"


def _of_client(client: Mapping[str, Any], policy: Policy) -> Iterator[str]:
    paths = {value for value in _walk(client) if isinstance(value, str)}
    tasks = {task for executor in client.get("executors", []) for task in executor.get("tasks", [])}
    trained = tasks - _ALONE
    if _STATISTICS in paths:
        if policy.min_patients > 1 and _STATISTICS_FILTER not in _filters(client, tasks):
            yield f"statistics must pass {_STATISTICS_FILTER} (min_patients)"
        return
    for needed in policy.required_filters:
        if needed not in _filters(client, trained):
            yield f"not all that it trains passes {needed} (required_filters)"
    if policy.encryption and not any(encryptor in _filters(client, trained) for encryptor in _ENCRYPTORS):
        yield "not all that it trains is encrypted (encryption)"
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
