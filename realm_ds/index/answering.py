"""Queries to replies: those that wait together are searched together, in one call where that changes no answer.

When a query may be answered is server.py's business.

Shapes: B queries of one request, A queries of several, K hits per query, P embedding.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.index.exact import NOWHERE
from realm_ds.index.exclusion import Exclusion
from realm_ds.index.messages import Fetch, Fetched, Query, Reply
from realm_ds.index.passages import PassageShard
from realm_ds.index.shard import BuiltShard, Hits

MOST_QUERIES = 1024
"""Queries in one search: more share nothing that these do not."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A query and who asked it."""

    source: int
    query: Query
    asked_at: float
    parked_s: float = 0.0
    """How long it waited for its version."""

    def parked_for(self, seconds: float) -> "Asked":
        return replace(self, parked_s=seconds)


@dataclass(kw_only=True)
class Totals:
    """What answering has counted."""

    searches: int = 0
    """Requests answered."""
    queries: int = 0
    calls: int = 0
    """Of BuiltShard.search: fewer than searches where several waited together."""
    search_s: float = 0.0
    parked_s: float = 0.0


def answer_queries(
    asked: Sequence[Asked], *, built: BuiltShard, passages: PassageShard, totals: Totals
) -> Iterator[tuple[int, Reply]]:
    """The reply to each and the rank it goes to. Raises IndexFault, with rank, version and step, for a bad query."""
    for together in _groups(asked, built=built):
        yield from _answer(together, built=built, passages=passages, totals=totals)


def answer_fetch(fetch: Fetch, passages: PassageShard, built: BuiltShard | None) -> Fetched:
    """The tokens of passages of this shard, the same in every version, and their vectors in `built`, the version that
    the fetch names; None where that is not held."""
    places_H = fetch.places_H.astype(np.int64) - passages.start
    if ((places_H < 0) | (places_H >= len(passages))).any():
        raise IndexFault(
            f"step {fetch.step} fetches places {fetch.places_H.min()} to {fetch.places_H.max()} of shard "
            f"{fetch.shard}, which holds {passages.start} to {passages.stop - 1}: a fault of the sender"
        )
    if fetch.wants_vectors and built is None:
        raise IndexFault(
            f"step {fetch.step} fetches vectors of index version {fetch.version} of shard {fetch.shard}, which holds "
            "it no more: trainers disagree on the refresh schedule"
        )
    titles_1H, bodies_1H, tokens = passages.gather(places_H[None])
    return Fetched(
        request=fetch.request, shard=fetch.shard, version=fetch.version, step=fetch.step,
        title_lengths_H=titles_1H[0], body_lengths_H=bodies_1H[0], tokens=tokens,
        vectors_HP=built.vectors(places_H) if built and fetch.wants_vectors else np.zeros((0, 0), dtype=np.float32),
    )  # fmt: skip


def _groups(asked: Sequence[Asked], *, built: BuiltShard) -> Iterator[list[Asked]]:
    """Those that one call can answer. An approximate index may answer otherwise in other company: one call for each."""
    waiting = list(asked)
    while waiting:
        first, num_queries = waiting[0], 0
        together: list[Asked] = []
        others: list[Asked] = []
        for other in waiting:
            fits = other is first or (
                built.is_exact
                and _kind(other.query) == _kind(first.query)
                and num_queries + len(other.query.vectors_BP) <= MOST_QUERIES
            )
            num_queries += len(other.query.vectors_BP) if fits else 0
            (together if fits else others).append(other)
        yield together
        waiting = others


def _kind(query: Query) -> tuple[object, ...]:
    return query.num_hits, query.is_audit, query.ngram, query.most_shared, query.vectors_BP.shape[1:]


def _answer(
    together: Sequence[Asked], *, built: BuiltShard, passages: PassageShard, totals: Totals
) -> Iterator[tuple[int, Reply]]:
    started_at = time.perf_counter()
    hits = _search(together, built)
    totals.calls += 1
    stop = 0
    for asked in together:
        query = asked.query
        start, stop = stop, stop + len(query.vectors_BP)
        yield asked.source, _reply(asked, hits, slice(start, stop), passages=passages, started_at=started_at)
        totals.searches += 1
        totals.queries += len(query.vectors_BP)
        totals.parked_s += asked.parked_s
    totals.search_s += time.perf_counter() - started_at


def _search(together: Sequence[Asked], built: BuiltShard) -> Hits:
    first = together[0].query
    exclusions = [_checked(asked, built) for asked in together]
    return built.search(
        _joined([asked.query.vectors_BP for asked in together]),
        num_hits=first.num_hits,
        exclusion=Exclusion(
            uids_B=_joined([each.uids_B for each in exclusions]),
            articles_B=_joined([each.articles_B for each in exclusions]),
            ngrams_G=_joined([each.ngrams_G for each in exclusions]),
            num_ngrams_B=_joined([each.num_ngrams_B for each in exclusions]),
            ngram=first.ngram,
            most_shared=first.most_shared,
        ),
        is_audit=bool(first.is_audit),
    )


def _checked(asked: Asked, built: BuiltShard) -> Exclusion:
    """What a query excludes, once it can be answered: found bad in company, nobody could say whose it was."""
    query = asked.query
    try:
        exclusion = Exclusion(
            uids_B=query.uids_B, articles_B=query.articles_B, ngrams_G=query.ngrams_G, num_ngrams_B=query.num_ngrams_B,
            ngram=query.ngram, most_shared=query.most_shared,
        )  # fmt: skip
        built.check(
            query.vectors_BP, num_hits=query.num_hits, num_exclusions=len(exclusion), is_audit=bool(query.is_audit)
        )
        return exclusion
    except IndexFault as error:
        raise IndexFault(
            f"shard {query.shard}, index version {query.version}, asked by rank {asked.source}, step {query.step}: "
            f"{error}"
        ) from error


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _reply(asked: Asked, hits: Hits, rows: slice, *, passages: PassageShard, started_at: float) -> Reply:
    query, places_BK = asked.query, hits.places_BK[rows]
    in_corpus_BK = np.where(places_BK == NOWHERE, NOWHERE, places_BK + passages.start)
    if query.wants_tokens:
        title_lengths_BK, body_lengths_BK, tokens = passages.gather(places_BK)
    else:
        title_lengths_BK = body_lengths_BK = np.zeros((0, 0), dtype=np.int32)
        tokens = np.zeros(0, dtype=np.uint16)
    return Reply(
        request=query.request, shard=query.shard, version=query.version, step=query.step,
        search_ms=1e3 * (time.perf_counter() - started_at), parked_ms=1e3 * asked.parked_s,
        places_BK=in_corpus_BK.astype(np.int32), uids_BK=hits.uids_BK[rows], scores_BK=hits.scores_BK[rows],
        title_lengths_BK=title_lengths_BK, body_lengths_BK=body_lengths_BK, tokens=tokens,
    )  # fmt: skip
