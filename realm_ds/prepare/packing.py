"""Prose into passages: sentences, and packing them greedily. Where the prose comes from is not known here.

A passage is never cut within a sentence. A sentence that alone is longer than a passage is divided at its clauses
(semicolon, dash, comma, bracket, conjunction), coarsest first; one without any such place is an error.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from realm_ds.data.records import Passage, passage_uid
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.errors import DataError

NUM_SPECIAL = 3
"""[CLS] title [SEP] body [SEP]."""

_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|St|Mt|Ft|Dr|Mr|Mrs|Ms|Jr|Sr|Gen|Col|Lt|Capt|Sgt|Adm|Maj|Rev|Hon|Prof|Gov|Sen|Rep|No|Nos|Art|Inc"
    r"|Co|Corp|Ltd|vs|cf|ca|c|approx|est|incl|esp|aka|ie|eg|etc|sq|i\.e|e\.g|a\.m|p\.m|B\.C|A\.D|U\.S|U\.N|D\.C"
    r"|Ph\.D))\.$"
)
_SENTENCE_END = re.compile(r"[.!?][\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c\u2018]*[A-Z0-9\u00c0-\u00de])")
_CLAUSE_ENDS = (
    re.compile(r";\s+"),
    re.compile(r"\s+(?:--|-|\u2013|\u2014)\s+"),
    re.compile(r":\s+"),
    re.compile(r",\s+(?![^()]*\))"),  # not within brackets
    re.compile(r",\s+"),
    re.compile(r"\s+(?=\()"),
    re.compile(r"\s+(?=(?:and|or|but|which|that|who|where|while|with|by|from|in|on|to|of|for|as|at)\s)"),
)


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


def split_sentences(text: str) -> list[str]:
    """The sentences of plain prose; a line break always ends one."""
    sentences: list[str] = []
    for line in text.splitlines():
        start = 0
        for match in _SENTENCE_END.finditer(line):
            if _ABBREVIATION.search(line[start : match.start() + 1]):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def refuse(error: DataError) -> None:
    """Let text that fits in no passage end the work."""
    raise error


def make_passages(
    articles: Iterable[Article],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    too_long: Callable[[DataError], None] = refuse,
) -> Iterator[CutPassage]:
    """Cut articles into passages of at most `max_tokens` wordpieces, title and special tokens counted, in order.

    Nothing is said twice: a passage with the title and text of an earlier one is left out. A clause that fits in no
    passage goes to `too_long`; if that returns, the clause is left out.
    """
    packed = list(_pack_all(list(articles), tokenizer, max_tokens=max_tokens, too_long=too_long))
    texts = [text for article, parts in packed for text in (article.title, *parts)]
    ids_of = iter(tokenizer.encode_all(texts))
    seen: set[int] = set()
    for article, parts in packed:
        title_ids, *parts_ids = itertools.islice(ids_of, 1 + len(parts))
        cut = _cut_passage(article, parts, title_ids, parts_ids)
        if cut.passage.uid not in seen:
            seen.add(cut.passage.uid)
            yield cut


def _pack_all(
    articles: Sequence[Article], tokenizer: Tokenizer, *, max_tokens: int, too_long: Callable[[DataError], None]
) -> Iterator[tuple[Article, tuple[str, ...]]]:
    """Every article with the sentences of each of its passages, the lead in the first sentence."""
    texts = [text for article in articles for text in (article.title, article.lead, *article.sentences)]
    counts = iter(map(len, tokenizer.encode_all(texts)))
    for article in articles:
        num_title, num_lead, *sizes = itertools.islice(counts, 2 + len(article.sentences))
        room = max_tokens - NUM_SPECIAL - num_title - num_lead
        if not article.sentences:
            raise DataError(f"article {article.title!r} has no text, it would be a passage of nothing; leave it out")
        fitting = _fitting(article, sizes, tokenizer, room=room, too_long=too_long)
        for first, *rest in _pack(fitting, room=room):
            yield article, (f"{article.lead} {first}".strip(), *rest)


def _pack(sentences: Iterable[tuple[str, int]], *, room: int) -> Iterator[list[str]]:
    """Greedy: sentences, each with its wordpieces counted, are added while they fit."""
    group: list[str] = []
    filled = 0
    for sentence, size in sentences:
        if group and filled + size > room:
            yield group
            group, filled = [], 0
        group.append(sentence)
        filled += size
    if group:
        yield group


def _fitting(
    article: Article, sizes: Sequence[int], tokenizer: Tokenizer, *, room: int, too_long: Callable[[DataError], None]
) -> Iterator[tuple[str, int]]:
    for sentence, size in zip(article.sentences, sizes, strict=True):
        if size <= room:
            yield sentence, size
            continue
        for clause in divide(sentence, tokenizer, room=room):
            size = len(tokenizer.encode(clause))
            if size <= room:
                yield clause, size
                continue
            too_long(
                DataError(
                    f"article {article.title!r}: {clause[:60]!r} has {size} wordpieces and nowhere to divide it, but a "
                    f"passage has room for {max(room, 0)} beside its title; raise the passage length"
                )
            )


def divide(sentence: str, tokenizer: Tokenizer, *, room: int, level: int = 0) -> list[str]:
    """Clauses of an over-long sentence, joined again as far as they fit; each ends like a sentence."""
    if len(tokenizer.encode(sentence)) <= room or level == len(_CLAUSE_ENDS):
        return [sentence]
    pieces = _cut(sentence, _CLAUSE_ENDS[level])
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


def _cut_passage(
    article: Article, parts: tuple[str, ...], title_ids: Sequence[int], parts_ids: Sequence[Sequence[int]]
) -> CutPassage:
    # Words never cross a space, so the wordpieces of the body are those of its sentences, one after the other.
    text = " ".join(parts)
    ends = [0, *itertools.accumulate(map(len, parts_ids))]
    passage = Passage(
        uid=passage_uid(article.title, text),
        title=article.title,
        text=text,
        article=article.article,
        title_ids=tuple(title_ids),
        body_ids=tuple(itertools.chain.from_iterable(parts_ids)),
        sentences=tuple((start, end) for start, end in itertools.pairwise(ends) if start < end),
    )
    return CutPassage(article=article, passage=passage, sentences=parts)
