"""Several sites' data as one site, for the baseline that no federation could have: all scans in one place."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmr.data.datalist import FILES, read_datalist, site_folders
from fedmr.utils.errors import DataError


def pool(data: Path, out: Path, *, site: str = "pooled", sites: Sequence[str] = ()) -> Path:
    """Write one datalist of the volumes of several sites; the volumes stay where they are.

    Args:
        data: data root with the sites, of which volumes keep their split.
        out: data root to fill, another one; the pooled site's folder is OUT/SITE.
        site: its name, as FLARE will know it.
        sites: names of those to pool; all if empty.

    Returns:
        the datalist. Its patients are named SITE/PATIENT, each volume has the mask of its site, if that states one,
        and the pooled site shares images only if all its sites do.

    Raises:
        DataError: no site there, a malformed datalist, or a named site is absent.
        ValueError: `out` is `data`, where the pooled site would count as one more.
    """
    if out.resolve() == data.resolve():
        raise ValueError(f"{out} is the data root itself; a pooled site in it would count as one more. Name another")
    folders = [f for f in site_folders(data) if not sites or f.name in sites]
    if absent := sorted(set(sites) - {f.name for f in folders}):
        raise DataError(f"{data} has no site {', '.join(absent)}")
    target = out / site / "datalist.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    lists = {folder: read_datalist(folder) for folder in folders}
    volumes = [
        _moved(entry, folder, target.parent, datalist.get("mask"))
        for folder, datalist in lists.items()
        for entry in datalist["volumes"]
    ]
    share = all(datalist.get("share_images") is True for datalist in lists.values())
    target.write_text(json.dumps({"site": site, "share_images": share, "volumes": volumes}, indent=1) + "\n")
    return target


def _moved(entry: Mapping[str, Any], folder: Path, target: Path, mask: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an entry of the datalist in `folder` as it must read in `target`, with the site's mask as its own."""
    files = {key: os.path.relpath((folder / entry[key]).resolve(), target.resolve()) for key in FILES if entry.get(key)}
    masked = {"mask": {**(mask or {}), **entry.get("mask", {})}} if mask or "mask" in entry else {}
    return {**entry, **files, **masked, "patient": f"{folder.name}/{entry['patient']}"}
