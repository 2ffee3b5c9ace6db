"""CPU time of `fedmr --help` and of a wrong path, in units of `python -c pass` on the same machine."""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

from common import facts, table, write_page

TIMES = 7
MAIN = "from fedmr.cli.main import main; main()"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "fedmr --help": ["-c", MAIN, "--help"],
    "fedmr infer mscan-x2 MISSING OUT": [
        "-c",
        MAIN,
        "infer",
        "mscan-x2",
        "/nowhere/scan.nii.gz",
        "/nowhere/out.nii.gz",
    ],
    "import fedmr": ["-c", "import fedmr"],
}


def cpu_seconds(arguments: list[str]) -> float:
    """Return the user and system seconds of a Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Write the table."""
    known = facts()
    found = {name: statistics.median(cpu_seconds(words) for _ in range(TIMES)) for name, words in COMMANDS.items()}
    unit = found["python -c pass"]
    rows = [[name, f"{seconds:.2f}", f"{seconds / unit:.1f}"] for name, seconds in found.items()]
    head = ["command", "CPU seconds", "times `python -c pass`"]
    note = f"User and system time of the process, median of {TIMES} runs."
    write_page(Path(__file__).stem, "What a command costs before it works", known, table(head, rows), note)


if __name__ == "__main__":
    main()
