"""Names at a site that nobody else may learn, and the search for them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "FEDMR_PLANTED"  # of the environment
WORDS = {name: f"planted-{name}" for name in ("patient", "file", "folder", "variable")}


def plant(source: Path, root: Path) -> Path:
    """A copy of a site's folder below root/planted-folder, whose files and patients have such names."""
    site = Path(shutil.copytree(source, root / WORDS["folder"] / source.name))
    datalist = json.loads((site / "datalist.json").read_text())
    for number, volume in enumerate(datalist["volumes"]):
        name = f"{WORDS['file']}-{number}.nii.gz"
        (site / volume["image"]).rename(site / name)
        volume |= {"image": name, "patient": f"{WORDS['patient']}-{number}"}
    (site / "datalist.json").write_text(json.dumps(datalist))
    return site


def leaks(folders: Iterable[Path], words: Iterable[str]) -> list[tuple[str, str]]:
    """Files below the folders, each with a word that it holds."""
    contents = {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}
    return [(str(file), word) for word in words for file, content in contents.items() if word.encode() in content]
