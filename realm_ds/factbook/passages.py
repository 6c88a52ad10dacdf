"""The Factbook's prose into passages: each opens with what it speaks of, and a divided sentence reads as several.

Sentences too long for a passage are divided at their clauses (semicolon, dash, comma, bracket, conjunction), coarsest
first, and each clause gets a full stop; of general text nothing is changed so (prepare/packing.py).
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from realm_ds.data.records import NUM_SPECIAL, Passage
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.errors import DataError
from realm_ds.prepare.packing import Sentence, pack, passage_of
from realm_ds.prepare.sentences import CLAUSE_ENDS


@dataclass(frozen=True, kw_only=True)
class Article:
    """Prose on one subject, to be cut into passages."""

    title: str
    article: str
    """What it belongs to; passages of one article are hard negatives of each other."""
    lead: str
    """Opens the body of every passage cut from it ("Algeria, capital."), for readers who do not see the title; may be
    empty."""
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CutPassage:
    """A passage, the article it was cut from, and its sentences as text; the first one holds the lead."""

    article: Article
    passage: Passage
    sentences: tuple[str, ...]


def make_passages(
    articles: Iterable[Article], tokenizer: Tokenizer, *, max_tokens: int, dropped: Counter[str]
) -> Iterator[CutPassage]:
    """Cut articles into passages of at most `max_tokens` wordpieces, title and special tokens counted, in order.

    Nothing is said twice: a passage with the title and text of an earlier one is left out. A clause that fits in no
    passage is left out and counted in `dropped`.
    """
    articles = list(articles)
    texts = [text for article in articles for text in (article.title, article.lead, *article.sentences)]
    ids_of = iter(tokenizer.encode_all(texts))
    seen: set[int] = set()
    for article in articles:
        if not article.sentences:
            raise DataError(f"article {article.title!r} has no text, it would be a passage of nothing; leave it out")
        title_ids, lead_ids, *ids = itertools.islice(ids_of, 2 + len(article.sentences))
        room = max_tokens - NUM_SPECIAL - len(title_ids) - len(lead_ids)
        fitting = _fitting(zip(article.sentences, ids, strict=True), tokenizer, room=room, dropped=dropped)
        for (text, first_ids), *rest in pack(fitting, room=room):
            sentences = [(f"{article.lead} {text}".strip(), [*lead_ids, *first_ids]), *rest]
            passage = passage_of(sentences, title=article.title, title_ids=title_ids, article=article.article)
            if passage.uid not in seen:
                seen.add(passage.uid)
                yield CutPassage(article=article, passage=passage, sentences=tuple(text for text, _ in sentences))


def _fitting(
    sentences: Iterable[Sentence], tokenizer: Tokenizer, *, room: int, dropped: Counter[str]
) -> Iterator[Sentence]:
    for sentence, ids in sentences:
        if len(ids) <= room:
            yield sentence, ids
            continue
        for clause in divide(sentence, tokenizer, room=room):
            ids = tokenizer.encode(clause)
            if len(ids) <= room:
                yield clause, ids
            else:
                dropped["clauses longer than a passage"] += 1


def divide(sentence: str, tokenizer: Tokenizer, *, room: int, level: int = 0) -> list[str]:
    """Clauses of an over-long sentence, joined again as far as they fit; each ends like a sentence."""
    if len(tokenizer.encode(sentence)) <= room or level == len(CLAUSE_ENDS):
        return [sentence]
    pieces = _cut(sentence, CLAUSE_ENDS[level])
    joined: list[str] = []
    for piece in pieces:
        # One wordpiece is kept for the full stop that a clause gets.
        if joined and len(tokenizer.encode(joined[-1] + piece)) <= room - 1:
            joined[-1] += piece
        else:
            joined.append(piece)
    clauses: list[str] = []
    for piece in joined:
        text = _ended(piece) if len(joined) > 1 else sentence
        clauses.extend(divide(text, tokenizer, room=room, level=level + 1))
    return clauses


def _cut(text: str, boundary: re.Pattern[str]) -> list[str]:
    ends = [match.end() for match in boundary.finditer(text)]
    return [
        text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if text[start:end].strip()
    ]


def _ended(piece: str) -> str:
    stripped = piece.strip().rstrip(";,:-\u2013\u2014 ")
    return stripped if stripped.endswith((".", "!", "?", '."')) else f"{stripped}."
