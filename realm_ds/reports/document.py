"""What a report is made of, and how it reads as Markdown. As a web page: page.py; what is in it: sections.py, demo.py.

All text is data and is written as text: what would mean something to Markdown is escaped here, to HTML there.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

_MARKUP = re.compile(r"[\\`*_\[\]<>|$#~&]")
_LIST = re.compile(r"^(\d*)([-+.)])(?=[-+ ]|$)")
"""At the start of a line this would begin a list, or be a rule."""
_ID = re.compile(r'\bid="|url\(#|href="#')
PLOT_FOLDER = "plots"
"""Beside the Markdown."""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A few sentences."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The few numbers to look at first: (name, value)."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells; the first column names, the others are numbers unless `is_text`."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing (plots.py)."""

    name: str
    """Of its file, without the ending."""
    title: str
    page_svg: str
    """For a page: without a background, in the page's own colour of text."""
    file_svg: str
    """For a file: on white."""
    is_wide: bool = False
    """As wide as the page; others stand two beside each other."""

    @property
    def inline_svg(self) -> str:
        """`page_svg` with ids that no other drawing of the page has."""
        return _ID.sub(rf"\g<0>{self.name}-", self.page_svg)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A passage that was found."""

    title: str
    text: str
    note: str = ""
    """Beside the title: p(z|x) or a score."""
    share: float | None = None
    """Drawn as a bar."""
    is_right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one version, or one run, found."""

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A query, and what was found for it, side by side."""

    query: str
    notes: tuple[str, ...]
    columns: tuple[Column, ...]


Block = Paragraph | Figures | Table | Plot | Findings


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: tuple[Block, ...]
    level: int = 2

    @property
    def anchor(self) -> str:
        """What a link within the page names it by."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report."""

    title: str
    lead: str
    """One or two sentences below the title."""
    sections: tuple[Section, ...]

    @property
    def plots(self) -> list[Plot]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Plot)]


def below(sections: Sequence[Section], *, title: str, name: str) -> list[Section]:
    """The sections under a heading of their own; anchors and names of plots are then told apart by `name`."""
    moved = [
        replace(
            section, title=f"{title}: {section.title}", level=section.level + 1,
            blocks=tuple(
                replace(block, name=f"{name}-{block.name}") if isinstance(block, Plot) else block
                for block in section.blocks
            ),
        )
        for section in sections
    ]  # fmt: skip
    return [Section(title=title, blocks=()), *moved]


def markdown(document: Document) -> str:
    """All of it; plots are files beside it."""
    parts = [f"# {_plain(document.title)}", _plain(document.lead)]
    for section in document.sections:
        parts.append(f"{'#' * section.level} {_plain(section.title)}")
        parts += [text for block in section.blocks for text in _markdown(block)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield _plain(block.text)
    elif isinstance(block, Figures):
        yield "\n".join(f"- {_plain(name)}: **{_plain(value)}**" for name, value in block.items)
    elif isinstance(block, Table):
        yield _table(block)
    elif isinstance(block, Plot):
        yield f"![{_plain(block.title)}]({PLOT_FOLDER}/{block.name}.svg)"
    else:
        yield f"**{_plain(block.query)}**"
        yield from (_plain(note) for note in block.notes)
        for column in block.columns:
            yield "\n".join([f"{_plain(column.title)}:", "", *(_entry(one) for one in column.entries)])


def _entry(entry: Entry) -> str:
    mark = ", holds the answer" if entry.is_right else ""
    note = f" ({_plain(entry.note)})" if entry.note else ""
    return f"1. *{_plain(entry.title)}*{note}{mark}: {_plain(entry.text)}"


def _table(table: Table) -> str:
    rule = ["---"] + (["---"] if table.is_text else ["---:"]) * (len(table.head) - 1)
    rows = [[_plain(cell) for cell in row] for row in (table.head, *table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def _plain(text: str) -> str:
    """One line that Markdown takes as it is."""
    return _LIST.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", " ".join(text.split())))
