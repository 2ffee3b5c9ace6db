"""Checks on the machine, and a few steps of the training to come."""

import math
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.filesize import decimal

import fedmr
from fedmr.hospital.preflight.site import Check, SiteFindings, judge
from fedmr.nets import build
from fedmr.tasks.base import Task

_PACKAGES = ("torch", "nvflare", "monai", "numpy", "nibabel")
_FLARE = "2.9"  # FLARE's messages are the same within a minor version
_PINS = Path(fedmr.__file__).parents[2] / "requirements.txt"
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_STATE_PER_MODEL = 3.1  # Adam's two moments and the weights, measured
_LOGS = 100 * 2**20
# measured: python with torch and FLARE and a network at work, and what SSIM needs per voxel of the largest slice
_PROCESS, _PER_PIXEL = 768 * 2**20, 4096


@dataclass(frozen=True)
class Step:
    """Figures of a few training steps.

    Attributes:
        psnr: of the untrained network on the validation volumes, in dB; None if there are none.
        seconds: per step.
        per_round: steps in a round of the job, 0 if the site only evaluates.
        memory: most that the process held, in bytes.
    """

    psnr: float | None
    seconds: float
    per_round: int
    memory: int


def versions() -> Check:
    """Packages are those that the project was tested with; FLARE is that of the federation."""
    found = {name: _version(name) for name in _PACKAGES}
    pins = _pins()
    fails = [f"{name} is not installed" for name, version in found.items() if not version]
    if found["nvflare"] and not found["nvflare"].startswith(f"{_FLARE}."):
        fails.append(f"nvflare is {found['nvflare']}; the federation needs {_FLARE}")
    warns = [
        f"{name} is {version}, requirements.txt says {pins[name]}"
        for name, version in found.items()
        if version and name in pins and version.partition("+")[0] != pins[name]
    ]
    known = "as in requirements.txt" if pins else f"no requirements.txt here: only nvflare {_FLARE} was compared"
    good = ", ".join(f"{n} {v}" for n, v in {"python": platform.python_version(), **found}.items())
    remedy = "pip install -r requirements.txt, with the file of the federation's release"
    return judge("versions", f"{good}; {known}", remedy, fails=fails, warns=warns)


def processor() -> Check:
    """Return what training runs on; a CPU is slower and otherwise as good."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("processor", "pass", f"GPU {name}, {_size(free)} of {_size(total)} free")
    idle = [f"this machine has an NVIDIA GPU, but torch {torch.__version__} cannot use it"]
    good = f"no GPU: trains on the CPU, {os.cpu_count()} cores"
    remedy = "install the CUDA build of torch, else training runs on the CPU"
    return judge("processor", good, remedy, warns=idle if _NVIDIA_DRIVER.exists() else ())


def disk(task: Task, workspace: Path) -> Check:
    """The run folder fits: the site's state, old and new while it is written, and logs."""
    model = sum(value.numel() * value.element_size() for value in build(**task.network).state_dict().values())
    need, free = int(2 * _STATE_PER_MODEL * model) + _LOGS, shutil.disk_usage(workspace).free
    text = f"{_size(free)} free in {workspace.absolute()}; a run needs {_size(need)}"
    return judge("disk", text, "free some space, or name another --workspace", fails=[text] if free < need else ())


def memory(site: SiteFindings) -> Check:
    """Check that the free memory holds what training needs: all volumes, and those of training again as patches."""
    per_voxel = site.task.bytes_per_voxel
    held = sum(per_voxel * np.prod(s.shape, dtype=float) * (2 if s.split == "train" else 1) for s in site.scans)
    work = _PROCESS + _PER_PIXEL * max(s.shape[1] * s.shape[2] for s in site.scans)
    need, free = held + work, psutil.virtual_memory().available
    text = f"{_size(free)} free; training needs about {_size(need)}, {_size(held)} of it for volumes"
    remedy = "close other programs, take a machine with more memory, or leave out scans"
    return judge("memory", text, remedy, fails=[text] if free < need else ())


def training_steps(site: SiteFindings, try_steps: Callable[[Path, Task], Step]) -> Check:
    """The real learner evaluates and trains on the site's folder."""
    remedy = "the job would end with this error: mend it before the site joins"
    try:
        step = try_steps(site.folder, site.task)
    except Exception as error:  # whatever stops the learner here would stop the job, so it is what the site must read
        return Check("training", "fail", site.shorten(error), remedy)
    quality = (
        "no validation volumes" if step.psnr is None else f"untrained PSNR {step.psnr:.2f} dB on the validation volumes"
    )
    text = (
        f"{quality}; {step.per_round} steps of {step.seconds:.2g} s, "
        f"{step.per_round * step.seconds / 60:.2g} min per round; {_size(step.memory)} memory"
    )
    return judge("training", text, remedy, fails=() if step.psnr is None or math.isfinite(step.psnr) else [text])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _pins() -> dict[str, str]:
    """Versions in the requirements.txt of the source folder that the package runs from; none where it is installed."""
    lines = _PINS.read_text().splitlines() if _PINS.is_file() else []
    return {name: version for name, equal, version in (line.partition("==") for line in lines) if equal}


def _size(number: float) -> str:
    return decimal(round(number))
