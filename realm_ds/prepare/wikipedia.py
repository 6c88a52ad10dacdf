"""Dumps of Wikipedia and other MediaWikis as documents: the articles' wikitext. What it says is wikitext.py's.

Pages are cut from the bytes and parsed one by one, so that memory is that of a page, a page that is no XML costs only
itself, and nothing is parsed in which an entity could be declared. Where the decompression of bz2 (one core, 20 to 40
MB/s) is slower than the workers, give `lbzip2 -dc dump.xml.bz2 | realm-ds prepare ... -`: that takes all cores.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from realm_ds.errors import DataError
from realm_ds.prepare.compressed import MAX_RECORD_BYTES, Damaged, InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import Rows

BROKEN = f"pages left out (no well-formed XML, or more than {MAX_RECORD_BYTES >> 20} MiB)"
REDIRECT = "pages left out (redirects)"
OTHER_NAMESPACE = "pages left out (no articles: another namespace)"
OTHER_MODEL = "pages left out (no wikitext)"

_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
_START, _END, _LAST = b"<page>", b"</page>", b"</mediawiki>"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def read_dump(file: InputFile, rows: Rows) -> Iterator[Document]:
    """The articles of a dump, in order."""
    for number, data in enumerate(_pages(file), start=1):
        where = f"{file.name}: page {number}"
        page = _parsed(data, rows, where)
        if page is None:
            rows.tally.add(BROKEN, where=where)
        elif document := _document(page, rows, where):
            yield document


def _document(page: ElementTree.Element, rows: Rows, where: str) -> Document | None:
    title = page.findtext("title") or ""
    where = f"{where} ({title})"
    if page.findtext("ns") != "0":
        rows.tally.add(OTHER_NAMESPACE, where=where)
        return None
    if page.find("redirect") is not None:
        rows.tally.add(REDIRECT, where=where)
        return None
    revisions = page.findall("revision")  # in order; only dumps with the whole history have several
    text = (revisions[-1].findtext("text") if revisions else None) or ""
    if _REDIRECT.match(text):  # of a dump that was made otherwise than Wikipedia's
        rows.tally.add(REDIRECT, where=where)
        return None
    if revisions and revisions[-1].findtext("model", "wikitext") != "wikitext":
        rows.tally.add(OTHER_MODEL, where=where)
        return None
    return rows.document(text, title=title, id=page.findtext("id") or "", where=where, markup="wikitext")


def _parsed(data: bytes, rows: Rows, where: str) -> ElementTree.Element | None:
    """The page, its text mended if need be; None if it is no XML."""
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError:
        pass
    try:
        return ElementTree.fromstring(_NOT_XML.sub("", rows.decoded(data, where=where)))
    except ElementTree.ParseError:
        return None


def _pages(file: InputFile) -> Iterator[bytes]:
    """Each `<page>` to its `</page>`; where one of these is missing, something that is no XML."""
    held = bytearray()
    searched = 0
    for num_blocks, block in enumerate(file.blocks(), start=1):
        if num_blocks == 1 and b"<mediawiki" not in block and _START not in block:
            raise DataError(f"{file.name} is no dump of a MediaWiki: there is no <mediawiki> at its beginning")
        held += block
        while (end := held.find(_END, searched)) >= 0:
            before, *pages = bytes(held[: end + len(_END)]).split(_START)
            yield from (_START + page for page in pages)
            if not pages:
                yield before
            del held[: end + len(_END)]
            searched = 0
        if len(held) > MAX_RECORD_BYTES:
            del held[: -len(_END)]  # its end will be found without a start
        searched = max(0, len(held) - len(_END))
    if _LAST not in held:
        raise Damaged(f"{file.name} is cut off: there is no </mediawiki> at its end")
