"""What is said of a question that was looked at: texts cut at their marks, numbers as people read them, what changed
between two rankings. Plain data; how it looks is the pages' business.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from realm_ds.eval.looking import Looked, Read, Said

MASK = "[MASK]"
_BLANK = re.compile(r"_{2,}")
NULL_TITLE = "The null passage"
Move = Literal["same", "up", "down", "new"]


def with_mask(statement: str) -> str:
    """A blank as people write it, ___, as the model's."""
    return statement if MASK in statement else _BLANK.sub(MASK, statement)


def cut_at_marks(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """(part of the text, whether it is marked) from the first to the last; spans that overlap are one mark."""
    done = 0
    for start, stop in sorted(spans):
        start = max(start, done)
        if start >= stop:
            continue
        if done < start:
            yield text[done:start], False
        yield text[start:stop], True
        done = stop
    if done < len(text):
        yield text[done:], False


def around_the_blank(statement: str) -> tuple[str, str]:
    """What an answer stands between: the two sides of the blank; of a question, which has none, all and nothing."""
    before, _, after = statement.partition(MASK)
    return (before, after) if MASK in statement else (f"{before} ", "")


def percent(share: float) -> str:
    """With as many digits as tell small shares apart."""
    if 0 < share < 0.0005:
        return "< 0.1%"
    return f"{100 * share:.1f}%"


def chance(said: Said) -> str:
    """p(y|z,x); what it is less than where that is all that is known."""
    least = percent(said.at_most)
    return percent(said.p) if said.p or not said.at_most else least if least.startswith("<") else f"< {least}"


def nats(value: float | None) -> str:
    """A utility with its sign; what is next to nothing has none that would mean something."""
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def title_of(read: Read) -> str:
    """Of a passage without a title, its number."""
    if read.passage is None:
        return NULL_TITLE
    return read.passage.title or f"Passage {read.passage.uid}"


def worth(utility: float | None) -> Literal["", "helps", "hurts", "even"]:
    """Whether a passage makes an answer more probable than no passage: by a tenth at least."""
    if utility is None:
        return ""
    if abs(utility) < math.log(1.1):
        return "even"
    return "helps" if utility > 0 else "hurts"


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A passage of the later of two rankings."""

    place: int
    """From 1."""
    read: Read
    before: int | None
    """Its place in the earlier one."""

    @property
    def move(self) -> Move:
        if self.before is None:
            return "new"
        if self.before == self.place:
            return "same"
        return "up" if self.before > self.place else "down"

    @property
    def told(self) -> str:
        """In words."""
        if self.before is None:
            return "new"
        if self.before == self.place:
            return "same place"
        return f"{self.move} {abs(self.before - self.place)}, was {self.before}"


def changes(before: Looked, after: Looked) -> tuple[list[Changed], list[tuple[int, Read]]]:
    """The passages of `after`, in order, with their places in `before`; and those of `before` that are gone."""
    places = {_key(read): place for place, read in enumerate(before.read, start=1)}
    kept = [
        Changed(place=place, read=read, before=places.get(_key(read)))
        for place, read in enumerate(after.read, start=1)
    ]  # fmt: skip
    there = {_key(read) for read in after.read}
    return kept, [(places[_key(read)], read) for read in before.read if _key(read) not in there]


def _key(read: Read) -> tuple[str, str] | None:
    """Of the words of a passage: its uid may be another export's number of it."""
    return (read.passage.title, read.passage.text) if read.passage is not None else None
