"""CSV and TSV files with a header line as documents: one row each."""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Self

from realm_ds.prepare.compressed import MAX_RECORD_BYTES, InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import TOO_LONG, Rows, no_such_column

MAX_FIELD_CHARACTERS = 64 << 20
"""Of a field; csv keeps four bytes for each. What an unclosed quote may swallow of a file."""
NO_ROW = "rows left out (their quotes do not close, or something follows these)"
OTHER_WIDTH = "rows left out (more or fewer fields than the header)"


def read_csv(file: InputFile, rows: Rows, *, delimiter: str = ",") -> Iterator[Document]:
    """The documents of a file, in order."""
    for row, where in csv_rows(file, rows, needed=rows.fields.needed, delimiter=delimiter):
        if document := rows.from_row(row, where=where):
            yield document


def csv_rows(
    file: InputFile, rows: Rows, *, needed: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of a file by the names in its header, each with its place; broken ones are counted."""
    csv.field_size_limit(MAX_FIELD_CHARACTERS)  # of the process: there is no other
    records = _records(file, rows, delimiter=delimiter)
    header, where = next(records, ([], ""))
    if header and (missing := [name for name in needed if name not in header]):
        raise no_such_column(missing[0], header, where=where)
    for record, where in records:
        if len(record) != len(header):
            rows.tally.add(OTHER_WIDTH, where=where)
        else:
            yield dict(zip(header, record, strict=True)), where


def read_tsv(file: InputFile, rows: Rows) -> Iterator[Document]:
    """The same, with tabs between fields."""
    return read_csv(file, rows, delimiter="\t")


def _records(file: InputFile, rows: Rows, *, delimiter: str) -> Iterator[tuple[list[str], str]]:
    """Each with its place, blank lines and broken ones left out."""
    lines = _Lines(_decoded_lines(file, rows))
    # Strict, since otherwise a quote that never closes makes one row of all that follows.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_record()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:
            for number in lines.go_back():
                rows.tally.add(NO_ROW, where=f"{file.name}:{number}")
            continue
        if record:
            yield record, f"{file.name}:{lines.first_number}"


Line = tuple[int, str]
"""Its number in the file, and what it holds."""


class _Lines:
    """Lines for csv.reader, which go on behind the first line of a record that is broken: an open quote swallows what
    follows up to the next quote. No line is read more than twice, so time stays linear whatever the quotes."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._again: deque[Line] = deque()
        self._record: list[Line] = []
        self._num_characters = 0
        self._last_twice = 0
        """The last line that was, or will be, read twice."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._record.append(line)
        self._num_characters += len(line[1])
        if self._num_characters > MAX_RECORD_BYTES and len(self._record) > 1:
            raise csv.Error("quotes that open and close on every line make a record of all of them")
        return line[1]

    @property
    def first_number(self) -> int:
        """Of the lines of this record."""
        return self._record[0][0]

    def begin_record(self) -> None:
        """The next line is another record's."""
        self._record.clear()
        self._num_characters = 0

    def go_back(self) -> list[int]:
        """Give the lines of a broken record again, but for the first and those that were given twice: their
        numbers."""
        fresh = [line for line in self._record[1:] if line[0] > self._last_twice]
        left_out = [number for number, _ in self._record[: len(self._record) - len(fresh)]]
        self._again.extendleft(reversed(fresh))
        self._last_twice = max(self._last_twice, self._record[-1][0])
        return left_out


def _decoded_lines(file: InputFile, rows: Rows) -> Iterator[Line]:
    for number, line in enumerate(file.lines(), start=1):
        where = f"{file.name}:{number}"
        if line is None:
            rows.tally.add(TOO_LONG, where=where)
        else:
            yield number, rows.decoded(line, where=where) + "\n"
