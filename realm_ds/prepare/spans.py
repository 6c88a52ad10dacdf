"""Salient spans: what a finder is, and how the spans of several finders become those of a sentence.

The finders are dates.py's, rules.py's, entities.py's (spaCy) and token_classifier.py's (transformers).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Characters of a text, end exclusive, and what they are (DATE, PERSON)."""

    start: int
    end: int
    kind: str


SpanFinder = Callable[[Sequence[str]], list[list[Span]]]
"""Sentences that stand together in a source, and so share names, to the spans of each: sorted, apart, none empty."""


def apart(spans: Iterable[Span]) -> list[Span]:
    """Of spans that overlap the longest, and of equally long ones the earlier given; sorted, none empty."""
    taken: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start - span.end):
        place = bisect_left(taken, span)
        is_free = (place == 0 or taken[place - 1].end <= span.start) and (
            place == len(taken) or span.end <= taken[place].start
        )
        if is_free and span.start < span.end:
            taken.insert(place, span)
    return taken


def combined(finders: Sequence[SpanFinder]) -> SpanFinder:
    """A finder of what all of them find, each sentence's spans apart."""

    def find(sentences: Sequence[str]) -> list[list[Span]]:
        found = [finder(sentences) for finder in finders]
        return [apart(span for spans in of_sentence for span in spans) for of_sentence in zip(*found, strict=True)]

    return find
