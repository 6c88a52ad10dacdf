"""Dumps of MediaWiki: the articles and nothing else, and wreckage costs no more than the page that it is in."""

import bz2
from html import escape
from pathlib import Path

import pytest

from realm_ds.errors import DataError
from realm_ds.prepare import compressed, rows, wikipedia
from realm_ds.prepare.documents import Document
from realm_ds.prepare.sources import DAMAGED, Source, open_source

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en">
  <siteinfo><sitename>Wikipedia</sitename></siteinfo>
"""
TAIL = "</mediawiki>\n"


def _page(number: int, text: str | None = "Text.", *, namespace: str = "0", extra: str = "", model: str = "") -> str:
    model = model and f"<model>{model}</model>"
    content = "" if text is None else f'<text bytes="9" xml:space="preserve">{escape(text)}</text>'
    return (
        f"  <page>\n    <title>Page {number}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>\n{extra}"
        f"    <revision>\n      <id>9{number}</id>\n{model}{content}</revision>\n  </page>\n"
    )


def _dump(folder: Path, *pages: str, tail: str = TAIL, head: str = HEAD) -> Path:
    path = folder / "dump.xml"
    path.write_text(head + "".join(pages) + tail)
    return path


def _read(path: Path, **options: object) -> tuple[list[Document], Source]:
    source = open_source([path], format="wikipedia", **options)  # type: ignore[arg-type]
    return list(source.documents()), source


@pytest.mark.parametrize("block_bytes", [15, 100, 1 << 20])
def test_articles_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(compressed, "BLOCK_BYTES", block_bytes)
    texts = ["'''One''' & <ref>two</ref>\n\n[[three]]", "</page> <page> 漢字 \U0001f600", "x" * 3000]
    pages = [_page(number, text) for number, text in enumerate(texts)]
    documents, source = _read(_dump(tmp_path, *pages))
    assert [(each.id, each.title, each.text) for each in documents] == [
        (str(number), f"Page {number}", text) for number, text in enumerate(texts)
    ]
    assert {each.markup for each in documents} == {"wikitext"}
    assert documents[1].where == "dump.xml: page 2 (Page 1)"
    assert not source.tally.counts


def test_multistream_dumps_under_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "enwiki-20181220-pages-articles1.xml-p10p30302.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in (HEAD, _page(1), _page(2) + _page(3), TAIL)))
    assert [each.id for each in open_source([path]).documents()] == ["1", "2", "3"]


def test_pages_that_are_no_articles_are_counted(tmp_path: Path) -> None:
    documents, source = _read(
        _dump(
            tmp_path,
            _page(1, namespace="1"),
            _page(2, namespace="10"),
            _page(3, extra='<redirect title="Elsewhere" />'),
            _page(31, text=" #redirect [[Elsewhere]]"),
            _page(4, None),
            _page(5, " \n"),
            _page(6, model="css"),
            "<page><title>Page 7</title></page>",
            "<page><title>Page 8</title><ns>0</ns></page>",
            _page(9),
        )
    )
    assert [each.id for each in documents] == ["9"]
    assert source.tally.counts == {
        wikipedia.OTHER_NAMESPACE: 3,
        wikipedia.REDIRECT: 2,
        wikipedia.OTHER_MODEL: 1,
        rows.NO_TEXT: 3,
    }
    assert source.tally.first[wikipedia.REDIRECT] == "dump.xml: page 3 (Page 3)"


def test_of_a_page_with_its_history_the_last_revision(tmp_path: Path) -> None:
    old = "<revision><text>Old.</text></revision>"
    [document], _ = _read(_dump(tmp_path, _page(1, "New.", extra=old)))
    assert document.text == "New."


@pytest.mark.parametrize(
    "wreck",
    [
        _page(2).replace("</revision>", ""),
        _page(2).replace("</page>", ""),
        _page(2).replace("<page>", ""),
        _page(2, "a & b").replace("&amp;", "&"),
        _page(2).replace("Text.", "&undeclared;"),
        _page(2).replace("Text.", "&#0;"),
        "<page></page></page>",
    ],
)
def test_a_page_that_is_no_xml_costs_only_itself(tmp_path: Path, wreck: str) -> None:
    documents, source = _read(_dump(tmp_path, _page(1), wreck, _page(3)))
    assert [each.id for each in documents] == ["1", "3"]
    assert source.tally.counts[wikipedia.BROKEN] == 1
    assert source.tally.first[wikipedia.BROKEN].startswith("dump.xml: page ")


def test_bytes_that_are_no_text_are_mended(tmp_path: Path) -> None:
    path = _dump(tmp_path, _page(1, "cafX a\x01b\x00c"))
    path.write_bytes(path.read_bytes().replace(b"X", b"\xe9"))
    [document], source = _read(path)
    assert document.text == "caf\ufffd abc"
    assert source.tally.counts == {rows.BAD_UTF8: 1}


def test_entities_are_never_declared(tmp_path: Path) -> None:
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    head = f'<!DOCTYPE mediawiki [<!ENTITY e0 "ha">{bomb}<!ENTITY f SYSTEM "file:///etc/passwd">]>{HEAD}'
    pages = [_page(n, "X").replace("X", entity) for n, entity in enumerate(("&e11;", "&f;", "&lt;"))]
    documents, source = _read(_dump(tmp_path, *pages, head=head))
    assert [each.text for each in documents] == ["<"]
    assert source.tally.counts == {wikipedia.BROKEN: 2}


def test_a_page_beyond_the_limit_is_counted_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 500)
    monkeypatch.setattr(wikipedia, "MAX_RECORD_BYTES", 2000)
    documents, source = _read(_dump(tmp_path, _page(1), _page(2, "x" * 9000), _page(3)))
    assert [each.id for each in documents] == ["1", "3"]
    assert source.tally.counts == {wikipedia.BROKEN: 1}


@pytest.mark.parametrize("cut", [_page(2)[:-20], "  <pa", ""])
def test_a_dump_that_is_cut_off(tmp_path: Path, cut: str) -> None:
    path = _dump(tmp_path, _page(1), cut, tail="")
    with pytest.raises(DataError, match="dump.xml is cut off: there is no </mediawiki> at its end. The 1 documents"):
        _read(path)
    documents, source = _read(path, on_damage="skip")
    assert [each.id for each in documents] == ["1"]
    assert source.tally.counts == {DAMAGED: 1}


def test_what_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dump.xml is no dump of a MediaWiki"):
        _read(_dump(tmp_path, head="<html>", tail="</html>"))
