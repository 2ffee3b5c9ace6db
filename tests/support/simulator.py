"""A tiny federation in FLARE's simulator: a job rendered from the real sources, run as a user types it."""

import shutil
import subprocess
import sys
from pathlib import Path

from fedmr.data.datalist import DATA_ROOT_VARIABLE
from fedmr.federation.render import rendered
from phantoms import write_site

ROOT = Path(__file__).parents[2]
SITES = ("site-1", "site-2", "site-3", "site-4")
ROUNDS = 3

TINY = """
include required("%s.conf")
name = tiny
task { %s, warmup_steps = 2 }
num_rounds = %d
%s
"""
SMALL = {
    "mscan": "network { channels = 8, blocks = 1 }, batch_size = 4, patch_size = 12",
    "unet": "network { channels = 2, pools = 2 }, batch_size = 2, size = 40",
}


def simulate(
    job: Path,
    workspace: Path,
    data: Path | None,
    *,
    sites: int,
    threads: int,
    folder: Path = ROOT,
    modules: Path | None = None,
    settings: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `nvflare simulator` as a user types it in `folder`; without `data` the sites look for it themselves.

    `modules` is a folder of modules that the job needs beside the package; `settings`: after `. poc/flare.env`.
    """
    tools = Path(sys.executable).parent
    command = [tools / "nvflare", "simulator", job, "-w", workspace, "-n", sites, "-t", threads]
    command = ["bash", "-c", f'. {ROOT}/poc/flare.env && exec "$@"', "bash", *command] if settings else command
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": "/tmp"} | ({DATA_ROOT_VARIABLE: str(data)} if data else {})
    environment |= {"PYTHONPATH": str(modules)} if modules else {}
    return subprocess.run(
        list(map(str, command)), env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def write_hospitals(root: Path) -> Path:
    """Four sites of different size and image size."""
    for number, site in enumerate(SITES, start=1):
        write_site(root, site, seed=number, patients=2 + number, shape=(48, 45 + number, 5))
    return root


def render_tiny_job(folder: Path, rounds: int = ROUNDS, *, job: str = "mscan_fedavg", overlay: str = "") -> Path:
    """Render the job `tiny`, i.e. `job` made small, with further config lines, under `folder`; return its folder."""
    shutil.copytree(ROOT / "app_configs", folder / "app_configs")
    text = TINY % (job, SMALL[job.split("_")[0]], rounds, overlay)
    (folder / "app_configs" / "tiny.conf").write_text(text)
    for path, text in rendered(folder / "app_configs", "tiny").items():
        (folder / "tiny" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tiny" / path).write_text(text)
    return folder / "tiny"
