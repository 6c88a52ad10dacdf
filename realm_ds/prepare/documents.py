"""What is prepared: documents of a source, how far it is read, and the count of what was left out. Reading is
sources.py's."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

Markup = Literal["plain", "wikitext"]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One article of a source, as the source has it; workers clean it."""

    id: str
    """Its name in the source, unique there: what passages and examples call their article."""
    title: str
    text: str
    markup: Markup = "plain"
    where: str
    """Source and place in it (`dump.jsonl.gz:17`), for people."""
    part: int = 0
    """Which part of a long one, which is cut (corpus.py); what is counted by document, is counted at the first."""

    @property
    def num_characters(self) -> int:
        """Of the text: what work is measured by."""
        return len(self.text)


@dataclass(kw_only=True)
class Tally:
    """What was counted on the way, above all what was left out and why; told at the end of a job."""

    counts: Counter[str] = field(default_factory=Counter)
    """By what was counted, in words that people read ("articles without text")."""
    first: dict[str, str] = field(default_factory=dict)
    """Where each was met first."""

    def add(self, what: str, *, where: str = "", number: int = 1) -> None:
        """Count something."""
        self.counts[what] += number
        if where:
            self.first.setdefault(what, where)

    def absorb(self, later: "Tally") -> None:
        """Add what was counted behind this."""
        self.counts.update(later.counts)
        self.first = {**later.first, **self.first}

    def lines(self) -> Iterator[str]:
        """One for each, in order of name."""
        for what, number in sorted(self.counts.items()):
            first = f" (first: {self.first[what]})" if what in self.first else ""
            yield f"{what}: {number:,}{first}"


class Reading(Protocol):
    """What is read once, from its beginning on, and how far that is."""

    @property
    def name(self) -> str:
        """For people, without the paths of this machine."""

    @property
    def measure(self) -> str:
        """What its progress is counted in."""

    @property
    def total(self) -> int | None:
        """How much there is of it, if that is known."""

    @property
    def done(self) -> int:
        """How much of that was read."""

    @property
    def share(self) -> float | None:
        """Which share of the whole was read, if that is known."""

    @property
    def tally(self) -> Tally:
        """What reading left out or mended."""
