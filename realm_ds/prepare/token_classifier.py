"""Named entities by a transformers token-classification model: tags of words to spans. The model is models/tagger.py's.

Tags are B-PER (a span begins), I-PER (it goes on), O (nothing); also those with E-, L- (it ends), S-, U- (a span of one
word), and types without a letter before them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from realm_ds.prepare.entities import chosen_types
from realm_ds.prepare.spans import Span, SpanFinder

OUTSIDE = "O"
_BEGIN, _END = frozenset("BSU"), frozenset("ELSU")
_LETTERS = frozenset("BIELSU")


def tagging_finder(folder: Path, *, entity_types: Sequence[str] = ()) -> SpanFinder:
    """A finder of the entities that the model in the folder tags; no types: the usual ones that it knows."""
    from realm_ds.models.tagger import Tagger  # torch and transformers, which other finders do without

    tagger = Tagger(folder)
    offered = {_split(tag)[1] for tag in tagger.tags} - {OUTSIDE}
    wanted = chosen_types(entity_types, offered=offered, model=str(folder))

    def find(sentences: Sequence[str]) -> list[list[Span]]:
        return [[span for span in spans_of_tags(words) if span.kind in wanted] for words in tagger.tag(sentences)]

    return find


def spans_of_tags(words: Iterable[tuple[int, int, str]]) -> list[Span]:
    """The spans that tagged words (start, end, tag) make. A word that goes on what did not begin begins it."""
    spans: list[Span] = []
    is_open = False
    for start, end, tag in words:
        letter, kind = _split(tag)
        if kind == OUTSIDE:
            is_open = False
            continue
        if is_open and letter not in _BEGIN and spans[-1].kind == kind:
            spans[-1] = Span(spans[-1].start, end, kind)
        else:
            spans.append(Span(start, end, kind))
        is_open = letter not in _END
    return spans


def _split(tag: str) -> tuple[str, str]:
    """B-PER to B and PER; PER to I and PER."""
    letter, dash, kind = tag.partition("-")
    return (letter, kind) if dash and letter in _LETTERS else ("I", tag)
