"""FedMR's jobs as a FLARE recipe: made and changed in Python, run in any of FLARE's environments.

https://nvflare.readthedocs.io/en/2.9/user_guide/data_scientist_guide/job_recipe.html
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.job_config.api import FedJob
from nvflare.job_config.defs import FilterType
from nvflare.job_config.fed_job_config import FedJobConfig
from nvflare.recipe.spec import Recipe

from fedmr.federation.render import CUSTOM_README, PACKAGED_CONFIGS, job_tree
from fedmr.nets import build
from fedmr.tasks.registry import build_task

_OWN_META = {"name", "resource_spec", "min_clients", "deploy_map"}  # what FLARE's job writes itself
_FILTERS = {"task_data_filters": FilterType.TASK_DATA, "task_result_filters": FilterType.TASK_RESULT}


class FedMRRecipe(Recipe):
    """One of FedMR's jobs, changed in a few places; the components are those of `jobs/NAME`.

    What FLARE's recipes can do is there: `execute(SimEnv(..))`, `PocEnv`, `ProdEnv`, `export`, and `add_client_file`
    and its like for an own network or filter.

    Args:
        job: which of `app_configs/` to start from.
        name: name of the new job; by default that of `job`.
        num_rounds: federated rounds; by default the job's.
        task: numbers of the task to change, e.g. ``{"learning_rate": 1e-3}``. A `network` that names another one
            replaces the job's, all but its scale and grid; else the given arguments change.
        settings: other entries of the job's source to change, e.g. ``{"min_clients_per_round": 3}``.
        custom_code: mark the job as one with code of its own, as `jobs/` are: sites then check it against their right
            to run such code. False for sites that have FedMR and forbid other code.
        configs: folder with the job sources; by default those that come with FedMR.

    Raises:
        ValueError: no such job, or a task or network that is none.
    """

    def __init__(
        self,
        job: str = "mscan_fedavg",
        *,
        name: str = "",
        num_rounds: int | None = None,
        task: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        custom_code: bool = True,
        configs: Path = PACKAGED_CONFIGS,
    ) -> None:
        changes = dict(settings or {})
        changes |= {"name": name} if name else {}
        changes |= {"num_rounds": num_rounds} if num_rounds else {}
        changes |= {"task": dict(task)} if task else {}
        tree = job_tree(configs, job, changes)
        if "task" in tree:
            build(**build_task(tree["task"]).network)
        super().__init__(_fed_job(tree, custom_code))


def _fed_job(tree: Mapping[str, Any], custom_code: bool) -> FedJob:
    meta = tree["meta"]
    more = {key: value for key, value in meta.items() if key not in _OWN_META}
    job = _StatedJob(tree["name"], meta["min_clients"], more)
    for side, add in (("server", job.to_server), ("client", job.to_clients)):
        part = tree[side]
        for workflow in part.get("workflows", []):
            add(_stated(workflow), id=workflow["id"])
        for entry in part.get("executors", []):
            add(_stated(entry["executor"]), tasks=entry["tasks"])
        for component in part["components"]:
            add(_stated(component), id=component["id"])
        for key, kind in _FILTERS.items():
            for chain in part[key]:
                for node in chain["filters"]:
                    add(_stated(node), filter_type=kind, tasks=chain["tasks"])
    job.to_server({"server": tree["server"]["server"]})
    if custom_code:
        job.to_clients(str(CUSTOM_README.parent))
    return job


def _stated(node: Mapping[str, Any]) -> Any:
    """Return a component that carries what the job states of it and nothing else, for FLARE to write down.

    FLARE's job derives a component's arguments from its attributes, and so loses what the constructor turns into
    something else. This one is never run, so its constructor is not called.
    """
    module, _, name = node["path"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    part = kind.__new__(kind)
    part.stated_args = dict(node.get("args", {}))
    part._task_check_period = None  # which FLARE's job reads of a workflow
    return part


class _StatedJob(FedJob):
    """FLARE's job that writes down the arguments of `_stated` components as they are stated."""

    def __init__(self, name: str, min_clients: int, meta_props: dict[str, Any]) -> None:
        super().__init__(name=name, min_clients=min_clients, meta_props=meta_props)
        self.job = _StatedJobConfig(job_name=name, min_clients=min_clients, meta_props=meta_props)
        self.set_app_packages(["fedmr"])


class _StatedJobConfig(FedJobConfig):
    def _get_args(self, component: Any, custom_dir: str) -> dict[str, Any]:
        stated: dict[str, Any] | None = vars(component).get("stated_args")
        return super()._get_args(component, custom_dir) if stated is None else stated
