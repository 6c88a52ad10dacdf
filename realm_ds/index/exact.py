"""Exact search: the best of all passages by inner product, a block of them at a time. Approximate search is faiss's.

What faiss's flat index computes, several times faster (docs/experiments.md): there, each score goes through its
query's heap, and that takes far longer than the matrix product that made it. Here a block's scores are compared at once
with the least that each query has among its best so far, and only the few that pass are looked at.

Shapes: N passages, B queries, K hits, M passages of a block, P embedding.
"""

import functools
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

NOWHERE = -1
"""The place of no passage, as faiss says it."""
BLOCK_SCORES = 2**19
"""Scores of a block, which must stay in a core's cache: 2 MB."""
LEAST_PASSAGES, MOST_PASSAGES = 1024, 8192
"""Of a block."""
FEW_QUERIES = 16
"""Up to so many, BLAS is nearly twice as fast on passages x queries as on queries x passages."""
LEAST_SCORES = 2**21
"""Scores that are worth a thread."""

_own = threading.local()


def use_threads(num_threads: int) -> None:
    """Searches of the calling thread take this many, each with a BLAS of one thread."""
    _own.num_threads = num_threads
    _hold_blas()


class ExactSearch:
    """Searches vectors that somebody else keeps, float32 or float16; they may change between searches."""

    def __init__(self, vectors_NP: np.ndarray) -> None:
        self._vectors_NP = vectors_NP

    def search(self, queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and places int64 of the best, [B, K], best first; NOWHERE and -inf where there are fewer.

        As with faiss, which of several equal scores at the end are kept is left open.
        """
        num_passages, num_queries = len(self._vectors_NP), len(queries_BP)
        num_threads = min(getattr(_own, "num_threads", 1), max(1, num_passages * num_queries // LEAST_SCORES))
        edges = [num_passages * part // num_threads for part in range(num_threads + 1)]
        ranges = list(itertools.pairwise(edges))
        find = functools.partial(self._best_of_range, queries_BP, num_hits)
        found = [find(ranges[0])] if num_threads == 1 else list(_pool(num_threads).map(find, ranges))
        scores_BA = np.concatenate([scores for scores, _ in found], axis=1)
        places_BA = np.concatenate([places for _, places in found], axis=1)
        order_BK = np.argsort(-scores_BA, axis=1)[:, :num_hits]
        scores_BK = np.take_along_axis(scores_BA, order_BK, axis=1)
        places_BK = np.take_along_axis(places_BA, order_BK, axis=1)
        missing = ((0, 0), (0, num_hits - scores_BK.shape[1]))
        return (
            np.pad(scores_BK, missing, constant_values=-np.inf),
            np.pad(places_BK, missing, constant_values=NOWHERE),
        )

    def _best_of_range(
        self, queries_BP: np.ndarray, num_hits: int, passages: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and places of the best in passages[0]..passages[1]-1, in any order; fewer than K if these are."""
        start, stop = passages
        size = BLOCK_SCORES // max(1, len(queries_BP))
        size = max(2 * num_hits, min(max(size, LEAST_PASSAGES), MOST_PASSAGES))
        first = self._scores(queries_BP, start, min(start + size, stop))
        places_BK = _largest(first, num_hits)
        scores_BK = np.take_along_axis(first, places_BK, axis=1)
        places_BK += start
        for begin in range(start + size, stop, size):
            scores_BM = self._scores(queries_BP, begin, min(begin + size, stop))
            passing = np.flatnonzero(scores_BM > scores_BK.min(axis=1, keepdims=True))
            if len(passing):
                _take_in(scores_BK, places_BK, scores_BM, passing, begin=begin)
        return scores_BK, places_BK

    def _scores(self, queries_BP: np.ndarray, start: int, stop: int) -> np.ndarray:
        vectors_MP = self._vectors_NP[start:stop].astype(np.float32, copy=False)
        if len(queries_BP) <= FEW_QUERIES:
            return np.ascontiguousarray((vectors_MP @ queries_BP.T).T)
        scores_BM: np.ndarray = queries_BP @ vectors_MP.T
        return scores_BM


def _take_in(
    scores_BK: np.ndarray, places_BK: np.ndarray, scores_BM: np.ndarray, passing: np.ndarray, *, begin: int
) -> None:
    """Put the passing scores of a block (flat places in it, ascending) among the best of their queries, in place."""
    rows, columns = np.divmod(passing, scores_BM.shape[1])
    queries_Q, firsts_Q, counts_Q = np.unique(rows, return_index=True, return_counts=True)
    row_of, column_of = np.repeat(np.arange(len(queries_Q)), counts_Q), np.arange(len(rows)) - firsts_Q.repeat(counts_Q)
    new_QC = np.full((len(queries_Q), counts_Q.max()), -np.inf, dtype=np.float32)
    new_places_QC = np.full(new_QC.shape, NOWHERE, dtype=np.int64)
    new_QC[row_of, column_of] = scores_BM.ravel()[passing]
    new_places_QC[row_of, column_of] = columns + begin
    all_QC = np.concatenate([scores_BK[queries_Q], new_QC], axis=1)
    kept_QK = _largest(all_QC, scores_BK.shape[1])
    scores_BK[queries_Q] = np.take_along_axis(all_QC, kept_QK, axis=1)
    all_places_QC = np.concatenate([places_BK[queries_Q], new_places_QC], axis=1)
    places_BK[queries_Q] = np.take_along_axis(all_places_QC, kept_QK, axis=1)


def _largest(scores_BM: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest of each row, in any order; all of them if there are fewer."""
    width = scores_BM.shape[1]
    if width <= count:
        return np.tile(np.arange(width), (len(scores_BM), 1))
    places_BK: np.ndarray = np.argpartition(scores_BM, width - count, axis=1)[:, width - count :]
    return places_BK


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="exact-search")


@functools.cache
def _hold_blas() -> None:
    """numpy's BLAS to one thread in this process: our threads share out the passages, and its own would be too many.

    Only the one that numpy brings along: another may be torch's, too, which embeds with as many threads as it is given.
    """
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and Path(library.filepath).parent.name == "numpy.libs":
            library.set_num_threads(1)
