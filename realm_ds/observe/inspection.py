"""What is in tar shards, on a terminal: facts, histograms, samples with their salient spans. It is read elsewhere.

Text of data is shown as it is: neither its brackets nor its control characters mean anything to the terminal.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from realm_ds.observe.progress import number_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NUM_BINS = 12
LONGEST_NAME = 24
"""Of a fact, for what it says to stand in the column of the others."""
BAR_WIDTH = 40
Piece = tuple[str, bool]
"""A part of a text, and whether it is a salient span."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How often each length occurs."""

    name: str
    counts: Mapping[int, int]
    """By length, in its order; at least one."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        return sum(length * count for length, count in self.counts.items()) / self.total

    def quantile(self, share: float) -> int:
        """The least length that so many are not longer than."""
        so_far = 0
        for length, count in self.counts.items():
            so_far += count
            if so_far >= share * self.total:
                return length
        return max(self.counts)

    def bins(self) -> list[tuple[int, int, int]]:
        """(shortest, longest, count) of at most NUM_BINS bins of a round width; the last holds all that are longer."""
        low, high = min(self.counts), self.quantile(0.99)
        width = next(width for width in _round_numbers() if high // width - low // width < NUM_BINS)
        last = high // width
        filled: Counter[int] = Counter()
        for length, count in self.counts.items():
            filled[min(length // width, last)] += count
        bins = [(place * width, place * width + width - 1, filled[place]) for place in range(low // width, last + 1)]
        start, end, count = bins.pop()
        return [*bins, (start, max(end, *self.counts), count)]

    def summary(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        return {
            "name": self.name, "records": self.total, "mean": self.mean, "median": self.quantile(0.5),
            "p95": self.quantile(0.95), "max": max(self.counts), "bins": self.bins(),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A record, to be looked at."""

    name: str
    sentences: tuple[tuple[Piece, ...], ...]
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardsView:
    """What there is to say of a folder of tar shards."""

    facts: Mapping[str, str]
    distributions: tuple[Distribution, ...]
    samples: tuple[Sample, ...]
    duplicates: tuple[str, ...] = ()
    faults: tuple[str, ...] | None = None
    """None where nobody looked for them."""


def show_shards(view: ShardsView, *, out: TextIO | None = None) -> None:
    """Print it: in colours on a terminal, with spans in «marks» elsewhere."""
    from rich.console import Console

    out = out or sys.stdout
    console = Console(file=out, highlight=False, markup=False, emoji=False, soft_wrap=not out.isatty())
    for line in _lines(view, console):
        console.print(line)


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: control and direction characters as escapes, spaces as spaces."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character.isspace() else ascii(character)[1:-1]
        for character in text
    )


def _lines(view: ShardsView, console: "Console") -> Iterator["Text"]:
    from rich.text import Text

    widest = max((len(name) for name in view.facts if len(name) <= LONGEST_NAME), default=0)
    for name, fact in view.facts.items():
        yield Text.assemble((f"{name:<{widest}}  ", "dim"), printable(fact))
    for distribution in view.distributions:
        yield Text()
        yield from _histogram(distribution, console)
    for sample in view.samples:
        yield Text()
        yield from _sample(sample, console)
    if view.duplicates:
        yield Text()
        yield from (Text(printable(line)) for line in view.duplicates)
    if view.faults is not None:
        yield Text()
        yield from (Text(printable(fault), style="red") for fault in view.faults)
        counted = number_of(len(view.faults), "fault") if view.faults else "no faults"
        yield Text(counted, "bold red" if view.faults else "bold green")


def _histogram(distribution: Distribution, console: "Console") -> Iterator["Text"]:
    from rich.text import Text

    summary = (
        f"mean {distribution.mean:.1f}, median {distribution.quantile(0.5):,}, "
        f"95% at most {distribution.quantile(0.95):,}, longest {max(distribution.counts):,}"
    )
    yield Text.assemble((distribution.name, "bold"), f"  {summary}")
    bins = distribution.bins()
    highest = max(count for _, _, count in bins)
    block = "█" if console.encoding.startswith("utf") else "#"
    labels = [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high, _ in bins]
    for label, (_, _, count) in zip(labels, bins, strict=True):
        length = -(-BAR_WIDTH * count // highest)
        yield Text.assemble(
            f"{label:>{max(map(len, labels))}}  ", (block * length, "cyan"), " " * (BAR_WIDTH - length), f" {count:,}"
        )


def _sample(sample: Sample, console: "Console") -> Iterator["Text"]:
    from rich.text import Text

    marks = ("", "") if console.is_terminal and not console.no_color else ("«", "»")
    yield Text(printable(sample.name), "bold")
    for sentence in sample.sentences:
        line = Text("  ")
        for text, is_salient in sentence:
            if is_salient:
                line.append(f"{marks[0]}{printable(text)}{marks[1]}", "bold yellow")
            else:
                line.append(printable(text))
        yield line
    if sample.remark:
        yield Text(f"  {printable(sample.remark)}", "dim")


def _round_numbers() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    decade = 1
    while True:
        yield from (decade, 2 * decade, 5 * decade)
        decade *= 10
