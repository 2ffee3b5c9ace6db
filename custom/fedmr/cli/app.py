"""An application whose commands name their arguments in capitals, `fedmr infer MODEL INPUT OUTPUT`, as manuals do."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand


class _Command(TyperCommand):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and parameter.metavar is None:
                parameter.metavar = parameter.name.upper()

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, without the braces that typer puts around what must be given."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class App(typer.Typer):
    """A group of commands; see the module."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a command; typer's options."""
        return super().command(name, cls=_Command, **options)
