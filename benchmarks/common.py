"""Helpers of all benchmarks: a function in its own process, the memory of a process, the page of results."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fedmr.utils.environment import ROOT, circumstances

RESULTS = ROOT / "benchmarks" / "results"


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def memory(process: int | str = "self") -> tuple[int, int]:
    """Bytes that a process holds in memory, and the most that it held since its start or `forget_peak`.

    The kernel's figure of a process: that of `getrusage` would begin with the parent's.
    """
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    resident, peak = (1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return resident, peak


def forget_peak() -> None:
    """Let the peak of this process begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def facts(**more: str) -> dict[str, str]:
    """The circumstances, to be asked before a run, and what else a reader must know."""
    return circumstances() | {"load of the machine": f"{os.getloadavg()[0]:.1f}"} | more


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def write_page(name: str, title: str, known: dict[str, str], *parts: list[str] | str) -> None:
    """Write benchmarks/results/NAME.md from tables and paragraphs, and print it; NAME_cuda.md of a GPU's figures."""
    blocks = [f"# {title}", "\n".join(f"- {key}: {value}" for key, value in known.items())]
    blocks += [part if isinstance(part, str) else "\n".join(part) for part in parts]
    device = known.get("device", "cpu")
    target = RESULTS / f"{name if device == 'cpu' else f'{name}_{device}'}.md"
    target.write_text("\n\n".join(blocks) + "\n")
    print(target.read_text())
