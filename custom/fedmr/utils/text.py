"""Text from elsewhere, made fit for a log, a terminal or a page."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

# paths, and names with an ending other than a number's
_FILE = re.compile(r"[^\s'\"(),;]*[/\\][^\s'\"(),;]*|[^\s'\"(),;/\\]+\.[A-Za-z][A-Za-z0-9]{1,5}\b")
LONGEST = 500  # characters that one message of a stranger may take
# line and paragraph separators and invisible marks that turn the direction of writing, and control characters
_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return a text on one line, without anything that a terminal obeys or a log takes for its own line.

    Control and format characters are replaced by their escapes, so that a reader sees that they were there.

    Args:
        text: anything; its `str`.
        longest: characters to keep.
    """
    start = str(text)[: longest + 1]
    clean = "".join(_visible(character) for character in start)
    return clean if len(clean) <= longest else f"{clean[:longest]}..."


def without_names(text: str, names: Iterable[str] = ()) -> str:
    """Return a text on one line in which no file, folder, patient or other name of a site stands.

    Args:
        text: e.g. the message of an error at a site, on its way to the server.
        names: further words that must not stay, e.g. patients and files of a datalist.
    """
    for name in sorted({n for n in names if n}, key=len, reverse=True):
        text = text.replace(name, "(name)")
    return one_line(_FILE.sub("(file)", text))


def _visible(character: str) -> str:
    unsafe = unicodedata.category(character) in _UNSAFE
    return character.encode("unicode_escape").decode("ascii") if unsafe else character


def larger_than(value: object, limit: int) -> bool:
    """Whether a value that another party sent holds more than `limit` bytes of text, numbers and entries.

    It stops as soon as it knows, and neither copies nor recurses; an entry counts eight bytes whatever it is.
    """
    stack, total = [value], 0
    while stack:
        one = stack.pop()
        total += 8
        if isinstance(one, str | bytes | bytearray):
            total += len(one)
        elif isinstance(one, Mapping):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            stack.extend(one)
        else:
            size = getattr(one, "nbytes", 0)
            total += size if isinstance(size, int) else limit + 1
        if total > limit or 8 * len(stack) > limit:
            return True
    return False
