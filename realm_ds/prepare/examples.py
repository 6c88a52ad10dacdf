"""A passage and the salient spans of its sentences to pre-training examples: characters to wordpieces, exactly.

A span becomes wordpieces only if these are its words and nothing else: masked wordpieces decode to the very span. One
that cuts a word, or holds a word that the vocabulary does not know and nobody could predict, is left out and counted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from realm_ds.data.records import Example, Passage
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.spans import Span, SpanFinder

Unit = Literal["passage", "sentence"]
Range = tuple[int, int]
READ, WITHOUT, ALTERED = (
    "passages read",
    "passages without a salient span, left out",
    "passages whose wordpieces are not those of their text, left out",
)
CUT, UNKNOWN = "spans that cut a word, left out", "spans with an unknown word, left out"
SPANS = "spans of kind "
"""What a kind of span is counted as."""


@dataclass(frozen=True, kw_only=True)
class _Spelled:
    """A passage with the characters that each of its wordpieces stands for."""

    passage: Passage
    starts: Sequence[int]
    ends: Sequence[int]

    def characters(self, sentence: Range) -> Range:
        """Those of a sentence."""
        first, last = sentence
        return self.starts[first], self.ends[last - 1]


class ExampleMaker:
    """Makes examples of passages."""

    def __init__(self, tokenizer: Tokenizer, find: SpanFinder, *, unit: Unit = "passage") -> None:
        self._tokenizer = tokenizer
        self._find = find
        self._unit = unit
        special = tokenizer.special
        self._unknown = {special.pad, special.unk, special.cls, special.sep, special.mask}
        pieces = tokenizer.tokens(range(tokenizer.vocab_size))
        self._within_a_word = {piece for piece, text in enumerate(pieces) if text.startswith("##")}

    def make(self, passages: Iterable[Passage], tally: Tally, *, of_corpus: bool) -> Iterator[Example]:
        """Examples of those passages that have a span, in order.

        `of_corpus`: their articles are those of the corpus, and known as such where articles are left out of retrieval.
        """
        spelled = list(self._spelled(passages, tally))
        found = iter(self._find([text for each in spelled for text in _sentences(each)]))
        for each in spelled:
            article = each.passage.article if of_corpus else ""
            spans = [
                list(self._aligned(each, sentence, next(found), tally)) for sentence in each.passage.sentences
            ]  # fmt: skip
            if not any(spans):
                tally.add(WITHOUT)
            elif self._unit == "passage":
                yield _of_passage(each.passage, spans, article)
            else:
                yield from _of_sentences(each, spans, article)

    def _spelled(self, passages: Iterable[Passage], tally: Tally) -> Iterator[_Spelled]:
        passages = list(passages)
        tally.add(READ, number=len(passages))
        encoded = self._tokenizer.encode_all_with_offsets([passage.text for passage in passages])
        for passage, (ids, offsets) in zip(passages, encoded, strict=True):
            if tuple(ids) == passage.body_ids:
                starts, ends = zip(*offsets, strict=True)
                yield _Spelled(passage=passage, starts=starts, ends=ends)
            else:
                tally.add(ALTERED, where=f"{passage.uid:016x}, {passage.title!r}")

    def _aligned(self, spelled: _Spelled, sentence: Range, found: Sequence[Span], tally: Tally) -> Iterator[Range]:
        """The wordpieces of the spans that were found in a sentence."""
        offset = spelled.starts[sentence[0]]
        for span in found:
            pieces = self._pieces(spelled, sentence, offset + span.start, offset + span.end)
            if pieces is None:
                tally.add(CUT)
            elif not self._unknown.isdisjoint(spelled.passage.body_ids[slice(*pieces)]):
                tally.add(UNKNOWN)
            else:
                tally.add(SPANS + span.kind)
                yield pieces

    def _pieces(self, spelled: _Spelled, sentence: Range, start: int, end: int) -> Range | None:
        """The wordpieces of characters start..end-1, None if these are not whole words."""
        first, last = sentence
        ids, starts, ends = spelled.passage.body_ids, spelled.starts, spelled.ends
        low, high = bisect_left(starts, start, first, last), bisect_right(ends, end, first, last)
        if low >= high or ids[low] in self._within_a_word:
            return None
        if low > first and ends[low - 1] > start:
            return None
        if high < last and (starts[high] < end or ids[high] in self._within_a_word):
            return None
        return low, high


def _sentences(spelled: _Spelled) -> Iterator[str]:
    for sentence in spelled.passage.sentences:
        start, end = spelled.characters(sentence)
        yield spelled.passage.text[start:end]


def _of_passage(passage: Passage, spans: Sequence[Sequence[Range]], article: str) -> Example:
    return Example(
        id=f"{passage.uid:016x}", text=passage.text, ids=passage.body_ids, sentences=passage.sentences,
        spans=tuple(span for of_sentence in spans for span in of_sentence), origin_uid=passage.uid,
        origin_article=article,
    )  # fmt: skip


def _of_sentences(spelled: _Spelled, spans: Sequence[Sequence[Range]], article: str) -> Iterator[Example]:
    """One for each sentence that has a span."""
    passage = spelled.passage
    for number, (sentence, of_sentence) in enumerate(zip(passage.sentences, spans, strict=True)):
        if of_sentence:
            first, last = sentence
            yield Example(
                id=f"{passage.uid:016x}/{number}", text=passage.text[slice(*spelled.characters(sentence))],
                ids=passage.body_ids[first:last], sentences=((0, last - first),),
                spans=tuple((low - first, high - first) for low, high in of_sentence), origin_uid=passage.uid,
                origin_article=article,
            )  # fmt: skip
