"""Text files as documents: each file is one, its name the title."""

from collections.abc import Iterator
from pathlib import PurePath

from realm_ds.prepare.compressed import ENDINGS, MAX_RECORD_BYTES, InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import TOO_LONG, Rows


def read_text(file: InputFile, rows: Rows) -> Iterator[Document]:
    """The document of a file. Its first line is no title: many texts have none."""
    blocks = []
    num_bytes = 0
    for block in file.blocks():
        num_bytes += len(block)
        if num_bytes > MAX_RECORD_BYTES:
            rows.tally.add(TOO_LONG, where=file.name)
            return
        blocks.append(block)
    text = rows.decoded(b"".join(blocks), where=file.name).replace("\r\n", "\n").replace("\r", "\n")
    if document := rows.document(text, title=_title(file.name), id=file.name, where=file.name):
        yield document


def _title(name: str) -> str:
    """`geography/New_York.txt.gz` is about New York."""
    path = PurePath(name)
    return (path.with_suffix("") if path.suffix in ENDINGS else path).stem.replace("_", " ")
