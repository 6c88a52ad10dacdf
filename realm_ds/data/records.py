"""What tar shards and question files hold, one record each, and how a record becomes JSON and back, checked.

Files and folders of records are shards.py's business.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import orjson

from realm_ds.errors import DataError

MAX_TOKEN_ID = 65535
"""Tokens travel and are stored as uint16."""
NUM_SPECIAL = 3
"""Special tokens of [CLS] title [SEP] body [SEP], and of [CLS] x [SEP] body [SEP] (batches.py)."""
NO_UID = 0
"""The uid of no passage: the origin of an example that was not cut from the corpus."""
NO_ARTICLE = 0
"""The id of no article."""


def passage_uid(title: str, text: str) -> int:
    """Stable 63-bit id of a passage: of its words, not of its place (compare google-research realm, SHA-1 of both)."""
    digest = hashlib.sha1(f"{title} <sep> {text}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1


def article_id(article: str) -> int:
    """Stable 63-bit id of an article by its name, NO_ARTICLE for none."""
    return passage_uid(article, "") if article else NO_ARTICLE


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The ids of the special tokens of a tokenizer."""

    pad: int
    cls: int
    sep: int
    mask: int
    unk: int


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A passage of the corpus Z, as text and as wordpieces without special tokens."""

    uid: int
    title: str
    text: str
    article: str
    """What the passage was cut from; passages of one article are hard negatives of each other."""
    title_ids: tuple[int, ...]
    body_ids: tuple[int, ...]
    sentences: tuple[tuple[int, int], ...]
    """Its sentences as wordpiece ranges of `body_ids`, in order, end exclusive."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """Sentences of X with their salient spans, as text and as wordpieces without special tokens.

    One of the sentences is x, another one each epoch: a passage that was cut from the corpus is one example, as in
    Google's release, whatever the number of its sentences.
    """

    id: str
    text: str
    ids: tuple[int, ...]
    sentences: tuple[tuple[int, int], ...]
    """Each as a wordpiece range of `ids`, in order, end exclusive."""
    spans: tuple[tuple[int, int], ...]
    """Salient spans as wordpiece ranges of `ids`, end exclusive, each within a sentence; one is masked per epoch."""
    origin_uid: int
    """The passage x was cut from, never to be retrieved for it (trivial retrieval), or NO_UID."""
    origin_article: str = ""
    """That passage's article, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, its accepted answers, and, where known, the passages that hold one."""

    id: str
    question: str
    answers: tuple[str, ...]
    gold_uids: tuple[int, ...] = ()
    field: str = ""
    """What is asked about (capital, currency): groups the majority baseline and the per-field results."""
    is_regex: bool = False
    """The answers are regular expressions (CuratedTREC): they judge a prediction, but say no span to train a reader."""


def record_bytes(record: Passage | Example) -> bytes:
    """The record as the JSON of a tar member; passage_from_json and example_from_json read it back."""
    # Copied, since orjson writes into a buffer many times as long, whose rest lies idle between records that are kept.
    return bytes(memoryview(orjson.dumps(vars(record))))


def parse(data: bytes, *, where: str) -> object:
    """The JSON value of a record. Raises DataError, also where it is nested absurdly deep."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error}); copy the file again or write the shards again") from error


# Quotes within a string of JSON are escaped, so these stand nowhere but where the member has its name.
_ARTICLE = re.compile(rb'"article"\s*:\s*("(?:[^"\\]|\\.)*")')


def article_bytes(data: bytes) -> bytes:
    """The article of a passage's JSON as it stands there, without parsing the rest: to tell articles apart."""
    found = _ARTICLE.search(data)
    return found[1] if found else b""


def passage_from_json(data: object, *, where: str, max_tokens: int | None = None) -> Passage:
    """The passage, checked; `max_tokens` is the most that [CLS] title [SEP] body [SEP] may have."""
    members = _Members(data, where=where)
    body_ids = members.token_ids("body_ids")
    passage = Passage(
        uid=members.integer("uid", low=1, high=2**63 - 1),
        title=members.text("title"),
        text=members.text("text"),
        article=members.text("article"),
        title_ids=members.token_ids("title_ids"),
        body_ids=body_ids,
        sentences=members.ranges("sentences", of="body_ids", length=len(body_ids)),
    )
    if not passage.body_ids:
        raise DataError(f"{where}: body_ids is empty, a passage of nothing; leave it out and write the shards again")
    num_tokens = NUM_SPECIAL + len(passage.title_ids) + len(passage.body_ids)
    if max_tokens is not None and num_tokens > max_tokens:
        raise DataError(
            f"{where}: the passage has {num_tokens} wordpieces with its special tokens, more than "
            f"data.passage_tokens={max_tokens}; raise that, or write the shards again with shorter passages"
        )
    return passage


def example_from_json(data: object, *, where: str) -> Example:
    """The example, checked. Its length is not: masking.py skips what would be cut off."""
    members = _Members(data, where=where)
    ids = members.token_ids("ids")
    example = Example(
        id=members.text("id"),
        text=members.text("text"),
        ids=ids,
        sentences=members.ranges("sentences", of="ids", length=len(ids)),
        spans=members.ranges("spans", of="ids", length=len(ids)),
        origin_uid=members.integer("origin_uid", low=NO_UID, high=2**63 - 1),
        origin_article=members.text("origin_article"),
    )
    if not example.ids or not example.sentences:
        raise DataError(f"{where}: there is no sentence in it; leave it out and write the shards again")
    return example


_INTS = tuple(range(MAX_TOKEN_ID + 1))
"""One object for each token id, shared by all records: 8 bytes a wordpiece in memory, not 36."""


class _Members:
    """Takes the members of a JSON object by name and type; every complaint names file, member and remedy."""

    def __init__(self, data: object, *, where: str) -> None:
        if not isinstance(data, Mapping):
            raise DataError(f"{where}: holds {_kind(data)}, not a JSON object; write the shards again")
        self._data = data
        self._where = where

    def text(self, name: str) -> str:
        value = self._member(name)
        if type(value) is not str:
            raise self._wrong(name, value, wanted="a string")
        return value

    def integer(self, name: str, *, low: int, high: int) -> int:
        value = self._member(name)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, value, wanted=f"an integer from {low} to {high}")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        value = self._member(name)
        # Calls that loop in C, and no loop here: this runs once for every wordpiece of the corpus.
        if type(value) is not list or not set(map(type, value)) <= {int}:
            raise self._wrong(name, value, wanted="a list of integers")
        try:
            if min(value, default=0) >= 0:
                return itemgetter(0, 0, *value)(_INTS)[2:]  # of fewer than two, itemgetter makes no tuple
        except IndexError:
            pass
        raise self._wrong(name, value, wanted=f"a list of token ids from 0 to {MAX_TOKEN_ID}")

    def ranges(self, name: str, *, of: str, length: int) -> tuple[tuple[int, int], ...]:
        """Ranges of the list `of` with its length: in order, apart, none empty."""
        value = self._member(name)
        if type(value) is list and (ranges := _ranges(value, length=length)) is not None:
            return ranges
        wanted = f"a list of [start, end] ranges of the {length} {of}, ascending, apart and not empty"
        raise self._wrong(name, value, wanted=wanted)

    def _member(self, name: str) -> Any:
        try:
            return self._data[name]
        except KeyError:
            raise DataError(
                f"{self._where}: {name} is missing; write the shards again with this version of realm-ds"
            ) from None

    def _wrong(self, name: str, value: object, *, wanted: str) -> DataError:
        return DataError(f"{self._where}: {name} is {_kind(value)}, not {wanted}; write the shards again")


def _ranges(value: list[Any], *, length: int) -> tuple[tuple[int, int], ...] | None:
    """The ranges, or None if any of them is none or not where it may be."""
    found = []
    last_end = 0
    for pair in value:
        if type(pair) is not list or len(pair) != 2:
            return None
        start, end = pair
        if type(start) is not int or type(end) is not int or not last_end <= start < end <= length:
            return None
        found.append((start, end))
        last_end = end
    return tuple(found)


def _kind(value: object) -> str:
    """A short name of a JSON value for an error message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
