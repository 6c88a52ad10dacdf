"""Answers of one word: which questions have one, where they ask for it, which word is named; against loops by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.records import Question
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.data.words import one_word_questions, with_mask, word_answers, words_of
from realm_ds.errors import DataError
from realm_ds.eval.words import best_words
from tests.support.tiny import make_data


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_data(tmp_path_factory.mktemp("data"))


def asked(*answers: str) -> Question:
    return Question(id="1", question="what?", answers=answers)


def test_answers_are_wordpieces_as_they_stand_or_as_exact_match_compares_them(tokenizer: Tokenizer) -> None:
    questions = [asked("The Mayor", "tower"), asked("river of ghent"), asked("tower!", "Tower"), asked("\u2603", "the")]
    (mayor,), (tower,), (the,) = tokenizer.encode_all(["mayor", "tower", "the"])
    assert word_answers(questions, tokenizer) == [tuple(sorted((mayor, tower))), (), (tower,), (the,)]


def test_questions_without_such_an_answer_are_left_out_and_all_of_them_refused(tokenizer: Tokenizer) -> None:
    good, bad = asked("tower"), replace(asked("river of ghent"), id="2")
    assert one_word_questions([bad, good, bad], tokenizer, where=Path("train.jsonl")) == [good]
    message = (
        "none of the 2 questions of train.jsonl has an answer of one wordpiece, .* learns nothing from it: set "
        "qa.answer_by=span"
    )
    with pytest.raises(DataError, match=message):
        one_word_questions([bad, bad], tokenizer, where=Path("train.jsonl"))


@given(question=st.lists(st.integers(10, 30), min_size=1, max_size=12), place=st.none() | st.integers(0, 11))
def test_a_question_has_room_for_its_mask_and_keeps_one_of_its_own(
    tokenizer: Tokenizer, question: list[int], place: int | None
) -> None:
    special, longest = tokenizer.special, 6
    if place is not None:
        question[place : place + 1] = [special.mask]
    has_own = special.mask in question[:longest]
    masked = with_mask(question, special=special, max_tokens=longest + 2)
    assert masked == (question[:longest] if has_own else [*question[: longest - 1], special.mask])


def test_words_are_neither_inner_pieces_nor_special(tokenizer: Tokenizer) -> None:
    words = words_of(tokenizer)
    for piece, text in enumerate(tokenizer.tokens(range(tokenizer.vocab_size))):
        assert words.continues_V[piece] == text.startswith("##")
        assert words.is_word_V[piece] == (not text.startswith("##") and text[:1] + text[-1:] != "[]")


@pytest.mark.parametrize("num_null", [0, 1])
def test_the_best_words_are_those_of_a_loop_over_all_of_them(num_null: int) -> None:
    random = np.random.default_rng(num_null)
    p_z_BC, p_y_BCV = random.random((3, 4)), random.random((3, 4, 9))
    is_word_V = np.arange(9) % 3 > 0
    found = best_words(p_z_BC, p_y_BCV, is_word_V=is_word_V, most=20, num_null=num_null)
    for b in range(3):
        through = {v: [p_z_BC[b, c] * p_y_BCV[b, c, v] for c in range(4)] for v in range(9) if is_word_V[v]}
        in_order = sorted(through, key=lambda v: -sum(through[v]))
        assert [word.piece for word in found[b]] == in_order
        for word in found[b]:
            assert word.p == pytest.approx(sum(through[word.piece]))
            assert word.candidate == int(np.argmax(through[word.piece][num_null:]))
