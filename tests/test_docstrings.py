"""Measure the code and its docstrings: sizes, annotations, imperative mood, tensor shapes."""

import ast
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "custom" / "fedmr"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SHAPE = re.compile(
    r"\([A-Za-z0-9.*+/ _-]+(, ?[A-Za-z0-9.*+/ _-]+)+\)|\((?:\d?[A-Z]|\w+),\)|\bscalar\b|same shape|any shape|shaped as"
)
TENSOR = re.compile(r"\b(Tensor|NDArray|ndarray|FloatArray|Array)\b")


class Member(NamedTuple):
    """A function, method or class, with the file and the line where it stands."""

    file: Path
    node: Definition
    public: bool
    method: bool

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(PACKAGE)}:{self.node.lineno} {self.node.name}"

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def members(file: Path) -> Iterator[Member]:
    def walk(body: list[ast.stmt], public: bool, in_class: bool) -> Iterator[Member]:
        for node in body:
            if isinstance(node, Definition):
                shown = public and not node.name.startswith("_")
                yield Member(file, node, shown, in_class)
                inside = isinstance(node, ast.ClassDef)
                yield from walk(node.body, shown and inside, inside)

    yield from walk(ast.parse(file.read_text()).body, True, False)


EVERY = [member for file in files() for member in members(file)]
FUNCTIONS = [member for member in EVERY if not isinstance(member.node, ast.ClassDef)]


def arguments(member: Member) -> list[ast.arg]:
    """Return the arguments of a function without `self` and `cls`."""
    spec = member.node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in member.node.decorator_list)
    return every[1:] if member.method and not static else every


def handles_tensors(member: Member) -> bool:
    hints = [argument.annotation for argument in arguments(member)] + [member.node.returns]
    return any(TENSOR.search(ast.unparse(hint)) for hint in hints if hint is not None)


def share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 100.0


def test_every_function_is_typed() -> None:
    untyped = [
        member.place
        for member in FUNCTIONS
        if member.node.returns is None or any(argument.annotation is None for argument in arguments(member))
    ]
    print(f"typed: {share(len(FUNCTIONS) - len(untyped), len(FUNCTIONS)):.1f} % of {len(FUNCTIONS)} functions")
    assert untyped == []


def test_docstrings_are_imperative_and_present() -> None:
    what = [member.place for member in EVERY if member.docstring.startswith("What")]
    what += [str(file) for file in files() if (ast.get_docstring(ast.parse(file.read_text())) or "").startswith("What")]
    # A method that implements a known protocol (__init__, forward, ...) or overrides one is described by its class.
    missing = [member.place for member in EVERY if member.public and not member.method and not member.docstring]
    print(f"public functions and classes without a docstring: {len(missing)}; starting with 'What': {len(what)}")
    assert what == []
    assert missing == []


def test_tensor_docstrings_state_shapes() -> None:
    tensors = [member for member in FUNCTIONS if member.public and member.docstring and handles_tensors(member)]
    vague = [member.place for member in tensors if not SHAPE.search(member.docstring)]
    stated = share(len(tensors) - len(vague), len(tensors))
    print(f"shapes: {stated:.1f} % of {len(tensors)} tensor docstrings; without:", *vague, sep="\n  ")
    assert stated >= 90, vague


def test_files_and_functions_are_short() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in files() if file.name != "__init__.py"}
    tests = {file: len(file.read_text().splitlines()) for file in Path(__file__).parent.rglob("*.py")}
    functions = sorted(member.lines for member in FUNCTIONS)
    p90 = functions[math.ceil(0.9 * len(functions)) - 1]
    long = [member.place for member in FUNCTIONS if member.lines > 50]
    wide = [member.place for member in FUNCTIONS if len(arguments(member)) > 8]
    print(f"files: median {statistics.median(lengths.values())}, max {max(lengths.values())} lines")
    print(f"functions: p90 {p90}, max {functions[-1]} lines; arguments: max {max(map(len, map(arguments, FUNCTIONS)))}")
    assert statistics.median(lengths.values()) <= 120
    assert [str(file) for file, length in (lengths | tests).items() if length > 350] == []
    assert p90 <= 25
    assert long == []
    assert wide == []
