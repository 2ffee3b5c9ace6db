"""Options that several commands share: settings of a job, and the model that it starts from."""

from pathlib import Path
from typing import Annotated

import typer

from fedmr.utils.class_path import allow_folder

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE, again for each: a number of the task, or num_rounds. It is recorded."),
]
InitFrom = Annotated[
    Path | None, typer.Option("--init-from", help="Model whose weights are the first: a file, a run, or a name.")
]
Code = Annotated[
    Path | None, typer.Option("--code", help="Folder with Python files of your own, whose classes --set may name.")
]


def configured_job(
    job: Path,
    out: Path,
    *,
    settings: list[str] | None,
    init_from: Path | None,
    rounds: int = 0,
    code: Path | None = None,
) -> Path:
    """Make the job that the options of a command ask for, as a copy in OUT that may be changed further."""
    if code is not None:
        if not any(code.glob("*.py")):
            raise FileNotFoundError(f"{code} holds no Python file; name the folder of your classes by --code")
        allow_folder(code)
    from fedmr.federation.configured import configure
    from fedmr.tasks.overrides import parse_overrides

    changes = parse_overrides([*(settings or []), *([f"num_rounds={rounds}"] if rounds else [])])
    changed = configure(job, out / "changed", changes)
    if init_from is None:
        return changed
    from fedmr.checkpoints.warm_start import write_start
    from fedmr.federation.render import read_task
    from fedmr.tasks.registry import build_task

    write_start(init_from, build_task(read_task(changed)), out / "start.pt")
    return configure(job, out / "changed", changes, weights=out / "start.pt", origin=str(init_from))
