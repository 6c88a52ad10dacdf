"""Documents into passages: whole sentences, packed greedily up to a number of wordpieces (google-research orqa).

Every sentence is encoded once. Words never cross a space, so the wordpieces of a passage, whose text is its sentences
with a space between, are those of its sentences in a row. A sentence that alone is longer than a passage is divided:
at a clause, else between words, else within a word. A passage never crosses documents.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from realm_ds.data.records import NUM_SPECIAL, Passage, passage_uid
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.sentences import CLAUSE_ENDS, SPACE, clean, split_sentences

LEAST_TOKENS = 32
"""The shortest passages that can be asked for: a word of Korean may have three wordpieces a letter."""
IN_PARTS = "long documents, worked on in parts"
_BATCH_BYTES = 200_000
"""Of UTF-8, encoded at once. A wordpiece has some 4 and takes some 300 of the tokenizer's memory: 20 MB in all."""
_PIECE_BYTES = 4
"""What a sentence costs beside its text: one of a single letter is two wordpieces (joined.py)."""
_LONGEST_CHARACTERS = 20_000
"""A sentence beyond that is cut before it is encoded, so that a text without any full stop takes no more memory."""
_LONGEST_CONJUNCTION = len("which ")
Sentence = tuple[str, Sequence[int]]
"""Its text and its wordpieces."""
Encoded = tuple[int, Document, str, Sequence[int]]
"""The number of a document, the document, its title or a sentence of it, and the wordpieces of that."""


def make_passages(
    documents: Iterable[Document], tokenizer: Tokenizer, *, max_tokens: int, tally: Tally
) -> Iterator[Passage]:
    """Passages of plain documents, in order, each of at most `max_tokens` wordpieces, title and special ones counted.

    An article is named by its document's id. Nothing is deduplicated: that is the job's business, by uid.
    """
    for _, encoded in itertools.groupby(_encode(documents, tokenizer, tally), key=itemgetter(0)):
        _, document, title, title_ids = next(encoded)
        if len(title_ids) > (longest := (max_tokens - NUM_SPECIAL) // 2):
            if document.part == 0:
                tally.add("titles cut", where=document.where)
            title, title_ids = next(divide(title, tokenizer, room=longest))
        room = max_tokens - NUM_SPECIAL - len(title_ids)
        num_passages = 0
        for sentences in pack(_fitting(encoded, tokenizer, room=room), room=room):
            num_passages += 1
            yield passage_of(sentences, title=title, title_ids=title_ids, article=document.id)
        if document.part == 0:
            tally.add("documents") if num_passages else tally.add("documents without text", where=document.where)
        elif document.part == 1:
            tally.add(IN_PARTS, where=document.where)


def pack(sentences: Iterable[Sentence], *, room: int) -> Iterator[list[Sentence]]:
    """Greedy: sentences, none longer than `room` wordpieces, are put together while they fit."""
    together: list[Sentence] = []
    filled = 0
    for sentence in sentences:
        size = len(sentence[1])
        if filled + size > room and together:
            yield together
            together, filled = [], 0
        together.append(sentence)
        filled += size
    if together:
        yield together


def passage_of(sentences: Sequence[Sentence], *, title: str, title_ids: Sequence[int], article: str) -> Passage:
    """The passage of these sentences."""
    texts, ids = zip(*sentences, strict=True)
    text = " ".join(texts)
    ends = itertools.accumulate(map(len, ids), initial=0)
    return Passage(
        uid=passage_uid(title, text),
        title=title,
        text=text,
        article=article,
        title_ids=tuple(title_ids),
        body_ids=tuple(itertools.chain.from_iterable(ids)),
        sentences=tuple(itertools.pairwise(ends)),
    )


def divide(text: str, tokenizer: Tokenizer, *, room: int) -> Iterator[Sentence]:
    """A text cut into pieces of at most `room` wordpieces, no word of it lost; takes time in proportion to it.

    Each cut is at the coarsest clause end in the second half of what fits, else at the last space there.
    """
    ids, offsets, words = tokenizer.encode_with_words(text)
    starts = [start for start, _ in offsets] + [len(text)]
    first, total = 0, len(ids)
    while total - first > room:
        end = _clause_end(text, starts, low=first + room // 2, high=first + room)
        while end > first and words[end - 1] == words[end]:  # back to where a word begins
            end -= 1
        if end > first:
            yield text[starts[first] : starts[end]].strip(), ids[first:end]
        else:
            end = next((place for place in range(first, total) if words[place] != words[first]), total)
            yield from _halve(text[starts[first] : starts[end]].strip(), tokenizer, room=room)
        first = end
    if first < total:
        yield text[starts[first] :].strip(), ids[first:]


def _clause_end(text: str, starts: Sequence[int], *, low: int, high: int) -> int:
    """The wordpiece from `low` to `high` before which the text is best divided; `high` if nothing speaks for
    any."""
    # With the space before it all, and the word behind, which may be a conjunction.
    start, stop = starts[low - 1], starts[high] + _LONGEST_CONJUNCTION
    for boundary in (*CLAUSE_ENDS, SPACE):
        for match in reversed(list(boundary.finditer(text, start, stop))):
            end = bisect.bisect_left(starts, match.end(), lo=low, hi=high + 1)
            if low <= end <= high:
                return end
    return high


def _halve(word: str, tokenizer: Tokenizer, *, room: int) -> Iterator[Sentence]:
    """A word of more wordpieces than `room`: halved by letters until the parts fit."""
    ids = tokenizer.encode(word)
    if len(ids) <= room or len(word) == 1:
        yield word, ids
        return
    middle = len(word) // 2
    yield from _halve(word[:middle], tokenizer, room=room)
    yield from _halve(word[middle:], tokenizer, room=room)


def _fitting(encoded: Iterable[Encoded], tokenizer: Tokenizer, *, room: int) -> Iterator[Sentence]:
    """The sentences, long ones divided; those without a wordpiece are passed over."""
    for _, _, text, ids in encoded:
        if len(ids) > room:
            yield from (piece for piece in divide(text, tokenizer, room=room) if piece[1])
        elif ids:
            yield text, ids


def _encode(documents: Iterable[Document], tokenizer: Tokenizer, tally: Tally) -> Iterator[Encoded]:
    """Of each document the title, in one line, then the sentences; encoded in batches, which costs less."""
    batch: list[tuple[int, Document, str]] = []
    num_bytes = 0
    for number, document in enumerate(documents):
        title = " ".join(clean(document.title, tally=tally, where=document.where).split())
        text = clean(document.text, tally=tally, where=document.where)
        for piece in itertools.chain([title[:_LONGEST_CHARACTERS]], _cut_up(split_sentences(text))):
            batch.append((number, document, piece))
            num_bytes += len(piece.encode()) + _PIECE_BYTES
            if num_bytes > _BATCH_BYTES:
                yield from _encode_batch(batch, tokenizer)
                batch, num_bytes = [], 0
    yield from _encode_batch(batch, tokenizer)


def _encode_batch(batch: Sequence[tuple[int, Document, str]], tokenizer: Tokenizer) -> Iterator[Encoded]:
    encoded = tokenizer.encode_all([text for _, _, text in batch])
    for (number, document, text), ids in zip(batch, encoded, strict=True):
        yield number, document, text, ids


def _cut_up(texts: Iterable[str]) -> Iterator[str]:
    """The texts, very long ones in parts, which end at spaces where there are any."""
    for text in texts:
        start = 0
        while len(text) - start > _LONGEST_CHARACTERS:
            space = text.rfind(" ", start + 1, start + _LONGEST_CHARACTERS)
            end = space if space > 0 else start + _LONGEST_CHARACTERS
            yield text[start:end].strip()
            start = end
        yield text[start:].strip() if start else text
