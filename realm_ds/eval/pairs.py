"""Questions with passages as an encoder reads them, from wordpieces in memory: one sequence each, in batches of like
length. What is read in them is spans.py's and words.py's.

Shapes: R pairs of a question and a passage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.data.batches import Ids, Tokens, length_buckets, passage_batch
from realm_ds.data.records import NUM_SPECIAL, SpecialIds

TOKENS_AT_ONCE = 4096
"""Padded wordpieces that an encoder reads in one pass."""
Pair = tuple[Ids, Ids]
"""A question and the body of a passage, as wordpieces."""
Bodies = Callable[[np.ndarray], Sequence[Ids]]
"""The bodies of passages at some places of the corpus, as wordpieces."""


@dataclass(frozen=True, kw_only=True)
class ReadingSizes:
    """How much of questions and passages is read."""

    question_tokens: int
    passage_tokens: int
    read: int
    """Passages read for each question."""


def joint_tokens(pairs: Sequence[Pair], *, special: SpecialIds, sizes: ReadingSizes) -> tuple[Tokens, np.ndarray]:
    """[CLS] question [SEP] body [SEP] of (question, body) pairs, and where each body begins."""
    cut = [(question[: sizes.question_tokens - 2], body[: sizes.passage_tokens - 2]) for question, body in pairs]
    body_starts_R = np.array([2 + len(question) for question, _ in cut], dtype=np.int64)
    # The format of a passage, with the question in the place of its title.
    return passage_batch(cut, special=special, max_tokens=sizes.question_tokens + sizes.passage_tokens), body_starts_R


def joint_buckets(pairs: Sequence[Pair], *, sizes: ReadingSizes) -> list[np.ndarray]:
    """Places of the pairs in batches of like length."""
    longest = sizes.question_tokens + sizes.passage_tokens
    lengths_R = [min(longest, NUM_SPECIAL + len(question) + len(body)) for question, body in pairs]
    return length_buckets(lengths_R, max_tokens=max(TOKENS_AT_ONCE, longest))
