"""JSON lines as documents: one object a line. Lines that are none are counted, not fatal."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from realm_ds.errors import DataError
from realm_ds.prepare.compressed import InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import BAD_UTF8, TOO_LONG, Rows

NUM_TRIED = 100
"""A file without a usable object in so many lines is not what it was taken for."""
NOT_JSON = "lines left out (no JSON object)"
MENDED = "lines of JSON with raw control characters or half a surrogate pair, mended"

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def read_json_lines(file: InputFile, rows: Rows) -> Iterator[Document]:
    """The documents of a file, in order."""
    text_field = rows.fields.text
    missing = set(rows.fields.needed)  # until an object has it
    num_useless = 0  # lines before that
    last: dict[str, Any] | None = None
    for number, line in enumerate(file.lines(), start=1):
        where = f"{file.name}:{number}"
        if line is None:
            rows.tally.add(TOO_LONG, where=where)
            continue
        if not line or line.isspace():
            continue
        row = _parsed(line, rows, where)
        if type(row) is dict:
            if missing:
                last = row
                missing -= {name for name, value in row.items() if name != text_field or type(value) is str}
            if document := rows.from_row(row, where=where):
                yield document
        else:
            rows.tally.add(NOT_JSON, where=where)
        if missing:
            num_useless += 1
            if num_useless == NUM_TRIED:
                break
    if num_useless and missing:
        what = f"a string in the field {text_field!r}" if text_field in missing else f"the field {min(missing)!r}"
        raise _not_what_it_was_taken_for(file, last, num_useless, missing=what)


def _parsed(line: bytes, rows: Rows, where: str) -> Any:
    """What the line holds; None if that is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return _mended(line, rows, where)


def _mended(line: bytes, rows: Rows, where: str) -> dict[str, Any] | None:
    """An object that only the lenient parser of the standard library takes; None if that takes it for none either."""
    text = line.decode(errors="replace")
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if type(value) is not dict:
        return None
    rows.tally.add(MENDED if text.encode() == line else BAD_UTF8, where=where)
    return {name: _HALF_A_PAIR.sub("\ufffd", part) if type(part) is str else part for name, part in value.items()}


def _not_what_it_was_taken_for(
    file: InputFile, last: Mapping[str, Any] | None, num_lines: int, *, missing: str
) -> DataError:
    if last is None:
        return DataError(
            f"{file.name}: none of its first {num_lines} lines is a JSON object; write one object a line "
            f"(`jq -c '.[]'` does so with a list), or name the format it has"
        )
    return DataError(
        f"{file.name}: no object in its first {num_lines} lines has {missing}; the last one has the fields "
        f"{', '.join(last) or 'none'}: name one of these"
    )
