"""Which passages hold an answer: what is found at once is what is found one by one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.answers import holds_answer
from realm_ds.data.records import Passage, Question
from realm_ds.errors import DataError
from realm_ds.prepare.coverage import AnswerSearch, Found, passages_with_answers
from tests.support.records import make_passage, write_corpus

_WORDS = st.lists(st.sampled_from(["the", "Lima", "of", "Peru,", "20", "Curaçao", "a.b"]), min_size=1, max_size=5)
_PLAIN = st.builds(
    lambda answers: _asked(*answers), st.lists(_WORDS.map(" ".join), min_size=1, max_size=3)
)  # fmt: skip
_REGEX = st.builds(
    lambda answers: _asked(*answers, is_regex=True),
    st.lists(st.sampled_from(["lima|peru", r"\d+", "l.ma", "of.*20", "^the", "nowhere"]), min_size=1, max_size=2),
)


def _asked(*answers: str, is_regex: bool = False) -> Question:
    return Question(id="", question="?", answers=answers, is_regex=is_regex)


def _passages(texts: list[str]) -> list[Passage]:
    return [
        Passage(**{**vars(make_passage(number)), "text": text}) for number, text in enumerate(texts)
    ]  # fmt: skip


def _one_by_one(questions: list[Question], passages: list[Passage], most: int) -> list[tuple[int, ...]]:
    return [
        tuple(passage.uid for passage in passages if holds_answer(passage.text, question))[:most]
        for question in questions
    ]


@given(
    st.lists(_PLAIN | _REGEX, max_size=6), st.lists(_WORDS.map(" ".join), max_size=8), st.integers(1, 3)
)  # fmt: skip
def test_all_at_once_is_one_by_one(questions: list[Question], texts: list[str], most: int) -> None:
    passages = _passages(texts)
    found = AnswerSearch(questions, most=most).search(iter(passages))
    uids = [tuple(found.get(number, ())) for number in range(len(questions))]
    assert uids == _one_by_one(questions, passages, most)


QUESTIONS = [_asked("Lima"), _asked("the Niger", "Oslo"), _asked("x"), _asked("r.ver", is_regex=True)]
TEXTS = ["Lima.", "A river in Nigeria", "Oslo; Lima", "the Niger is a RIVER", "", "lima", "LIMA!"]


@pytest.mark.parametrize(("most", "workers"), [(1, 0), (2, 0), (9, 0), (2, 2)])
def test_passages_of_a_corpus_in_its_order(tmp_path: Path, most: int, workers: int) -> None:
    passages = _passages(TEXTS)
    corpus = write_corpus(tmp_path, passages, per_shard=2)
    seen: list[int] = []
    found = passages_with_answers(
        QUESTIONS, corpus, most=most, workers=workers, on_progress=seen.append
    )  # fmt: skip
    assert found == _one_by_one(QUESTIONS, passages, most)
    assert seen == [0, 2, 4, 6, 7]


@pytest.mark.parametrize("most", [1, 2, 9])
@pytest.mark.parametrize("num_before", range(5))
def test_shards_that_were_searched_before_are_not_searched_again(tmp_path: Path, most: int, num_before: int) -> None:
    passages = _passages(TEXTS)
    corpus = write_corpus(tmp_path, passages, per_shard=2)
    kept: list[Found] = []
    passages_with_answers(QUESTIONS, corpus, most=most, keep=lambda shard, found: kept.append(found))
    before, seen, again = kept[:num_before], list[int](), list[int]()
    found = passages_with_answers(
        QUESTIONS, corpus, most=most, before=before, keep=lambda shard, found: again.append(shard),
        on_progress=seen.append,
    )  # fmt: skip
    assert found == _one_by_one(QUESTIONS, passages, most)
    assert again == list(range(num_before, 4))
    assert seen == [0, 2, 4, 6, 7][num_before:]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, _passages(TEXTS), per_shard=2)
    data = bytearray((tmp_path / "shard-00001.tar").read_bytes())
    data[600] ^= 1
    (tmp_path / "shard-00001.tar").write_bytes(data)
    with pytest.raises(DataError, match="shard-00001.tar: sha256 is .* the file is damaged"):
        passages_with_answers(QUESTIONS, corpus)
