"""The vectors of one shard, in one version, and the index to search them with.

Which version to ask for is versions.py's business; where the vectors come from is builder.py's.

**Scores do not depend on the batch.** Matrix products round differently in batches of other sizes. So exact.py or faiss
only propose hits, some more than asked for, and each pair's score is computed anew, by itself; whatever could still be
among the best if every rounding had gone against it is fetched too. So a request has the same answer whatever it is
batched with.

Shapes: N passages of the shard, B queries, K hits per query, F hits fetched, P embedding.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.index.exact import NOWHERE, ExactSearch
from realm_ds.index.exclusion import Exclusion
from realm_ds.index.factory import AUTO, IndexSpec, choose_factory, is_exact
from realm_ds.index.faiss_index import VectorTable, approximate, on_gpu
from realm_ds.index.messages import NO_HIT
from realm_ds.index.passages import PassageShard

log = logging.getLogger(__name__)

SPARE_HITS = 4
"""Fetched beyond those asked for: one may be excluded, the others show that the last hit is no tie."""
MOST_HITS = 2**16
"""Of one query: more is a mistake, or bytes gone wrong."""
FETCHED_AT_ONCE = 2**22
"""Hits that one call may return while ties are sorted out; more rows go in several calls."""


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The best passages of one shard for each query: by descending score, then ascending uid."""

    places_BK: np.ndarray
    """int64 places in the shard, NOWHERE where it ran out of passages."""
    uids_BK: np.ndarray
    """int64, NO_HIT beside NOWHERE."""
    scores_BK: np.ndarray
    """float32, -inf beside NOWHERE."""


class BuiltShard:
    """One version of a shard's index, ready to search; made by build_shard."""

    def __init__(
        self, *, version: int, passages: PassageShard, fetcher: Any, width: int, table: VectorTable | None, rerank: int,
        is_exact: bool,
    ) -> None:  # fmt: skip
        self.version = version
        self.width = width
        self.is_exact = is_exact
        """Whether it finds the very best, so that there is nothing to audit."""
        self._passages = passages
        self._fetcher, self._table, self._rerank = fetcher, table, rerank
        self._longest = table.longest() if table is not None else 0.0

    def search(self, vectors_BP: np.ndarray, *, num_hits: int, exclusion: Exclusion, is_audit: bool = False) -> Hits:
        """The best `num_hits` passages of each query, without those that it excludes.

        An audit looks at all exact vectors, whatever the index is made of. Raises IndexFault for queries of another
        width or that are not finite.
        """
        self.check(vectors_BP, num_hits=num_hits, num_exclusions=len(exclusion), is_audit=is_audit)
        queries_BP = np.require(vectors_BP, dtype=np.float32, requirements=["C", "A"])
        if self.is_exact or is_audit:
            fetcher = ExactSearch(self._table.vectors_NP) if is_audit and self._table is not None else self._fetcher
            finder = _Finder(self._passages, fetcher=fetcher, table=self._table, slack_B=self._slack(queries_BP))
            num_fetched = num_hits + SPARE_HITS
        else:
            finder = _Finder(
                self._passages, fetcher=self._fetcher, table=self._table if self._rerank else None, slack_B=None
            )
            num_fetched = (num_hits + 1) * max(1, self._rerank)
        places_BK, scores_BK = finder.find(queries_BP, exclusion, num_hits=num_hits, num_fetched=num_fetched)
        short = np.flatnonzero(places_BK[:, -1] == NOWHERE)
        if len(short) and not self.is_exact and not is_audit and self._table is not None:
            # The cells looked at held too few that are not excluded: for these queries, look at all.
            certain = self.search(queries_BP[short], num_hits=num_hits, exclusion=exclusion.at(short), is_audit=True)
            places_BK[short], scores_BK[short] = certain.places_BK, certain.scores_BK
        uids_BK = self._passages.uids_N.take(places_BK, mode="wrap")
        uids_BK[places_BK == NOWHERE] = NO_HIT
        return Hits(places_BK=places_BK, uids_BK=uids_BK, scores_BK=scores_BK)

    def vectors(self, places_H: np.ndarray) -> np.ndarray:
        """Exact vectors of the passages at these places, float32 [H, P]. Raises IndexFault where none are kept."""
        if self._table is None:
            raise IndexFault(
                f"index version {self.version} keeps no exact vectors, and they are asked for: set index.rerank"
            )
        return self._table.rows(places_H)

    def _slack(self, queries_BP: np.ndarray) -> np.ndarray:
        """How far two computations of one score can be apart, by rounding of P sums: twice the bound of each."""
        unit = 2.0**-24
        norms_B: np.ndarray = np.sqrt(np.einsum("bp,bp->b", queries_BP, queries_BP))
        slack_B: np.ndarray = 4 * self.width * unit * self._longest * norms_B
        return slack_B

    def check(self, vectors_BP: np.ndarray, *, num_hits: int, num_exclusions: int, is_audit: bool) -> None:
        """Raises IndexFault for a search that cannot be made."""
        if vectors_BP.ndim != 2 or vectors_BP.shape[1] != self.width:
            raise IndexFault(
                f"queries are of shape {vectors_BP.shape}, but the vectors of index version {self.version} are "
                f"{self.width} wide: trainers and index ranks run with different model.projection_size"
            )
        if num_exclusions != len(vectors_BP) or not 1 <= num_hits <= MOST_HITS:
            raise IndexFault(
                f"{len(vectors_BP)} queries came with {num_exclusions} exclusions and num_hits={num_hits}: give as "
                f"many of these as queries, and 1 to {MOST_HITS} hits"
            )
        if not np.isfinite(vectors_BP).all():
            raise IndexFault("the queries hold values that are not finite: the query tower has diverged")
        if is_audit and self._table is None:
            raise IndexFault(
                f"index version {self.version} keeps no exact vectors to audit it with: set index.rerank or "
                "index.audit_every on the index ranks as on the trainers"
            )


@dataclass(frozen=True, kw_only=True)
class _Proposed:
    """What was fetched for each query, in our order."""

    places_BF: np.ndarray
    """Excluded ones NOWHERE, and last."""
    scores_BF: np.ndarray
    least_B: np.ndarray
    """The fetcher's score of the last one: what it did not propose has no more."""
    is_all_B: np.ndarray
    """Whether there is no more to propose."""


class _Finder:
    """One search: fetch, score, exclude, order; and again, wider, where that was not enough."""

    def __init__(
        self, passages: PassageShard, *, fetcher: Any, table: VectorTable | None, slack_B: np.ndarray | None
    ) -> None:
        """With `slack_B` the best are found for certain; None takes what an approximate index proposes."""
        self._passages, self._fetcher, self._table, self._slack_B = passages, fetcher, table, slack_B

    def find(
        self, queries_BP: np.ndarray, exclusion: Exclusion, *, num_hits: int, num_fetched: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places and scores [B, num_hits]. Searched again are queries whose last hit ties with what was not fetched
        (rare with real vectors, every time with collapsed ones), and those of which too many hits are excluded."""
        num_passages = len(self._passages)
        num_fetched = min(num_fetched, num_passages)
        found = self._fetch(queries_BP, exclusion, num_fetched=num_fetched)
        unsure = np.flatnonzero(~(found.is_all_B | self._is_sure(found, num_hits)))
        places_BK, scores_BK = _cut(found.places_BF, num_hits, NOWHERE), _cut(found.scores_BF, num_hits, -np.inf)
        if len(unsure):
            wider = min(4 * num_fetched, num_passages)
            for rows in np.array_split(unsure, -(-len(unsure) * wider // FETCHED_AT_ONCE)):
                if len(rows):
                    narrowed = _Finder(
                        self._passages, fetcher=self._fetcher, table=self._table,
                        slack_B=None if self._slack_B is None else self._slack_B[rows],
                    )  # fmt: skip
                    places_BK[rows], scores_BK[rows] = narrowed.find(
                        queries_BP[rows], exclusion.at(rows), num_hits=num_hits, num_fetched=wider
                    )
        return places_BK, scores_BK

    def _is_sure(self, found: _Proposed, num_hits: int) -> np.ndarray:
        if found.places_BF.shape[1] < num_hits:
            return np.zeros(len(found.places_BF), dtype=bool)
        is_sure_B: np.ndarray = found.places_BF[:, num_hits - 1] != NOWHERE
        if self._slack_B is not None:
            is_sure_B &= found.scores_BF[:, num_hits - 1] > found.least_B + self._slack_B
        return is_sure_B

    def _fetch(self, queries_BP: np.ndarray, exclusion: Exclusion, *, num_fetched: int) -> _Proposed:
        scores_BF, places_BF = self._fetcher.search(queries_BP, num_fetched)
        is_empty_BF = places_BF < 0
        least_B = np.where(is_empty_BF[:, -1], -np.inf, scores_BF[:, -1])
        is_all_B = is_empty_BF[:, -1] | (num_fetched == len(self._passages))
        if self._table is not None:
            scores_BF = self._table.scores(queries_BP, places_BF)
        is_out_BF = is_empty_BF | exclusion.of(places_BF, self._passages)
        places_BF[is_out_BF], scores_BF[is_out_BF] = NOWHERE, -np.inf
        # Most rows are in order as they come; sorting by two keys takes several times longer than looking.
        is_strict_BF = (scores_BF[:, 1:] < scores_BF[:, :-1]) | is_out_BF[:, 1:] & is_out_BF[:, :-1]
        rows = np.flatnonzero(~is_strict_BF.all(axis=1))
        if len(rows):
            uids_RF = self._passages.uids_N.take(places_BF[rows], mode="wrap")
            order = np.lexsort((uids_RF, -scores_BF[rows]), axis=-1)
            places_BF[rows] = np.take_along_axis(places_BF[rows], order, axis=1)
            scores_BF[rows] = np.take_along_axis(scores_BF[rows], order, axis=1)
        return _Proposed(places_BF=places_BF, scores_BF=scores_BF, least_B=least_B, is_all_B=is_all_B)


def build_shard(
    passages: PassageShard, table: VectorTable, *, version: int, spec: IndexSpec, device: int | None = None
) -> BuiltShard:
    """Index the passages' vectors by inner product, on GPU `device` unless None. The same vectors give the same index.

    Raises ConfigError for a factory that FAISS does not know or that needs more passages.
    """
    if len(table) != len(passages):
        raise IndexFault(f"index version {version}: {len(table)} vectors for {len(passages)} passages: build it anew")
    factory = spec.factory
    if factory == AUTO:
        factory, reason = choose_factory(len(passages), width=table.width, train_passages=spec.train_passages)
        log.info("index.factory auto is %s: %s", factory, reason)
    looks_at_all = is_exact(factory, spec.vectors)
    index = table.index if looks_at_all else approximate(table, factory=factory, spec=spec)
    on_cpu = ExactSearch(table.vectors_NP) if looks_at_all else index
    return BuiltShard(
        version=version, passages=passages, width=table.width, rerank=spec.rerank, is_exact=looks_at_all,
        fetcher=on_gpu(index, device, beside=on_cpu) or on_cpu,
        table=table if looks_at_all or spec.keeps_exact else None,
    )  # fmt: skip


def _cut(array_BF: np.ndarray, width: int, empty: float) -> np.ndarray:
    """The first `width` columns, with empty ones where there are fewer."""
    if array_BF.shape[1] >= width:
        return np.ascontiguousarray(array_BF[:, :width])
    return np.pad(array_BF, ((0, 0), (0, width - array_BF.shape[1])), constant_values=empty)
