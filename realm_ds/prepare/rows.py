"""A row of any table (JSON object, CSV row, Arrow record) as a Document, mended or left out, and counted.

What the row was read from is not known here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from realm_ds.errors import DataError
from realm_ds.prepare.compressed import MAX_RECORD_BYTES
from realm_ds.prepare.documents import Document, Markup, Tally
from realm_ds.prepare.key_set import KeySet

_63_BITS = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What the fields of a row are called."""

    id: str = "id"
    """May be missing: then the place of the row is its id."""
    title: str = "title"
    """May be missing: then titles are empty."""
    text: str = "text"

    @property
    def unusual(self) -> dict[str, str]:
        """Those that somebody named otherwise than they are called as usual."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Fields, name)}

    @property
    def needed(self) -> tuple[str, ...]:
        """Those that may not be missing: the text's, and whatever is not called as usual, since somebody named it."""
        return tuple(dict.fromkeys((self.text, *self.unusual.values())))


# What is counted, in the words that people read at the end.
NO_TEXT = "documents left out (no text)"
NOT_TEXT = "documents left out (their text is no string)"
NUL = "texts with null bytes, which were taken out"
BAD_UTF8 = "records with bytes that are no UTF-8; each such place became U+FFFD"
NO_TITLE = "documents without a title"
ODD_TITLE = "titles that are no string, taken for empty"
TOO_LONG = f"records left out (more than {MAX_RECORD_BYTES >> 20} MiB)"
SAME_ID = "documents with the id of an earlier one, to which their place was added"


class Rows:
    """Makes the documents of a source, one after the other."""

    def __init__(self, *, tally: Tally, fields: Fields | None = None) -> None:
        self.tally = tally
        self.fields = fields or Fields()
        self.num_documents = 0
        self._ids = KeySet()

    def from_row(self, row: Mapping[str, object], *, where: str) -> Document | None:
        """The document of a row; None, counted, if it has no usable text."""
        fields = self.fields
        text = row.get(fields.text)
        if type(text) is not str:
            self.tally.add(self._why_no_text(row), where=where)
            return None
        title = row.get(fields.title) or ""
        if type(title) is not str:
            title = self._title(title, where)
        identity = row.get(fields.id)
        return self.document(text, title=title, id="" if identity is None else str(identity), where=where)

    def document(self, text: str, *, title: str, id: str, where: str, markup: Markup = "plain") -> Document | None:
        """The document; None, counted, if there is no text in it. Without an id its place is its id."""
        if not text or text.isspace():
            self.tally.add(NO_TEXT, where=where)
            return None
        if "\0" in text or "\0" in title or "\0" in id:
            self.tally.add(NUL, where=where)
            text, title, id = (value.replace("\0", "") for value in (text, title, id))
        id = id.strip() or where
        # Python's own hash: a digest would cost more than parsing the line did. Among ten million ids two are taken for
        # one with a chance of five in a million.
        if not self._ids.add(hash(id) & _63_BITS):
            self.tally.add(SAME_ID, where=where)
            id = f"{id} ({where})"
        title = title.strip()
        if not title:
            self.tally.add(NO_TITLE, where=where)
        self.num_documents += 1
        return Document(id=id, title=title, text=text, markup=markup, where=where)

    def decoded(self, data: bytes, *, where: str) -> str:
        """The bytes as text, mended and counted where they are not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.tally.add(BAD_UTF8, where=where)
            return data.decode(errors="replace")

    def _why_no_text(self, row: Mapping[str, object]) -> str:
        if self.fields.text not in row:
            return f"documents left out (no field {self.fields.text!r})"
        return NO_TEXT if row[self.fields.text] is None else NOT_TEXT

    def _title(self, title: object, where: str) -> str:
        if type(title) is int:  # "1984"
            return str(title)
        self.tally.add(ODD_TITLE, where=where)
        return ""


def no_such_column(name: str, there: Iterable[str], *, where: str) -> DataError:
    """What is said of a table without a column that it needs."""
    return DataError(f"{where}: no column {name!r} among {', '.join(there)}: name one of these")
