"""Startup kits: made by `nvflare provision`, then filled with what only their owner knows."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from fedmr.data.datalist import DATA_ROOT_FILE

# What FedMR's jobs name and FLARE's own list lacks; a name that ends in a dot stands for all that begins with it.
ALLOWED = (
    "fedmr.",
    "nvflare.app_common.executors.learner_executor.LearnerExecutor",
    "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
)
_PORTS = ("fed_learn_port", "admin_port")


class ConsortiumError(RuntimeError):
    """The federation is not in the state that a command needs."""


@dataclass(frozen=True)
class Kits:
    """The kits that `nvflare provision` left in a workspace."""

    workspace: Path
    project: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where the newest kits lie, a folder for each participant."""
        return max((self.workspace / self.project["name"]).glob("prod_*"))

    @property
    def server(self) -> dict[str, Any]:
        """The server's entry in the project."""
        return next(self._participants("server"))

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return [entry["name"] for entry in self._participants("client")]

    @property
    def admins(self) -> list[str]:
        """Names of the people."""
        return [entry["name"] for entry in self._participants("admin")]

    @property
    def ports(self) -> list[int]:
        """Ports on which the server listens."""
        return [self.server[key] for key in _PORTS if key in self.server]

    def admin(self, name: str = "") -> Path:
        """Kit of an admin, the project's first one by default.

        Raises:
            ConsortiumError: no such admin; names those there are.
        """
        if name and name not in self.admins:
            raise ConsortiumError(f"{name} is no admin of this project; known are {', '.join(self.admins)}")
        return self.folder / (name or self.admins[0])

    def _participants(self, kind: str) -> Iterator[dict[str, Any]]:
        return (entry for entry in self.project["participants"] if entry["type"] == kind)


def open_kits(workspace: Path) -> Kits:
    """Kits that are there.

    Raises:
        ConsortiumError: there are none.
    """
    copy = workspace / "project.yml"
    if not copy.is_file():
        raise ConsortiumError(f"{workspace} holds no federation; make one with `fedmr poc provision`")
    return Kits(workspace, yaml.safe_load(copy.read_text()))


def provision(project: Path, workspace: Path, *, data: Path | None = None) -> tuple[Kits, bool]:
    """Make startup kits for every participant, ready to run on this machine.

    A port of the project that is taken here is replaced by a free one. Kits of the same project are kept.

    Args:
        project: project.yml for `nvflare provision`.
        workspace: folder to fill.
        data: data root for all sites, for a federation on one machine.

    Returns:
        the kits, and whether they are new.

    Raises:
        ConsortiumError: the project is none, the folder holds another project's kits, or FLARE failed.
    """
    try:
        entries = yaml.safe_load(project.read_text())
        wanted = Kits(workspace, entries)
        names = [wanted.server["name"], *wanted.sites]
        wanted.admins[0]
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration, IndexError) as error:
        raise ConsortiumError(
            f"{project} is no project for `nvflare provision` ({error!r}); start from poc/project.yml"
        ) from None
    if (workspace / "project.yml").is_file():
        kept = open_kits(workspace)
        if _without_ports(kept.project) != _without_ports(entries):
            raise ConsortiumError(
                f"{workspace} holds the kits of another project than {project}; name another --workspace, or remove it"
            )
        return kept, False
    for key in _PORTS:
        if key in wanted.server:
            wanted.server[key] = free_port(wanted.server[key])
    workspace.mkdir(parents=True, exist_ok=True)
    draft = workspace / "project.draft.yml"
    draft.write_text(yaml.safe_dump(entries, sort_keys=False))
    _run_provision(draft, workspace)
    for name in names:
        fill_kit(wanted.folder / name, data=data if name in wanted.sites else None)
    draft.rename(workspace / "project.yml")  # last: what is there is whole
    return wanted, True


def _run_provision(project: Path, workspace: Path) -> None:
    shutil.rmtree(
        workspace / yaml.safe_load(project.read_text())["name"], ignore_errors=True
    )  # of a run that was cut off
    command = [tool("nvflare"), "provision", "-p", str(project.resolve()), "-w", str(workspace.resolve())]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(workspace))
    if result.returncode:
        raise ConsortiumError(f"nvflare provision failed: {(result.stdout + result.stderr).strip()[-1500:]}")


def fill_kit(
    kit: Path, *, data: Path | None = None, forbid_code: bool = False, gpus: int = 0, gpu_memory: int = 0
) -> None:
    """Write what only the owner of a kit knows into its `local` folder; what FLARE signed is not touched.

    Args:
        kit: startup kit of a server or a site, as it came from `nvflare provision`.
        data: data root of the site.
        forbid_code: refuse jobs that bring code; FedMR must then be installed, and its jobs come without code.
        gpus: number of GPUs that jobs may use.
        gpu_memory: of each, in GiB.

    Raises:
        ConsortiumError: the folder is no kit, or holds no site's data.
    """
    local = kit / "local"
    if not (local / "resources.json.default").is_file():
        raise ConsortiumError(f"{kit} is no startup kit of a server or a site: local/resources.json.default is missing")
    resources = json.loads((local / "resources.json.default").read_text())
    resources["class_allow_list"] += [name for name in ALLOWED if name not in resources["class_allow_list"]]
    components = {component["id"]: component for component in resources["components"]}
    if "job_manager" in components:  # FLARE's own places are shared by all servers of a machine
        components["job_manager"]["args"]["uri_root"] = str((kit / "storage" / "jobs").resolve())
        snapshots = resources["snapshot_persistor"]["args"]["storage"]["args"]
        snapshots["root_dir"] = str((kit / "storage" / "snapshots").resolve())
    if "resource_manager" in components:
        components["resource_manager"]["args"] |= {"num_of_gpus": gpus, "mem_per_gpu_in_GiB": gpu_memory}
    (local / "resources.json").write_text(json.dumps(resources, indent=2) + "\n")
    if data is not None:
        if not (data / kit.name / "datalist.json").is_file():
            raise ConsortiumError(
                f"{data} holds no data for {kit.name}: {kit.name}/datalist.json is missing. Make demo data with "
                "`fedmr demo-data`, or prepare the site's own with `fedmr prepare`"
            )
        (local / DATA_ROOT_FILE).write_text(f"{data.resolve()}\n")
    if forbid_code:
        rights = json.loads((local / "authorization.json.default").read_text())
        for role, permissions in rights["permissions"].items():
            rights["permissions"][role] = _without_code(permissions)
        (local / "authorization.json").write_text(json.dumps(rights, indent=2) + "\n")


def _without_code(permissions: Any) -> Any:
    """A role's rights less "byoc"; "any" is short for all rights."""
    if not isinstance(permissions, dict):
        rights = ("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", "shell_commands")
        permissions = dict.fromkeys(rights, permissions)
    return permissions | {"byoc": "none"}


def _without_ports(project: dict[str, Any]) -> dict[str, Any]:
    participants = [{k: v for k, v in entry.items() if k not in _PORTS} for entry in project["participants"]]
    return project | {"participants": participants}


def free_port(wanted: int) -> int:
    """The port if nothing listens there, else one that is free now."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger for a minute
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConsortiumError("this machine has no free port")


def tool(name: str) -> str:
    """A command of the Python that runs."""
    return str(Path(sys.executable).parent / name)


def environment(workspace: Path) -> dict[str, str]:
    """For FLARE's processes: this Python first, and its own settings apart from those of the person who calls."""
    home = (workspace / "home").resolve()
    home.mkdir(parents=True, exist_ok=True)
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}", "HOME": str(home)}
