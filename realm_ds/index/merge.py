"""The replies of all shards to one request, merged into candidates. Asking and waiting are client.py's business.

Shapes: B queries, S shards, K hits per query, A = S * K hits of all shards, H hits of one shard that won, P embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.index.messages import NO_HIT, Fetched, Reply
from realm_ds.index.passages import take_ranges


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
    places_BK: np.ndarray
    """Places in the corpus, -1 beside NO_HIT."""
    scores_BK: np.ndarray
    """float32, -inf beside NO_HIT. They choose candidates; the loss scores them anew."""
    title_lengths_BK: np.ndarray
    body_lengths_BK: np.ndarray
    starts_BK: np.ndarray
    """Where title and body of each hit begin in `tokens`."""
    tokens: np.ndarray
    """uint16; may hold those of hits that did not make it, too."""
    search_ms: float
    """Of the slowest shard."""
    parked_ms: float
    """Longest time that a shard kept the request waiting for the version to be built."""
    wait_s: float
    """How long the trainer stood still for the answer."""
    vectors_BKP: np.ndarray | None = None
    """float32, 0 beside NO_HIT: the exact vectors, where they were asked for."""

    def bodies(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens_T, offsets) of the bodies of what was found for one query (data/answer_spans.py)."""
        lengths_K = self.body_lengths_BK[query].astype(np.int64)
        starts_K = self.starts_BK[query] + self.title_lengths_BK[query]
        return take_ranges(self.tokens, starts_K, lengths_K), np.concatenate([[0], np.cumsum(lengths_K)])

    def hits(self, query: int) -> list[Hit]:
        """The passages found for one query of the batch, best first."""
        places = np.flatnonzero(self.uids_BK[query] != NO_HIT).tolist()
        return [self.hit(query, place) for place in places]

    def hit(self, query: int, place: int) -> Hit:
        """One of them."""
        first = int(self.starts_BK[query, place])
        middle = first + int(self.title_lengths_BK[query, place])
        last = middle + int(self.body_lengths_BK[query, place])
        return Hit(
            uid=int(self.uids_BK[query, place]),
            score=float(self.scores_BK[query, place]),
            title_ids=self.tokens[first:middle],
            body_ids=self.tokens[middle:last],
        )


@dataclass(frozen=True, kw_only=True)
class Winners:
    """Who won, and where their tokens are: the best K of all shards' K best are the K best of all."""

    step: int
    version: int
    uids_BK: np.ndarray
    scores_BK: np.ndarray
    flat_BK: np.ndarray
    """Places in the [B, A] arrays of all shards' hits, side by side."""
    shards_BK: np.ndarray
    """By the order of the replies."""
    places_BK: np.ndarray
    """In the corpus."""
    search_ms: float
    parked_ms: float

    def places_of(self, shard: int) -> np.ndarray:
        """What to fetch from one shard: each of its winners once, in ascending order, int32 [H]."""
        is_its_BK = (self.shards_BK == shard) & (self.uids_BK != NO_HIT)
        distinct_H: np.ndarray = np.unique(self.places_BK[is_its_BK]).astype(np.int32)
        return distinct_H


def merge(replies: Sequence[Reply]) -> Winners:
    """The winners of one request, whatever the order of the replies."""
    num_queries, num_hits = replies[0].uids_BK.shape
    uids_BA = np.concatenate([reply.uids_BK for reply in replies], axis=1)
    scores_BA = np.concatenate([reply.scores_BK for reply in replies], axis=1)
    columns_BK = best_first(scores_BA, uids_BA, num_hits)
    flat_BK = columns_BK + np.arange(num_queries)[:, None] * scores_BA.shape[1]
    return Winners(
        step=replies[0].step,
        version=replies[0].version,
        uids_BK=uids_BA.take(flat_BK),
        scores_BK=scores_BA.take(flat_BK),
        flat_BK=flat_BK,
        shards_BK=columns_BK // num_hits,
        places_BK=np.concatenate([reply.places_BK for reply in replies], axis=1).take(flat_BK),
        search_ms=max(reply.search_ms for reply in replies),
        parked_ms=max(reply.parked_ms for reply in replies),
    )


def with_sent_tokens(winners: Winners, replies: Sequence[Reply], *, wait_s: float) -> Candidates:
    """Candidates of replies that brought the tokens of all their hits."""

    def pick(parts: Sequence[np.ndarray]) -> np.ndarray:
        picked: np.ndarray = np.concatenate(parts, axis=1).take(winners.flat_BK)
        return picked

    sizes = [len(reply.tokens) for reply in replies]
    lengths = [reply.title_lengths_BK.astype(np.int64) + reply.body_lengths_BK for reply in replies]
    return _candidates(
        winners,
        title_lengths_BK=pick([reply.title_lengths_BK for reply in replies]),
        body_lengths_BK=pick([reply.body_lengths_BK for reply in replies]),
        starts_BK=pick([_starts(length) + sum(sizes[:shard]) for shard, length in enumerate(lengths)]),
        tokens=np.concatenate([reply.tokens for reply in replies]),
        wait_s=wait_s,
    )


def with_fetched_tokens(
    winners: Winners, fetched: Mapping[int, Fetched], *, wait_s: float, width: int = 0
) -> Candidates:
    """Candidates of replies without tokens, which were then fetched from each shard that has winners; with vectors
    where `width` says how wide these are."""
    shape = winners.uids_BK.shape
    vectors_BKP = np.zeros((*shape, width), dtype=np.float32) if width else None
    title_lengths_BK, body_lengths_BK = (np.zeros(shape, dtype=np.int32) for _ in range(2))
    starts_BK, tokens, num_tokens = np.zeros(shape, dtype=np.int64), [np.zeros(0, dtype=np.uint16)], 0
    for shard, message in sorted(fetched.items()):
        is_its_BK = (winners.shards_BK == shard) & (winners.uids_BK != NO_HIT)
        places_H = winners.places_of(shard)
        lengths_H = message.title_lengths_H.astype(np.int64) + message.body_lengths_H
        if len(lengths_H) != len(places_H):
            raise IndexFault(
                f"shard {shard} sent the tokens of {len(lengths_H)} passages where step {winners.step} fetched those "
                f"of {len(places_H)}: a fault of the shard"
            )
        row_of = np.searchsorted(places_H, winners.places_BK[is_its_BK])
        title_lengths_BK[is_its_BK] = message.title_lengths_H[row_of]
        body_lengths_BK[is_its_BK] = message.body_lengths_H[row_of]
        starts_BK[is_its_BK] = (_starts(lengths_H) + num_tokens)[row_of]
        if vectors_BKP is not None:
            vectors_BKP[is_its_BK] = message.vectors_HP[row_of]
        tokens.append(message.tokens)
        num_tokens += len(message.tokens)
    return _candidates(
        winners, title_lengths_BK=title_lengths_BK, body_lengths_BK=body_lengths_BK, starts_BK=starts_BK,
        tokens=np.concatenate(tokens), wait_s=wait_s, vectors_BKP=vectors_BKP,
    )  # fmt: skip


def best_first(scores_BA: np.ndarray, uids_BA: np.ndarray, num_hits: int) -> np.ndarray:
    """The first places of each row by descending score, then ascending uid; empty places (-inf) last."""
    keys_BA = -scores_BA
    # Equal scores are rare, and sorting by two keys takes several times longer than by one: only rows with ties do.
    # Stable, as that sort is the faster one on rows that are made of a few sorted ones.
    order_BA: np.ndarray = np.argsort(keys_BA, axis=1, kind="stable")
    sorted_BA = np.take_along_axis(keys_BA, order_BA, axis=1)
    rows = np.flatnonzero(((sorted_BA[:, 1:] == sorted_BA[:, :-1]) & np.isfinite(sorted_BA[:, 1:])).any(axis=1))
    if len(rows):
        order_BA[rows] = np.lexsort((uids_BA[rows], keys_BA[rows]), axis=-1)
    return order_BA[:, :num_hits]


def _candidates(
    winners: Winners, *, title_lengths_BK: np.ndarray, body_lengths_BK: np.ndarray, starts_BK: np.ndarray,
    tokens: np.ndarray, wait_s: float, vectors_BKP: np.ndarray | None = None,
) -> Candidates:  # fmt: skip
    return Candidates(
        step=winners.step, version=winners.version, uids_BK=winners.uids_BK, places_BK=winners.places_BK,
        scores_BK=winners.scores_BK, title_lengths_BK=title_lengths_BK, body_lengths_BK=body_lengths_BK,
        starts_BK=starts_BK, tokens=tokens, search_ms=winners.search_ms, parked_ms=winners.parked_ms, wait_s=wait_s,
        vectors_BKP=vectors_BKP,
    )  # fmt: skip


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of these begins when they stand one after the other in row order."""
    flat = lengths.ravel()
    starts: np.ndarray = (np.cumsum(flat) - flat).reshape(lengths.shape)
    return starts
