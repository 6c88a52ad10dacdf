"""What was found, in numbers: how often the passage that holds the answer is among the first k hits, and how probable
each hit is. Searching is index/'s business.

Shapes: N queries, K hits of each, best first. `hits_NK` holds uids, NO_HIT (-1) where there were fewer than K.
"""

from collections.abc import Sequence

import numpy as np

from realm_ds.errors import DataError
from realm_ds.index.messages import NO_HIT

RECALL_AT = (1, 5, 20)
"""The cut-offs every stage reports."""
NOT_FOUND = -1
"""The place of a gold passage that is not among the hits."""


def gold_hits(hits_NK: np.ndarray, gold_uids: Sequence[Sequence[int]]) -> np.ndarray:
    """Bool [N, K]: which hits are gold passages of their query. A query without gold passages finds none."""
    if len(hits_NK) != len(gold_uids):
        raise DataError(f"{len(hits_NK)} rows of hits but {len(gold_uids)} gold lists; give one for each query")
    found_NK = np.zeros(hits_NK.shape, dtype=bool)
    for row, wanted in enumerate(gold_uids):
        found_NK[row] = np.isin(hits_NK[row], np.asarray(wanted, dtype=np.int64))
    return found_NK & (hits_NK != NO_HIT)


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


def softmax(scores_BK: np.ndarray) -> np.ndarray:
    """Each row's scores as probabilities."""
    p_BK = np.exp(scores_BK - scores_BK.max(axis=1, keepdims=True))
    shares_BK: np.ndarray = p_BK / p_BK.sum(axis=1, keepdims=True)
    return shares_BK
