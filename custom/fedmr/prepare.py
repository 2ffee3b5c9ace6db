"""A hospital's files to a site's datalist."""

import csv
import json
import os
from pathlib import Path

from fedmr.data import SPLITS, DataError, read_volume

_COLUMNS = ("site", "patient", "split", "path")


def prepare(source: Path, *, site: str, out: Path, split_file: Path) -> Path:
    """Write `<out>/<site>/datalist.json` for BIDS-like NIfTI files with a given split.

    Every file is read and checked once; images stay where they are and are named by relative paths. The contrast
    is the BIDS suffix, the part of the file name after its last underscore.

    Args:
        source: folder that the paths of the split file start from.
        site: rows of the split file to take, and the FLARE site name.
        out: data root.
        split_file: CSV with the columns site, patient, split, path.

    Returns:
        the datalist.

    Raises:
        DataError: naming the file, row or value that is wrong.
    """
    if not split_file.is_file():
        raise DataError(f"{split_file} does not exist; give a CSV with the columns {', '.join(_COLUMNS)}")
    with split_file.open(newline="") as handle:
        reader = csv.DictReader(handle)
        missing = sorted(set(_COLUMNS) - set(reader.fieldnames or ()))
        if missing:
            raise DataError(f"{split_file} has no column {', '.join(missing)}; it needs {', '.join(_COLUMNS)}")
        rows = [(number, row) for number, row in enumerate(reader, start=2) if row["site"] == site]
    if not rows:
        raise DataError(f"{split_file} has no row of site {site!r}")
    folder = out / site
    volumes = []
    for number, row in rows:
        if row["split"] not in SPLITS:
            raise DataError(f"{split_file}, line {number}: split {row['split']!r}; known are {', '.join(SPLITS)}")
        image = source / row["path"]
        read_volume(image)
        contrast = image.name.removesuffix(".gz").removesuffix(".nii").rpartition("_")[2]
        relative = os.path.relpath(image.resolve(), folder.resolve())
        volumes.append({"image": relative, "patient": row["patient"], "contrast": contrast, "split": row["split"]})
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "datalist.json"
    target.write_text(json.dumps({"site": site, "share_images": False, "volumes": volumes}, indent=1) + "\n")
    return target
