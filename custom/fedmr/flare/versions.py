"""Versions of what a federation runs on, told by every site and compared by the server."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fedmr import __version__
from fedmr.utils.text import one_line

VERSIONS = "fedmr_versions"  # in a site's public context, which FLARE sends with every message
VERSIONS_FILE = "versions.json"  # in the server's run folder
_PACKAGES = ("nvflare", "torch", "monai")
_LONGEST = 40  # characters of a version


def own_versions() -> dict[str, str]:
    """Return the version of FedMR and of the packages whose versions can matter, by name."""
    return {"fedmr": __version__} | {name: metadata.version(name) for name in _PACKAGES}


def read_versions(stated: Any) -> dict[str, str]:
    """Return a site's statement as far as it is one; whatever else it says is dropped."""
    known = own_versions()
    if not isinstance(stated, Mapping):
        return {}
    return {name: one_line(stated[name], _LONGEST) for name in known if isinstance(stated.get(name), str)}


def fault_of_versions(site: Mapping[str, str], server: Mapping[str, str]) -> str | None:
    """Say why a site's versions do not go with the server's, None if they do.

    Another FedMR can compute or mean something else under the same name, and another minor version of FLARE can write
    messages that this one does not read. Other differences are reported (`differences`), not refused. A site that
    states nothing is not judged.
    """
    for name, parts in (("fedmr", 3), ("nvflare", 2)):
        if name in site and site[name].split(".")[:parts] != server[name].split(".")[:parts]:
            return f"it runs {name} {site[name]}, the server {server[name]}: install the same release at both"
    return None


def differences(site: Mapping[str, str], server: Mapping[str, str]) -> list[str]:
    """Return in words where a site's versions differ from the server's."""
    return [f"{name} {site[name]}, the server {server[name]}" for name in site if site[name] != server[name]]


def write_versions(folder: Path, server: Mapping[str, str], sites: Mapping[str, Mapping[str, str]]) -> None:
    """Write who runs what into the server's run folder."""
    content = {"server": dict(server), "sites": {site: dict(sites[site]) for site in sorted(sites)}}
    (folder / VERSIONS_FILE).write_text(json.dumps(content, indent=1) + "\n")
