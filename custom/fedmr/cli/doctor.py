"""`fedmr doctor`: what this machine has of what FedMR needs."""

import os
import platform
import shutil
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

console = Console()

PACKAGES = ("torch", "nvflare", "monai", "nibabel", "pydicom", "tenseal")
PORTS = (18002, 18003)  # of the server in poc/project.yml
_LEAST_SPACE = 5  # GB
Finding = tuple[bool, str]  # whether it is well, and what was found, with the remedy


def doctor(
    data: Annotated[Path | None, typer.Option(help="Data root; $FEDMR_DATA_ROOT or data/ by default.")] = None,
) -> None:
    """Say what is here: versions, GPU, FLARE, data root, free ports and disk.

    Exit code 0: nothing is amiss; 3: some rows say what to do.
    """
    view = Table("", "what", "finding")
    rows = findings(data or Path(os.environ.get("FEDMR_DATA_ROOT", "data")))
    for name, (well, text) in rows.items():
        view.add_row("[green]ok[/]" if well else "[yellow]look[/]", name, text)
    console.print(view)
    if not all(well for well, _ in rows.values()):
        raise typer.Exit(3)


def findings(data: Path) -> dict[str, Finding]:
    """Return what was found by name, of the machine and a data root."""
    rows = {"Python": (True, f"{platform.python_version()} on {platform.system()}")}
    rows |= {name: _version(name) for name in ("fedmr", *PACKAGES)}
    rows["nvflare command"] = _command("nvflare")
    rows["GPU"] = _gpu()
    rows["data root"] = _data(data)
    rows |= {f"port {port}": _port(port) for port in PORTS}
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    rows["disk here"] = (free > _LEAST_SPACE, f"{free:.0f} GB free")
    return rows


def _version(name: str) -> Finding:
    try:
        return True, version(name)
    except PackageNotFoundError:
        return False, f"not installed; pip install {name}"


def _command(name: str) -> Finding:
    found = shutil.which(name)
    return (True, found) if found else (False, "not on the PATH; activate the environment that has it")


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return False, "not known without torch"
    if torch.cuda.is_available():
        return True, torch.cuda.get_device_name()
    return True, f"none that torch can use; {os.cpu_count()} CPU cores"


def _data(data: Path) -> Finding:
    from fedmr.data.datalist import site_folders

    try:
        names = [folder.name for folder in site_folders(data)]
    except (OSError, ValueError):
        return False, f"{data} holds no site; `fedmr demo-data {data}` makes some, `fedmr prepare` one of your scans"
    return True, f"{data}: {', '.join(names)}"


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False, "taken; stop what uses it (`fedmr poc stop`), or name another in poc/project.yml"
    return True, "free"
