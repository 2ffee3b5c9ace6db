"""CSV files as spreadsheets write them: semicolons or tabs, UTF-8, UTF-16 or cp1252, blanks around values."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fedmr.utils.errors import DataError


def read_table(path: Path, columns: Sequence[str], hint: str = "") -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV with their line numbers; names of columns in lower case, values stripped.

    Args:
        path: the file.
        columns: columns that it must have.
        hint: more that the file can hold, for the message where it does not exist.

    Raises:
        DataError: no such file, no text, or a missing column.
    """
    wanted = ", ".join(columns)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a CSV with the columns {wanted}{hint}")
    text = _decoded(path)
    first = text.partition("\n")[0]
    if first.strip().lower() in ("sep=;", "sep=,", "sep=\t", "sep="):  # a line of Excel's own
        text = "\n" + text.partition("\n")[2]
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [name.strip().lower() for name in next(filter(any, reader), [])]
        missing = sorted(set(columns) - set(names))
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}; it needs {wanted}")
        # a row that Excel writes for an empty line holds only delimiters
        return [
            (reader.line_num, dict(zip(names, (value.strip() for value in row), strict=False)))
            for row in reader
            if any(value.strip() for value in row)
        ]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, is no CSV ({error}). Save it again as CSV") from None


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if wide else ["utf-8-sig", "cp1252", "latin-1"]:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path} is no text in UTF-8, UTF-16 or cp1252. Save it again as CSV UTF-8")
