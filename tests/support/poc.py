"""A provisioned federation on this machine, over TLS: what FLARE's simulator leaves out, such as a site's policy."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.federation.kits import Kits
from fedmr.federation.session import Admin
from simulator import ROOT


@dataclass
class Consortium:
    """A running server with its sites; `kits` holds a folder for each."""

    folder: Path
    environment: dict[str, str]

    @property
    def kits(self) -> Path:
        return self.folder / "poc" / "fedmr" / "prod_00"

    def nvflare(self, *words: object, timeout: int = 240) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "nvflare"), "--format", "json", *map(str, words)]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )

    def run(self, job: Path) -> tuple[str, Path]:
        """Submit a job and wait for its end: its status and the downloaded folder, which bears the job's id."""
        return self.result(self.submit(job))

    @property
    def admin(self) -> Admin:
        """The project's admin."""
        return Admin(Kits(self.folder / "poc", yaml.safe_load((self.folder / "project.yml").read_text())))

    def submit(self, job: Path) -> str:
        """Submit a job: its id."""
        return self.admin.submit(job, again=True)

    def result(self, number: str) -> tuple[str, Path]:
        """Wait for the end of a job: its status and the downloaded folder."""
        return self.admin.wait(number), self.admin.download(number, self.folder / "downloads")

    def _answer(self, *words: object) -> dict[str, Any]:
        result = self.nvflare(*words)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        return json.loads(result.stdout.splitlines()[-1])["data"]


@contextmanager
def consortium(folder: Path, data: Path, policies: dict[str, str]) -> Iterator[Consortium]:
    """Provision poc/project.yml for the sites in `policies`, give each its privacy.json, and start them."""
    tools = Path(sys.executable).parent
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(folder), DATA_ROOT_VARIABLE: str(data)}
    poc = Consortium(folder, environment | {"NVFLARE_POC_WORKSPACE": str(folder / "poc")})
    project = (ROOT / "poc" / "project.yml").read_text().splitlines(keepends=True)
    unused = [f"name: site-{number}," for number in range(1, 5) if f"site-{number}" not in policies]
    text = "".join(line for line in project if not any(name in line for name in unused))
    for port, free in zip(("18002", "18003"), free_ports(), strict=True):
        text = text.replace(port, str(free))
    (folder / "project.yml").write_text(text)
    poc._answer("poc", "prepare", "-i", "project.yml", "--force")
    for site, policy in policies.items():
        (poc.kits / site / "local" / "privacy.json").write_text(policy)
    try:
        poc._answer("poc", "start", "--timeout", 120)
        yield poc
    finally:
        poc.nvflare("poc", "stop")


def free_ports() -> list[int]:
    """Two ports that nobody uses, each time others: several workers provision at once."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
