"""The replies of all shards to one request, merged into candidates. Asking and waiting are client.py's business.

Shapes: B queries, S shards, K hits per query, A = S * K hits of all shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.index.messages import NO_HIT, Reply


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A retrieved passage."""

    uid: int
    score: float
    title_ids: np.ndarray
    """uint16 wordpieces, a view."""
    body_ids: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The K best passages of the whole corpus for each query: by descending score, then ascending uid."""

    step: int
    version: int
    uids_BK: np.ndarray
    """int64, NO_HIT where the corpus ran out of passages."""
    scores_BK: np.ndarray
    """float32, -inf beside NO_HIT. They choose candidates; the loss scores them anew."""
    title_lengths_BK: np.ndarray
    body_lengths_BK: np.ndarray
    starts_BK: np.ndarray
    """Where title and body of each hit begin in `tokens`."""
    tokens: np.ndarray
    """uint16, of the hits of all shards, also those that did not make it."""
    search_ms: float
    """Of the slowest shard."""
    parked_ms: float
    """Longest time that a shard kept the request waiting for the version to be built."""
    wait_s: float
    """How long the trainer stood still for the answer."""

    def hits(self, query: int) -> list[Hit]:
        """The passages found for one query of the batch, best first."""
        found = []
        for place in np.flatnonzero(self.uids_BK[query] != NO_HIT).tolist():
            first = int(self.starts_BK[query, place])
            middle = first + int(self.title_lengths_BK[query, place])
            last = middle + int(self.body_lengths_BK[query, place])
            found.append(
                Hit(
                    uid=int(self.uids_BK[query, place]),
                    score=float(self.scores_BK[query, place]),
                    title_ids=self.tokens[first:middle],
                    body_ids=self.tokens[middle:last],
                )
            )
        return found


def merge(replies: Sequence[Reply], *, wait_s: float = 0.0) -> Candidates:
    """The best K of all shards' K best, which are the K best of all; whatever the order of the replies."""
    num_hits = replies[0].uids_BK.shape[1]
    uids_BA = np.concatenate([reply.uids_BK for reply in replies], axis=1)
    scores_BA = np.concatenate([reply.scores_BK for reply in replies], axis=1)
    order_BK = best_first(scores_BA, uids_BA)[:, :num_hits]

    def pick(parts: Sequence[np.ndarray]) -> np.ndarray:
        picked: np.ndarray = np.take_along_axis(np.concatenate(parts, axis=1), order_BK, axis=1)
        return picked

    sizes = [len(reply.tokens) for reply in replies]
    return Candidates(
        step=replies[0].step,
        version=replies[0].version,
        uids_BK=np.take_along_axis(uids_BA, order_BK, axis=1),
        scores_BK=np.take_along_axis(scores_BA, order_BK, axis=1),
        title_lengths_BK=pick([reply.title_lengths_BK for reply in replies]),
        body_lengths_BK=pick([reply.body_lengths_BK for reply in replies]),
        starts_BK=pick([_starts(reply) + sum(sizes[:shard]) for shard, reply in enumerate(replies)]),
        tokens=np.concatenate([reply.tokens for reply in replies]),
        search_ms=max(reply.search_ms for reply in replies),
        parked_ms=max(reply.parked_ms for reply in replies),
        wait_s=wait_s,
    )


def best_first(scores_BA: np.ndarray, uids_BA: np.ndarray) -> np.ndarray:
    """The order of each row by descending score, then ascending uid; empty places (-inf) last."""
    keys_BA = -scores_BA
    # Equal scores are rare, and sorting by two keys takes several times longer than by one: only rows with ties do.
    order_BA: np.ndarray = np.argsort(keys_BA, axis=1)
    sorted_BA = np.take_along_axis(keys_BA, order_BA, axis=1)
    rows = np.flatnonzero(((sorted_BA[:, 1:] == sorted_BA[:, :-1]) & np.isfinite(sorted_BA[:, 1:])).any(axis=1))
    if len(rows):
        order_BA[rows] = np.lexsort((uids_BA[rows], keys_BA[rows]), axis=-1)
    return order_BA


def _starts(reply: Reply) -> np.ndarray:
    """Where each hit begins in the reply's tokens."""
    lengths = (reply.title_lengths_BK.astype(np.int64) + reply.body_lengths_BK).ravel()
    starts_BK: np.ndarray = (np.cumsum(lengths) - lengths).reshape(reply.uids_BK.shape)
    return starts_BK
