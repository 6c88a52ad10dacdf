"""Facts as statements and questions, split so that nothing held out is told in training. The facts are facts.py's.

An (entity, field) belongs to one split, drawn by hash of the seed. That alone is not enough: a fact can be seen from
another side (Libya borders Algeria), stand in another field (the same person is chief of state and head of government)
or in prose. So a text of training is refused if it names the entity of a held-out fact and one of its answers; likewise
a text of dev that tells a fact of test.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from realm_ds.factbook.facts import Fact, normal
from realm_ds.factbook.phrasings import PHRASINGS

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
DEV_SHARE, TEST_SHARE = 0.1, 0.2


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A fact said in one sentence."""

    fact: Fact
    id: str
    text: str
    answer: str
    """The one of the fact's answers that it tells."""
    span: tuple[int, int]
    """Characters of the answer in `text`."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A fact asked for."""

    fact: Fact
    id: str
    text: str


def split_of(fact: Fact, *, seed: int) -> Split:
    """The split of an (entity, field)."""
    share = _draw(seed, fact.entity, fact.field)
    return "test" if share < TEST_SHARE else "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def statements_of(fact: Fact, *, limit: int, seed: int) -> list[Statement]:
    """Up to `limit` ways to state a fact, which ones by hash."""
    chosen = _chosen(PHRASINGS[fact.field].statements, fact, limit=limit, seed=seed)
    said = []
    for number, phrase in chosen:
        # Of several answers each statement tells one, so that all are told where there are statements enough.
        answer = fact.answers[number % len(fact.answers)] if answers_are_equal(fact) else fact.answers[0]
        before, after = (part.format(**fact.slots) for part in phrase.split("{a}"))
        text = before + answer + after
        start = len(before)
        if text[0].islower():
            text = text[0].upper() + text[1:]
        text = re.sub(r"\.\.$", ".", text)
        span = (start, start + len(answer))
        said.append(Statement(fact=fact, id=_id(fact, "s", number), text=text, answer=answer, span=span))
    return said


def questions_of(fact: Fact, *, limit: int, seed: int) -> list[Asked]:
    """Up to `limit` ways to ask for a fact, which ones by hash."""
    chosen = _chosen(PHRASINGS[fact.field].questions, fact, limit=limit, seed=seed)
    return [Asked(fact=fact, id=_id(fact, "q", number), text=phrase.format(**fact.slots)) for number, phrase in chosen]


def answers_are_equal(fact: Fact) -> bool:
    """Whether each answer is the truth on its own, and not another way to write the first."""
    return fact.field in ("neighbour", "official language")


def is_in_wording(fact: Fact) -> bool:
    """Whether the answer stands in the very words that ask for it: a legislature called Legislature."""
    phrasing = PHRASINGS[fact.field]
    return any(
        f" {normal(fact.answers[0])} " in f" {normal(phrase.replace('{a}', '|').format(**fact.slots))} "
        for phrase in (*phrasing.questions, *phrasing.statements)
    )


class Secrets:
    """What training may not tell: facts of other splits."""

    def __init__(self, facts: Iterable[Fact], names: Mapping[str, str]) -> None:
        """`names`: every way to write an entity, to its name."""
        by_words = {normal(written): name for written, name in names.items()}
        # The longest first, so that Guinea-Bissau is not taken for Guinea.
        written = sorted(by_words, key=lambda words: (-len(words), words))
        self._names = by_words
        self._mention = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, written))})(?!\S)")
        self._told: dict[str, list[tuple[Fact, tuple[str, ...]]]] = defaultdict(list)
        self._own_names: dict[str, list[str]] = defaultdict(list)
        for words in written:
            self._own_names[by_words[words]].append(f" {words} ")
        for fact in facts:
            answers = tuple(f" {normal(answer)} " for answer in fact.answers)
            self._told[fact.subjects[0]].append((fact, answers))

    def told(self, text: str, *, about: Sequence[str] = ()) -> Fact | None:
        """The first fact that the text gives away, if any; `about` are entities that it speaks of without naming."""
        words = f" {normal(text)} "
        named = {*about, *(self._names[mention] for mention in self._mention.findall(words))}
        for name in sorted(named & self._told.keys()):
            rest = words
            for own in self._own_names[name]:  # Guinea-Bissau does not tell that it borders Guinea
                rest = rest.replace(own, " | ")
            for fact, answers in self._told[name]:
                if named.issuperset(fact.subjects) and any(answer in rest for answer in answers):
                    return fact
        return None


def _chosen(phrases: Sequence[str], fact: Fact, *, limit: int, seed: int) -> list[tuple[int, str]]:
    numbered = sorted(enumerate(phrases), key=lambda item: _draw(seed, fact.entity, fact.field, item[1]))
    return sorted(numbered[:limit])


def _id(fact: Fact, kind: str, number: int) -> str:
    return f"{fact.entity}/{fact.field}/{kind}{number}"


def _draw(seed: int, *words: str) -> float:
    """A number from 0 to 1 that depends on nothing but its arguments."""
    digest = hashlib.sha256("\x1f".join([str(seed), *words]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
