"""Text from elsewhere, made fit for a log, a terminal or a page."""

import unicodedata

LONGEST = 500  # characters that one message of a stranger may take
# line and paragraph separators and invisible marks that turn the direction of writing, beside control characters
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


def _visible(character: str) -> str:
    unsafe = unicodedata.category(character) in _UNSAFE
    return character.encode("unicode_escape").decode("ascii") if unsafe else character
