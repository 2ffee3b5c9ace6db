"""Write requirements.lock: every package of this environment with the hash of the file that its registry gives.

    python tools/lock_requirements.py requirements.lock

It takes what is installed beside the Python that runs, all dependencies included, and asks pip for the same files.
A lock is of one platform and Python, as wheels are; the first lines of the file name both.
"""

import hashlib
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_WHEEL = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-[^-]+){3,4}\.whl|(?P<sname>.+)-(?P<sversion>[^-]+)\.tar\.gz")


def main() -> None:
    pip = [sys.executable, "-m", "pip"]
    frozen = subprocess.run([*pip, "freeze", "--exclude-editable"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "listed.txt"
        listed.write_text(frozen)
        files = Path(folder) / "files"
        subprocess.run([*pip, "download", "--quiet", "--no-deps", "-d", files, "-r", listed], check=True)
        Path(sys.argv[1]).write_text("\n".join(locked(frozen, files)) + "\n")


def locked(frozen: str, files: Path) -> list[str]:
    """Lines of the lock from `pip freeze` and the folder with its files."""
    hashes = {_name(file.name): hashlib.sha256(file.read_bytes()).hexdigest() for file in files.iterdir()}
    lines = [
        f"# {platform.system()} {platform.machine()}, Python {platform.python_version()}; made by `make lock`, used by",
        "# `make setup-locked`. Other platforms have other files: there requirements.txt holds the same versions.",
    ]
    for line in frozen.splitlines():
        name, _, version = line.partition("==")
        # what follows a plus is the builder's, e.g. of torch for CPUs: a pin without it takes the same file
        lines.append(f"{name}=={version.partition('+')[0]} --hash=sha256:{hashes[_plain(name)]}")
    return lines


def _name(file: str) -> str:
    found = _WHEEL.fullmatch(file)
    if not found:
        raise SystemExit(f"{file} is neither a wheel nor a source archive")
    return _plain(found["name"] or found["sname"])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
