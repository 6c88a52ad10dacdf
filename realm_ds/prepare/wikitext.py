"""The prose in wikitext, in one pass and in time that grows with its length, whatever is wrong with it.

Kept are paragraphs (each one line, however many it is written in), list items (each a line of its own, without its
mark), the labels of links, formulas that read as they are written (`x+1`), and what templates.py knows the words of.
Left out are all other templates and formulas, tables, references, comments, files, categories, links to other
languages, code, galleries, magic words, headings, and sections of references and links with all that is in them.

Why no parser of others: mwparserfromhell goes back wherever something is not closed, so that 16 kB of `{{a|` take it
20 s and a megabyte of wreckage for ever; it loses pages that MediaWiki shows (all 9,803 words of Alaska are one table
to it); and on good pages it takes seven times as long.
"""

import html
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from realm_ds.prepare.documents import Document
from realm_ds.prepare.templates import words_of

MAX_DEPTH = 30
"""Brackets within more brackets than that are no bracket: each level costs a copy of what is in it."""
LEFT_OUT_SECTIONS = frozenset(
    (
        "references", "notes", "footnotes", "citations", "sources", "bibliography", "literature", "works cited",
        "see also", "further reading", "external links", "external link", "links", "gallery", "notes and references",
        "references and notes", "references and footnotes", "general references", "primary sources",
        "secondary sources", "explanatory notes",
    )
)  # fmt: skip
"""Their headings, in lower case."""
_FILES_AND_CATEGORIES = frozenset(
    (
        "file", "image", "media", "category", "datei", "bild", "kategorie", "fichier", "catégorie", "archivo", "imagen",
        "categoría", "immagine", "categoria", "ficheiro", "imagem", "bestand", "afbeelding", "categorie", "plik",
        "kategoria", "файл", "изображение", "категория", "ファイル", "画像", "カテゴリ", "文件", "图像", "分类",
    )
)  # fmt: skip
_OTHER_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|[a-z]{2,3}(?:-[a-z]+)+):")

_TOKEN = re.compile(
    r"""
      (?P<comment><!--)
    | </?(?P<tag>[a-zA-Z][a-zA-Z0-9]*)(?:[\s/][^<>]{0,1000})?>
    | (?P<open>\{\{|\[\[|^[ \t:]*\{\|.*|\[(?=(?:https?:|ftp:)?//|mailto:))
    | (?P<close>\}\}|\]\]|^[ \t]*\|\}(?!\})|\])
    | (?P<gap>\n(?=[ \t]*\n|==))
    """,
    re.VERBOSE | re.MULTILINE,
)
_OPENED_BY = {"}}": "{{", "]]": "[[", "|}": "{|", "]": "["}
_LEFT_OUT_TAGS = frozenset(
    (
        "ref", "references", "chem", "ce", "score", "code", "syntaxhighlight", "source", "pre", "gallery",
        "timeline", "imagemap", "inputbox", "graph", "mapframe", "maplink", "hiero", "templatedata", "templatestyles",
        "indicator", "includeonly", "table", "categorytree",
    )
)  # fmt: skip
"""With all that is in them."""
_TAGS_OF_TEXT = frozenset(("nowiki", "math"))
"""What is in them is no wikitext."""
_BLOCK_TAGS = frozenset(
    ("p", "div", "blockquote", "center", "li", "ul", "ol", "dl", "dd", "dt", "hr", "poem", "tr", "td")
)

_READ_AS_WRITTEN = re.compile(r"[^\\~&]{1,60}")
"""A formula that needs no TeX."""
_POWER = re.compile(r"(?<=[0-9])<sup>(?=[-\u2212\u2013]?[0-9])", re.IGNORECASE)

_QUOTES = re.compile("'{2,}")
_OPENS_A_LINE = "*#:; \t|"
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_MAGIC_WORD = re.compile("__[A-Z]{3,30}__")
# What templates that were left out leave behind: "Goethe ( , ; 1749)".
_EMPTY_BRACKETS = re.compile(r" ?(?:\([\s,;:\u2013\u2014-]*\)|\[\s*\])")
_AFTER_BRACKET = re.compile(r"\([\s,;:]+")
_COMMAS = re.compile(r",(?: ?,)+")
_BEFORE_MARK = re.compile(r" ([,;.)])(?=[ ,;.)]|$)")
_BEFORE_STOP = re.compile(r"[,;:](?=[,)]|\.(?: |$))")
_OPENING_MARK = re.compile(r"^[,;:.)] ")


def plain_text(document: Document) -> str:
    """What a document says: its paragraphs and list items, one a line."""
    return prose(document.text) if document.markup == "wikitext" else document.text


def prose(wikitext: str) -> str:
    """Its paragraphs and list items, one a line."""
    cleaned = (_cleaned(line) for line in _joined(_lines_in_sections(_Flattener(wikitext).flat())))
    return "\n".join(line for line in cleaned if line)


class _Frame(NamedTuple):
    """A bracket that is open."""

    bracket: str
    start: int
    """Of what is in it, among the parts."""


class _Flattener:
    """Goes through wikitext once. What is open at the end was no bracket: only the mark itself is lost.

    All that was read stands in one list of parts; a bracket knows where its own begin there. So what never closes costs
    nothing.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts: list[str] = []
        self._frames: list[_Frame] = []
        self._never_closed: set[str] = set()
        """Tags of which no end follows: looked for once, not again for each."""

    def flat(self) -> str:
        """The text, its brackets and tags resolved."""
        position = 0
        while token := _TOKEN.search(self._text, position):
            self._parts.append(self._text[position : token.start()])
            position = token.end()
            match token.lastgroup:
                case "comment":
                    position = self._behind("-->", position)
                case "tag":
                    position = self._tag(token)
                case "open" if len(self._frames) < MAX_DEPTH:
                    self._frames.append(_Frame(token.group().lstrip(" \t:")[:2], len(self._parts)))
                case "close":
                    bracket = token.group().strip(" \t")
                    if bracket == "]]" and self._frames and self._frames[-1].bracket == "[":
                        bracket, position = "]", position - 1  # [[File:x|[http://x.org label]]]
                    self._close(bracket)
                case "gap":
                    self._parts.append("\n")
                    self._give_up(all_of_them=self._text.startswith("==", position))
        self._parts.append(self._text[position:])
        return "".join(self._parts)

    def _behind(self, mark: str, position: int) -> int:
        """The place behind the next such mark, or the end, as MediaWiki has it."""
        found = self._text.find(mark, position)
        return len(self._text) if found < 0 else found + len(mark)

    def _tag(self, token: re.Match[str]) -> int:
        """Take a tag; the place behind it, or behind its element."""
        name = token["tag"].lower()
        if name in _BLOCK_TAGS:
            self._parts.append("\n\n")
        elif name == "br":
            self._parts.append(" ")
        elif _POWER.match(self._text, token.start()):
            self._parts.append("^")  # 10<sup>9</sup> is not 109
        opens = not token.group().startswith("</") and not token.group().endswith("/>")
        if not opens or (name not in _TAGS_OF_TEXT and name not in _LEFT_OUT_TAGS) or name in self._never_closed:
            return token.end()
        end = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(self._text, token.end())
        if end is None:
            self._never_closed.add(name)
            return token.end()
        content = self._text[token.end() : end.start()]
        if name == "nowiki":
            self._parts.append(content)
        elif name == "math" and _READ_AS_WRITTEN.fullmatch(content):
            self._parts.append(content.replace("{", "").replace("}", ""))
        return end.end()

    def _close(self, bracket: str) -> None:
        """Put what a bracket says in its place; brackets within it that are still open were none."""
        depth = len(self._frames) - 1
        while depth >= 0 and self._frames[depth].bracket != _OPENED_BY[bracket]:
            depth -= 1
        if depth < 0 or (bracket == "]" and depth < len(self._frames) - 1):
            self._parts.append("]" if bracket == "]" else "")
            return
        start = self._frames[depth].start
        content = "".join(self._parts[start:])
        del self._parts[start:], self._frames[depth:]
        match bracket:
            case "}}":
                self._parts.append(words_of(content))
            case "]]":
                self._parts.append(_label(content))
            case "]":
                self._parts.append(content.partition(" ")[2])

    def _give_up(self, *, all_of_them: bool) -> None:
        """No link goes beyond a paragraph, and nothing beyond a heading."""
        while self._frames and (all_of_them or self._frames[-1].bracket in ("[[", "[")):
            self._frames.pop()


def _label(content: str) -> str:
    """What is read of `[[content]]`."""
    target, bar, label = content.partition("|")
    prefix, colon, _ = target.partition(":")
    if colon and (prefix.strip().lower() in _FILES_AND_CATEGORIES or _OTHER_LANGUAGE.match(target)):
        return ""
    return label if bar else target.lstrip(": ")


def _lines_in_sections(text: str) -> Iterator[str]:
    """The lines of all sections that have prose, an empty one for each heading."""
    left_out = 0
    """The level of the heading of a section without; what is below it belongs to it."""
    for line in text.split("\n"):
        stripped = line.strip()
        if len(stripped) > 2 and stripped[0] == stripped[-1] == "=":
            level = len(stripped) - len(stripped.lstrip("="))
            if not left_out or level <= left_out:
                left_out = level if stripped.strip("= ").lower() in LEFT_OUT_SECTIONS else 0
            yield ""
        elif not left_out:
            yield line


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """The lines, those of a paragraph as one; list items and what is indented go on with nothing."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip() and line[0] not in _OPENS_A_LINE:
            paragraph.append(line)
            continue
        yield " ".join(paragraph)
        paragraph.clear()
        yield line
    yield " ".join(paragraph)


def _cleaned(line: str) -> str:
    """A line as one reads it; nothing of a line without a letter or digit, or of a table that was never closed."""
    line = line.strip().lstrip("*#:; \t")
    if not line or line.startswith(("|", "{|", "----")):
        return ""
    line = _INVISIBLE.sub("", html.unescape(_MAGIC_WORD.sub("", _QUOTES.sub("", line))))
    line = " ".join(line.split())
    line = _AFTER_BRACKET.sub("(", _EMPTY_BRACKETS.sub("", line))
    line = _BEFORE_STOP.sub("", _BEFORE_MARK.sub(r"\1", _COMMAS.sub(",", line)))
    line = _OPENING_MARK.sub("", line)
    return line if re.search(r"\w", line) else ""
