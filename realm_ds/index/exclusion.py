"""What must not be retrieved for a query: its own passage, its article, passages that share too much with it.

The paper excludes trivial candidates (section 3.4): the passage that x was cut from. Near-duplicates of it (another
cut of the same article, a copy elsewhere) are as trivial. Applied inside the shard, to hits that have been fetched;
shard.py then fetches more until enough are left.

Shapes: B queries, F hits fetched, G n-grams of all queries, L tokens of all hits.
"""

from dataclasses import dataclass

import numpy as np

from realm_ds.data.records import NO_ARTICLE, NO_UID
from realm_ds.errors import IndexFault
from realm_ds.index.passages import PassageShard

LONGEST_NGRAM = 512
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, of the golden ratio: what an n-gram's hash is a polynomial in."""
QUERY_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
"""Odd, and of no simple ratio to the other: tells the n-grams of queries apart."""


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """What each of B queries excludes."""

    uids_B: np.ndarray
    """int64 uid of a passage, or NO_UID."""
    articles_B: np.ndarray
    """int64 id of an article (data/records.py), or NO_ARTICLE."""
    ngrams_G: np.ndarray
    """int64 hashes, ascending and distinct within a query, one query after the other."""
    num_ngrams_B: np.ndarray
    """int32, of each query."""
    ngram: int = 1
    """Wordpieces of an n-gram."""
    most_shared: float = 1.0
    """Passages with more than this share of a query's n-grams are excluded; 1 excludes none."""

    def __post_init__(self) -> None:
        lengths = (self.uids_B.shape, self.articles_B.shape, self.num_ngrams_B.shape)
        if len(set(lengths)) > 1 or (self.num_ngrams_B < 0).any() or self.num_ngrams_B.sum() != len(self.ngrams_G):
            raise IndexFault(
                f"exclusions of {lengths} queries with {self.num_ngrams_B.sum()} n-grams hold {len(self.ngrams_G)}: a "
                "fault of the sender"
            )
        if not 1 <= self.ngram <= LONGEST_NGRAM:
            raise IndexFault(f"exclusions by n-grams of {self.ngram} wordpieces: index.ngram is 1 to {LONGEST_NGRAM}")

    def __len__(self) -> int:
        return len(self.uids_B)

    def at(self, rows: np.ndarray) -> "Exclusion":
        """Of some of the queries."""
        if not len(self.ngrams_G):
            return _like(self, self.uids_B[rows], self.articles_B[rows], self.ngrams_G, self.num_ngrams_B[rows])
        stops = np.cumsum(self.num_ngrams_B)
        parts = [self.ngrams_G[stops[row] - self.num_ngrams_B[row] : stops[row]] for row in rows.tolist()]
        ngrams_G = np.concatenate(parts) if parts else self.ngrams_G[:0]
        return _like(self, self.uids_B[rows], self.articles_B[rows], ngrams_G, self.num_ngrams_B[rows])

    def of(self, places_BF: np.ndarray, passages: PassageShard) -> np.ndarray:
        """Which hits are excluded, bool [B, F]; places below 0 are no hits."""
        is_hit_BF = places_BF >= 0
        uids_BF = passages.uids_N.take(places_BF, mode="wrap")
        is_excluded_BF: np.ndarray = (uids_BF == self.uids_B[:, None]) & is_hit_BF
        if (self.articles_B != NO_ARTICLE).any():
            articles_BF = passages.articles_N.take(places_BF, mode="wrap")
            is_excluded_BF |= (articles_BF == self.articles_B[:, None]) & is_hit_BF
        if len(self.ngrams_G) and self.most_shared < 1.0:
            is_excluded_BF |= self._share_too_much(places_BF, is_hit_BF, passages)
        return is_excluded_BF

    def _share_too_much(self, places_BF: np.ndarray, is_hit_BF: np.ndarray, passages: PassageShard) -> np.ndarray:
        """Hits whose body holds more than `most_shared` of the query's n-grams."""
        rows_H, columns_H = np.nonzero(is_hit_BF)
        lengths_H, tokens_L = passages.bodies(places_BF[rows_H, columns_H])
        ngrams_L, is_whole_L = _rolling(tokens_L, lengths_H, self.ngram)
        hit_L = np.repeat(np.arange(len(lengths_H)), lengths_H)[: len(ngrams_L)]
        # Query and hash as one key: all queries are looked up in one go.
        keys_G = _keys(np.repeat(np.arange(len(self)), self.num_ngrams_B), self.ngrams_G)
        found_L = np.isin(_keys(rows_H[hit_L], ngrams_L), keys_G) & is_whole_L
        # An n-gram that a passage repeats counts once.
        pairs = np.unique(np.stack([hit_L[found_L], ngrams_L[found_L]]), axis=1)
        shared_H = np.bincount(pairs[0].astype(np.int64), minlength=len(lengths_H))
        is_excluded_BF = np.zeros(places_BF.shape, dtype=bool)
        is_excluded_BF[rows_H, columns_H] = shared_H > self.most_shared * self.num_ngrams_B[rows_H]
        return is_excluded_BF


def exclude_passages(uids_B: np.ndarray) -> Exclusion:
    """Only the queries' own passages, or nothing where the uid is NO_UID."""
    return Exclusion(
        uids_B=np.asarray(uids_B, dtype=np.int64), articles_B=np.full(len(uids_B), NO_ARTICLE, dtype=np.int64),
        ngrams_G=np.empty(0, dtype=np.int64), num_ngrams_B=np.zeros(len(uids_B), dtype=np.int32),
    )  # fmt: skip


def exclude_nothing(num_queries: int) -> Exclusion:
    return exclude_passages(np.full(num_queries, NO_UID, dtype=np.int64))


def ngrams_of(ids: np.ndarray, ngram: int) -> np.ndarray:
    """The distinct n-grams of a sequence of wordpieces as hashes, int64, ascending."""
    hashes, is_whole = _rolling(np.asarray(ids), np.array([len(ids)]), ngram)
    distinct: np.ndarray = np.unique(hashes[is_whole])
    return distinct


def _rolling(tokens_L: np.ndarray, lengths: np.ndarray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The hash of the n-gram that begins at each token, and whether it ends within the token's own sequence."""
    count = max(0, len(tokens_L) - ngram + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(ngram):
        hashes = hashes * MULTIPLIER + tokens_L[place : place + count].astype(np.uint64) + np.uint64(1)
    stops_L = np.repeat(np.cumsum(lengths), lengths)[:count]
    return hashes.view(np.int64), np.arange(count) + ngram <= stops_L


def _keys(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """One number for (query, hash); two pairs share one with a chance of about 2**-64."""
    keys: np.ndarray = hashes.view(np.uint64) ^ (rows.astype(np.uint64) * QUERY_MULTIPLIER)
    return keys


def _like(
    exclusion: Exclusion, uids_B: np.ndarray, articles_B: np.ndarray, ngrams_G: np.ndarray, num_ngrams_B: np.ndarray
) -> Exclusion:
    return Exclusion(
        uids_B=uids_B, articles_B=articles_B, ngrams_G=ngrams_G, num_ngrams_B=num_ngrams_B, ngram=exclusion.ngram,
        most_shared=exclusion.most_shared,
    )  # fmt: skip
