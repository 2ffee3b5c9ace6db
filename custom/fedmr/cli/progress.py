"""How far long work is: a bar on a terminal, a line now and then where the output goes to a file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar

from fedmr.utils.progress import Progress

_SECONDS = 10.0  # between two lines


@contextmanager
def shown(console: Console, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Return a function that takes what is being done, the number done and the number in all.

    Args:
        console: where to; on one that is no terminal a line is printed at most every ten seconds.
        clock: seconds, for tests.
    """
    if not console.is_terminal:
        yield _lines(console, clock)
        return
    with Bar(*Bar.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=escape(Path(what).name), completed=done, total=total)

        yield advance


def _lines(console: Console, clock: Callable[[], float]) -> Progress:
    last = clock()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= _SECONDS:
            last = clock()
            console.print(f"{Path(what).name}: {done} of {total}", markup=False, soft_wrap=True)

    return tell
