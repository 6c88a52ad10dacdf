"""Answers of one word: where a question asks for it, which wordpieces are words, and which of them answer a question.

Answers of any length, as they stand in passages, are answer_spans.py's business.

Shapes: V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from realm_ds.data.answers import normalise
from realm_ds.data.batches import Ids
from realm_ds.data.records import Question, SpecialIds
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Words:
    """Which wordpieces of a vocabulary are words."""

    continues_V: np.ndarray
    """Inner pieces of a word, as ##x."""
    is_word_V: np.ndarray
    """Neither such a piece nor a special token."""


def words_of(tokenizer: Tokenizer) -> Words:
    """Of a tokenizer's vocabulary."""
    pieces, special = tokenizer.tokens(range(tokenizer.vocab_size)), tokenizer.special
    continues_V = np.array([piece.startswith("##") for piece in pieces])
    is_word_V = ~continues_V
    is_word_V[[special.pad, special.unk, special.cls, special.sep, special.mask]] = False
    return Words(continues_V=continues_V, is_word_V=is_word_V)


def with_mask(question: Ids, *, special: SpecialIds, max_tokens: int) -> list[int]:
    """A question that asks for one word, cut to what `max_tokens` leave beside [CLS] and [SEP]: with a [MASK] at its
    end, or as it is where it is a statement with a [MASK] of its own, the first of which is meant."""
    cut = [int(piece) for piece in question[: max_tokens - 2]]
    return cut if special.mask in cut else [*cut[: max_tokens - 3], special.mask]


def word_answers(questions: Sequence[Question], tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Of each question those answers that are one wordpiece, as they stand or as exact match compares them: of "the
    euro" that is "euro"."""
    texts = [text for question in questions for answer in question.answers for text in (answer, normalise(answer))]
    encoded = iter(tokenizer.encode_all(texts))
    return [
        tuple(sorted({ids[0] for ids in islice(encoded, 2 * len(question.answers)) if _is_known(ids, tokenizer)}))
        for question in questions
    ]


def one_word_questions(questions: Sequence[Question], tokenizer: Tokenizer, *, where: Path) -> list[Question]:
    """Those that have an answer of one wordpiece. Raises DataError where there are none in that file."""
    every = word_answers(questions, tokenizer)
    kept = [question for question, answers in zip(questions, every, strict=True) if answers]
    if not kept:
        raise DataError(
            f"none of the {len(questions)} questions of {where} has an answer of one wordpiece, so that "
            "qa.answer_by=masked_word learns nothing from it: set qa.answer_by=span"
        )
    return kept


def _is_known(ids: Sequence[int], tokenizer: Tokenizer) -> bool:
    return len(ids) == 1 and ids[0] != tokenizer.special.unk
