"""The datalist of a site: where it lies and which volumes it names.

A site folder holds `datalist.json`:
``{"site": "site-1", "volumes": [{"image": "sub-1/anat/sub-1_T1w.nii.gz", "patient": "sub-1",
"contrast": "T1w", "split": "train"}, ...]}`` with paths relative to it, split train, val or test.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmr.data.splits import SPLITS
from fedmr.utils.errors import DataError

DATA_ROOT_VARIABLE = "FEDMR_DATA_ROOT"
DATA_ROOT_FILE = "fedmr_data_root.txt"
FILES = ("image", "kspace")  # fields of a volume that name a file, relative to the datalist


def find_site_folder(site: str, local: Path | None = None, near: Sequence[Path] = ()) -> Path:
    """Find `<data root>/<site>`; the root is a fact of the site, never of the job.

    Tried in order: the environment variable FEDMR_DATA_ROOT; the one-line file fedmr_data_root.txt in the FLARE
    site's `local` folder; `data/` in the working directory and in `near`.
    A root that the variable or the file names is final: if it holds no datalist, the others are not tried.

    Args:
        site: FLARE site name.
        local: the site's `local` folder.
        near: further folders that may hold `data/`, e.g. the one in which the simulator was started.

    Raises:
        DataError: no datalist; says what named the data root.
    """
    if os.environ.get(DATA_ROOT_VARIABLE):
        origin, roots = f"that environment variable {DATA_ROOT_VARIABLE} names", [Path(os.environ[DATA_ROOT_VARIABLE])]
    elif local and (local / DATA_ROOT_FILE).is_file():
        origin = f"that file local/{DATA_ROOT_FILE} names"
        roots = [Path((local / DATA_ROOT_FILE).read_text().strip()).expanduser()]
    else:
        origin = "(data/ where the command was typed or beside the FLARE workspace)"
        roots = [folder / "data" for folder in dict.fromkeys(p.resolve() for p in (Path.cwd(), *near))]
    for root in roots:
        if (root / site / "datalist.json").is_file():
            return root / site
    # FLARE can send a site's log to the server, so no path of the site is said
    raise DataError(
        f"no data for site {site!r}: {site}/datalist.json is not in the data root {origin}. Make demo "
        "data with `fedmr demo-data data`, or prepare the site's own with `fedmr prepare`, and set "
        f"{DATA_ROOT_VARIABLE} or write the root into local/{DATA_ROOT_FILE}"
    )


def site_folders(data: Path) -> list[Path]:
    """Site folders of a data root, in the order of the numbers in their names; a site folder itself counts too.

    Raises:
        DataError: no datalist there.
    """
    if (data / "datalist.json").is_file():
        return [data]
    folders = [path.parent for path in data.glob("*/datalist.json")]
    if not folders:
        raise DataError(
            f"{data} holds no site (a folder with datalist.json). Make demo data with `fedmr demo-data {data}`, or "
            "prepare a site's own with `fedmr prepare`"
        )
    return sorted(folders, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


def read_datalist(folder: Path) -> dict[str, Any]:
    """Read and check `<folder>/datalist.json`.

    Raises:
        DataError: missing or malformed file, missing field or unknown split.
    """
    path = folder / "datalist.json"
    try:
        datalist = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; make it with `fedmr prepare` or `fedmr demo-data`") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON ({error}); make it anew with `fedmr prepare`") from None
    volumes = datalist.get("volumes") if isinstance(datalist, dict) else None
    if not isinstance(volumes, list) or not volumes:
        raise DataError(f'{path} holds no volumes; it needs {{"volumes": [{{"image": ...}}, ...]}}')
    for number, entry in enumerate(volumes):
        for key in ("image", "patient", "contrast", "split"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise DataError(f"{path}: volume {number} has no {key!r}; every volume needs it as a text")
        if entry["split"] not in SPLITS:
            raise DataError(f"{path}: volume {number} has split {entry['split']!r}; known are {', '.join(SPLITS)}")
    return datalist


def present_splits(folder: Path) -> tuple[str, ...]:
    """Return the splits that hold at least one of a site's volumes, in the order of `SPLITS`; may raise `DataError`."""
    found = {entry["split"] for entry in read_datalist(folder)["volumes"]}
    return tuple(split for split in SPLITS if split in found)


def read_entries(folder: Path, splits: Sequence[str]) -> list[dict[str, Any]]:
    """The volumes of a site's datalist that are in one of the splits, in its order.

    Raises:
        DataError: as `read_datalist`, or a split without volumes.
    """
    entries = [entry for entry in read_datalist(folder)["volumes"] if entry["split"] in splits]
    for split in splits:
        if not any(entry["split"] == split for entry in entries):
            raise DataError(f"{folder / 'datalist.json'} has no volume of split {split!r}; give it at least one")
    return entries
