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
from fedmr.federation.allow_list import class_allow_list
from fedmr.privacy.policy import read_policy, write_policy

_RETURNED = {"id": "returned_sites", "path": "fedmr.flare.returned.ReturnedSites", "args": {}}
_KEEPER = {"id": "policy_keeper", "path": "fedmr.flare.keeper.PolicyKeeper", "args": {}}
_LOG_STREAMERS = "nvflare.app_common.logging."  # FLARE's components by which sites' logs leave
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
    kit: Path,
    *,
    data: Path | None = None,
    forbid_code: bool | None = None,
    gpus: int | None = None,
    gpu_memory: int | None = None,
) -> None:
    """Write what only the owner of a kit knows into its `local` folder; what FLARE signed is not touched.

    Whatever the arguments, logs do not leave, no admin reads files of the machine, jobs without code may name
    FedMR's components and those of the owner's policy alone, and the policy holds. A site gets a policy to start
    with; one that is there is its owner's and stays. So does every other setting that the owner has made: what is not
    given is left as it is.

    Args:
        kit: startup kit of a server or a site, as it came from `nvflare provision`.
        data: data root of the site.
        forbid_code: refuse jobs that bring code; FedMR must then be installed, and its jobs come without code.
        gpus: number of GPUs that jobs may use; none in a new kit.
        gpu_memory: of each, in GiB.

    Raises:
        ConsortiumError: the folder is no kit, or holds no site's data.
        ValueError: the owner's policy cannot be read, or allows more than single classes.
    """
    local = kit / "local"
    if not (local / "resources.json.default").is_file():
        raise ConsortiumError(f"{kit} is no startup kit of a server or a site: local/resources.json.default is missing")
    resources = _of_owner(local / "resources.json")
    components = {component["id"]: component for component in resources["components"]}
    is_site = "job_manager" not in components
    if is_site:
        write_policy(local)
    else:  # FLARE's own places are shared by all servers of a machine
        components["job_manager"]["args"]["uri_root"] = str((kit / "storage" / "jobs").resolve())
        snapshots = resources["snapshot_persistor"]["args"]["storage"]["args"]
        snapshots["root_dir"] = str((kit / "storage" / "snapshots").resolve())
    if "resource_manager" in components:
        given = {"num_of_gpus": gpus, "mem_per_gpu_in_GiB": gpu_memory}
        known = {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0} if not (local / "resources.json").is_file() else {}
        known |= {name: value for name, value in given.items() if value is not None}
        components["resource_manager"]["args"] |= known
    _restrict(resources, class_allow_list(read_policy(local).classes), [_KEEPER] if is_site else [_KEEPER, _RETURNED])
    (local / "resources.json").write_text(json.dumps(resources, indent=2) + "\n")
    _set_rights(local, forbid_code=bool(forbid_code))
    if data is not None:
        _set_data(kit, data)


def _set_rights(local: Path, *, forbid_code: bool) -> None:
    """Forbid shell commands, and jobs that bring code if asked to, to all roles; all else stays the owner's."""
    rights = _of_owner(local / "authorization.json")
    none = {"shell_commands": "none"} | ({"byoc": "none"} if forbid_code else {})
    for role, permissions in rights["permissions"].items():
        rights["permissions"][role] = _all_rights(permissions) | none
    (local / "authorization.json").write_text(json.dumps(rights, indent=2) + "\n")


def _of_owner(file: Path) -> dict[str, Any]:
    """Settings as the owner has them, else as FLARE's default has them.

    Raises:
        ConsortiumError: the owner's are no JSON.
    """
    chosen = file if file.is_file() else file.with_name(f"{file.name}.default")
    try:
        settings: dict[str, Any] = json.loads(chosen.read_text())
    except ValueError as error:
        raise ConsortiumError(
            f"{chosen} is no JSON ({error}); mend it, or remove it to start from the default"
        ) from None
    return settings


def _restrict(resources: dict[str, Any], classes: list[str], ours: list[dict[str, Any]]) -> None:
    """Let FLARE build these classes alone, send no logs, and add our components, e.g. the policy's keeper."""
    resources["class_allow_list"] = classes
    resources["class_list_enforcement_mode"] = "enforce"
    resources["allow_log_streaming"] = False
    names = {part["id"] for part in ours}
    kept = [part for part in resources["components"] if not part.get("path", "").startswith(_LOG_STREAMERS)]
    resources["components"] = [*(part for part in kept if part["id"] not in names), *ours]


def _set_data(kit: Path, data: Path) -> None:
    if not (data / kit.name / "datalist.json").is_file():
        raise ConsortiumError(
            f"{data} holds no data for {kit.name}: {kit.name}/datalist.json is missing. Make demo data with "
            "`fedmr demo-data`, or prepare the site's own with `fedmr prepare`"
        )
    (kit / "local" / DATA_ROOT_FILE).write_text(f"{data.resolve()}\n")


def _all_rights(permissions: Any) -> dict[str, Any]:
    """A role's rights, one by one; "any" is short for all of them."""
    if isinstance(permissions, dict):
        return permissions
    rights = ("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", "byoc")
    return dict.fromkeys(rights, permissions)


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
