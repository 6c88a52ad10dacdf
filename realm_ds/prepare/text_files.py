"""Text files as documents: each file is one, its name the title."""

import re
from collections.abc import Iterator
from pathlib import PurePath

from realm_ds.prepare.compressed import ENDINGS, MAX_RECORD_BYTES, Damaged, InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import TOO_LONG, Rows

NUM_JUDGED_BYTES = 1 << 16
"""By its first bytes a file is taken for text, or for none."""
MOST_ODD = 0.1
"""The share of characters that are none in UTF-8, or control characters, in what passes for text. Prose in Latin-1 has
less, and is mended and counted."""
_ODD = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufffd]")


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
    data = b"".join(blocks)
    _refuse_what_is_no_text(data[:NUM_JUDGED_BYTES], where=file.name)
    text = rows.decoded(data, where=file.name).replace("\r\n", "\n").replace("\r", "\n")
    if document := rows.document(text, title=_title(file.name), id=file.name, where=file.name):
        yield document


def _refuse_what_is_no_text(data: bytes, *, where: str) -> None:
    text = data.decode(errors="replace")
    share = len(_ODD.findall(text)) / max(len(text), 1)
    if share > MOST_ODD:
        raise Damaged(
            f"{where} is no text in UTF-8: {share:.0%} of its first characters are none, or control characters; leave "
            "it out if it is no text, or convert it, for example with iconv -f latin1 -t utf-8"
        )


def _title(name: str) -> str:
    """`geography/New_York.txt.gz` is about New York."""
    path = PurePath(name)
    return (path.with_suffix("") if path.suffix in ENDINGS else path).stem.replace("_", " ")
