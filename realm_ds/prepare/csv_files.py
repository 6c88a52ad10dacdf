"""CSV and TSV files with a header line as documents: one row each."""

import csv
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from realm_ds.prepare.compressed import InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import TOO_LONG, Rows, no_such_column

if TYPE_CHECKING:
    import _csv

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
    # Strict, since otherwise a quote that never closes makes one row of all that follows.
    records = _records(csv.reader(_lines(file, rows), delimiter=delimiter, strict=True), file, rows)
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


def _records(reader: "_csv.Reader", file: InputFile, rows: Rows) -> Iterator[tuple[list[str], str]]:
    """Each with its place, blank lines and broken ones left out."""
    while True:
        where = f"{file.name}:{reader.line_num + 1}"
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:
            rows.tally.add(NO_ROW, where=where)
            continue
        if record:
            yield record, where


def _lines(file: InputFile, rows: Rows) -> Iterator[str]:
    for number, line in enumerate(file.lines(), start=1):
        where = f"{file.name}:{number}"
        if line is None:
            rows.tally.add(TOO_LONG, where=where)
        else:
            yield rows.decoded(line, where=where) + "\n"
