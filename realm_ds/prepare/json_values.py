"""The values of a JSON file one at a time, whatever its size: of its one array, or of its lines.

An array is the file itself, or the member `data` or `Data` of an object that begins with it, as SQuAD's and TriviaQA's.
"""

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from realm_ds.errors import DataError
from realm_ds.prepare.compressed import MAX_RECORD_BYTES, InputFile
from realm_ds.prepare.documents import Tally

Placed = tuple[Any, str]
"""A value and its place, for people."""

_ARRAY = re.compile(r'\s*(?:\{(?:\s*"\w+"\s*:\s*(?:"[^"]*"|[\w.+-]+)\s*,)*\s*"[Dd]ata"\s*:\s*)?\[')
_BETWEEN = re.compile(r"[\s,]*")


def json_values(file: InputFile, *, tally: Tally) -> Iterator[Placed]:
    """Its values in order. Lines that are no JSON are counted; an array that is broken raises DataError behind the
    values before that."""
    first = next(InputFile(file.path, name=file.name).blocks(), b"").decode(errors="replace")
    array = _ARRAY.match(first)
    if array is not None:
        yield from _values_of_array(file, start=array.end())
    else:
        yield from _values_of_lines(file, tally=tally)


def _values_of_lines(file: InputFile, *, tally: Tally) -> Iterator[Placed]:
    for number, line in enumerate(file.lines(), start=1):
        where = f"{file.name}:{number}"
        if line is None or line.strip():
            try:
                value = json.loads(line or b"")
            except (ValueError, RecursionError):  # of JSON, of UTF-8, of nesting
                tally.add("lines that are no JSON, or too long, left out", where=where)
            else:
                yield value, where


def _values_of_array(file: InputFile, *, start: int) -> Iterator[Placed]:
    decode = json.JSONDecoder().raw_decode
    parts: list[str] = []
    num_values, num_tried = 0, 0
    for more in itertools.chain(_texts(file), (None,)):
        parts.append(more or "")
        if more is not None and sum(map(len, parts)) < 2 * num_tried:
            continue  # A value that is not whole is tried again with twice the text: time stays linear.
        text, place = "".join(parts)[start:], 0
        start = 0
        while True:
            place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text.startswith("]", place):
                return
            try:
                value, end = decode(text, place)
            except json.JSONDecodeError:
                break
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{file.name}, record {num_values + 1} is nested too deeply, or has too long a number, to be read; "
                    "mend the file"
                ) from error
            if end == len(text) and more is not None:
                break  # a number may go on
            num_values += 1
            yield value, f"{file.name}, record {num_values}"
            place = end
        parts, num_tried = [text[place:]], len(text) - place
        if num_tried > MAX_RECORD_BYTES:
            break
    raise DataError(
        f"{file.name}: record {num_values + 1} is no JSON, or the file is cut off there; get it again, or mend it"
    )


def _texts(file: InputFile) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for block in file.blocks():
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)
