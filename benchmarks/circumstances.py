"""What a reader needs to judge and repeat a benchmark."""

import os
import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def circumstances() -> dict[str, str]:
    """Commit, hardware and software; asked before a run, so that later changes do not show."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    model = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return {
        "commit": commit.strip() + (" with local changes" if changed else ""),
        "hardware": f"{os.cpu_count()} cores ({model[0].strip() if model else platform.machine()}), {gpu}",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
