"""How often the passage that holds the answer is among the first k hits. Searching is index/'s business.

Shapes: N queries, K hits of each, best first. `hits_NK` holds uids, NO_HIT (-1) where there were fewer than K.
"""

from collections.abc import Callable, Sequence

import numpy as np

from realm_ds.errors import DataError
from realm_ds.eval.answers import holds_answer, normalise
from realm_ds.index.messages import NO_HIT

RECALL_AT = (1, 5, 20)
"""The cut-offs every stage reports."""
NOT_FOUND = -1
"""The place of a gold passage that is not among the hits."""


def gold_hits(hits_NK: np.ndarray, gold_uids: Sequence[Sequence[int]]) -> np.ndarray:
    """Bool [N, K]: which hits are gold passages of their query. A query without gold passages finds none."""
    _check_rows(hits_NK, len(gold_uids), "gold lists")
    found_NK = np.zeros(hits_NK.shape, dtype=bool)
    for row, wanted in enumerate(gold_uids):
        found_NK[row] = np.isin(hits_NK[row], np.asarray(wanted, dtype=np.int64))
    return found_NK & (hits_NK != NO_HIT)


def answer_hits(hits_NK: np.ndarray, answers: Sequence[Sequence[str]], *, text_of: Callable[[int], str]) -> np.ndarray:
    """Bool [N, K]: which hits hold an accepted answer as whole words, both sides normalised (eval/answers.py).

    Each passage is normalised once however often it is hit.
    """
    _check_rows(hits_NK, len(answers), "answer lists")
    normalised = {int(uid): normalise(text_of(int(uid))) for uid in np.unique(hits_NK) if uid != NO_HIT}
    normalised[NO_HIT] = ""
    rows = [
        [holds_answer(normalised[int(uid)], wanted) for uid in hits]
        for hits, wanted in zip(hits_NK, answers, strict=True)
    ]
    return np.array(rows, dtype=bool).reshape(hits_NK.shape)


def recall_at(found_NK: np.ndarray, k: int) -> float:
    """Share of queries with at least one right hit among the first k; all N queries are in the denominator."""
    if not len(found_NK):
        raise DataError(f"recall@{k} of no queries at all; check that the question file is not empty")
    return float(found_NK[:, :k].any(axis=1).mean())


def recalls(found_NK: np.ndarray, cut_offs: Sequence[int] = RECALL_AT) -> dict[int, float]:
    """Recall at every cut-off. A cut-off beyond K hits would be reported too low, so it is refused."""
    if found_NK.shape[1] < max(cut_offs):
        raise DataError(f"recall@{max(cut_offs)} needs as many hits per query, but {found_NK.shape[1]} were searched")
    return {k: recall_at(found_NK, k) for k in cut_offs}


def first_places(found_NK: np.ndarray) -> np.ndarray:
    """int64 [N]: place of the first right hit, 0 is the best, or NOT_FOUND."""
    return np.where(found_NK.any(axis=1), found_NK.argmax(axis=1), NOT_FOUND).astype(np.int64)


def _check_rows(hits_NK: np.ndarray, count: int, what: str) -> None:
    if len(hits_NK) != count:
        raise DataError(f"{len(hits_NK)} rows of hits but {count} {what}; give one for each query")
