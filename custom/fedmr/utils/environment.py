"""Describe where a measurement was made: commit, hardware and software."""

import os
import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]


def circumstances() -> dict[str, str]:
    """Commit, hardware and software; asked before a run, so that later changes do not show."""
    model = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return {
        "commit": _git("rev-parse", "--short", "HEAD")
        + (" with local changes" if _git("status", "-s", "-uno") else ""),
        "hardware": f"{os.cpu_count()} cores ({model[0].strip() if model else platform.machine()}), {gpu}",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def _git(*arguments: str) -> str:
    """Git's answer about the folder that the package lies in, or that it has none."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown" if arguments[0] == "rev-parse" else ""
