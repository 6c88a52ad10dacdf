"""BM25 against its formula worked out word by word."""

import math
import sys

import pytest

from realm_ds.data.records import Passage
from realm_ds.errors import ConfigError
from realm_ds.eval.bm25 import K1, B, Bm25

TEXTS = ("river harbour river", "harbour tower", "tower market museum tower harbour", "mayor", "river mayor market")


def _passages() -> list[Passage]:
    return [
        Passage(uid=number, title="", text=text, article="", title_ids=(), body_ids=(), sentences=())
        for number, text in enumerate(TEXTS)
    ]


def _score(query: str, text: str) -> float:
    words, average = text.split(), sum(len(other.split()) for other in TEXTS) / len(TEXTS)
    total = 0.0
    for word in query.split():
        held_by = sum(word in other.split() for other in TEXTS)
        rarity = math.log(1 + (len(TEXTS) - held_by + 0.5) / (held_by + 0.5))
        count = words.count(word)
        total += rarity * count / (count + K1 * (1 - B + B * len(words) / average))
    return total


@pytest.mark.parametrize("query", ["river", "tower market", "harbour river mayor"])
def test_passages_come_by_the_formula(query: str) -> None:
    pytest.importorskip("bm25s")
    (places,) = Bm25(_passages()).search([query], num_hits=3).tolist()
    scores = [_score(query, text) for text in TEXTS]
    assert [scores[place] for place in places] == pytest.approx(sorted(scores, reverse=True)[:3])


def test_words_are_stemmed_and_a_query_may_have_none_that_is_known() -> None:
    pytest.importorskip("bm25s")
    index = Bm25(_passages())
    assert index.search(["the rivers", "the"], num_hits=9).shape == (2, 5)
    assert index.search(["the rivers"], num_hits=1).tolist() == [[0]]


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r"BM25 needs bm25s: pip install 'realm-ds\[bm25\]'"):
        Bm25(_passages())
