"""One shard of the corpus: its passages' tokens, and an index of their vectors to search. The only door to faiss.

Which version to ask for is versions.py's business; where the vectors come from is builder.py's.

Shapes: N passages of the shard, B queries, K hits per query, F hits fetched from faiss, P embedding.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from realm_ds.data.records import Passage
from realm_ds.data.shards import Manifest, passage_range, read_passages
from realm_ds.errors import ConfigError, DataError, IndexFault
from realm_ds.index.messages import NO_HIT

NOWHERE = -1
"""The place of no passage, as faiss says it."""
FETCHED_AT_ONCE = 2**22
"""Hits that one faiss call may return while ties are sorted out; more rows go in several calls."""


def use_threads(num_threads: int) -> None:
    """Give faiss this many threads, in the calling thread only (faiss keeps the number per thread)."""
    faiss.omp_set_num_threads(num_threads)


def load_shard(
    folder: Path, manifest: Manifest, *, shard_rank: int, num_shards: int, max_tokens: int | None = None
) -> "PassageShard":
    """The passages of one of `num_shards` equal parts of the corpus; ConfigError if there are too few for that.

    DataError for a passage of more than `max_tokens`, special tokens included: its end would be lost in silence.
    """
    start, stop = passage_range(manifest.count, shard_rank, num_shards)
    passages = read_passages(folder, manifest, start, stop, max_tokens=max_tokens)
    return PassageShard.from_passages(passages, start=start)


class PassageShard:
    """Uids and tokens of a contiguous range of the corpus, in corpus order; the same for every index version."""

    def __init__(
        self, *, start: int, uids_N: np.ndarray, title_lengths_N: np.ndarray, body_lengths_N: np.ndarray,
        tokens: np.ndarray,
    ) -> None:  # fmt: skip
        self.start = start
        """Place of the first passage in the corpus."""
        self.uids_N = uids_N
        self.title_lengths_N = title_lengths_N
        self.body_lengths_N = body_lengths_N
        self.tokens = tokens
        """uint16: title and body of every passage, one after the other."""
        self.lengths_N = title_lengths_N.astype(np.int64) + body_lengths_N
        self._starts_N = np.cumsum(self.lengths_N) - self.lengths_N

    @classmethod
    def from_passages(cls, passages: Iterable[Passage], *, start: int) -> "PassageShard":
        """Read the passages once, keeping 2 bytes a token and nothing of the text."""
        uids, titles, bodies, tokens = array("q"), array("i"), array("i"), array("H")
        for passage in passages:
            uids.append(passage.uid)
            titles.append(len(passage.title_ids))
            bodies.append(len(passage.body_ids))
            try:
                tokens.extend(passage.title_ids)
                tokens.extend(passage.body_ids)
            except (OverflowError, TypeError) as error:
                raise DataError(
                    f"passage {passage.uid} ({passage.title!r}) holds a token id outside 0..65535: {error}; "
                    "the index keeps 16 bits a token, so prepare the corpus with a smaller vocabulary"
                ) from error
        if not uids:
            raise DataError(f"no passage for the shard that starts at passage {start} of the corpus; prepare it again")
        return cls(
            start=start,
            uids_N=np.array(uids, dtype=np.int64),
            title_lengths_N=np.array(titles, dtype=np.int32),
            body_lengths_N=np.array(bodies, dtype=np.int32),
            tokens=np.array(tokens, dtype=np.uint16),
        )

    def __len__(self) -> int:
        return len(self.uids_N)

    @property
    def stop(self) -> int:
        """Place in the corpus just after the last passage."""
        return self.start + len(self)

    def pairs(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Title and body wordpieces of the passages at these places, to collate for the embedder."""
        found = []
        for row in rows.tolist():
            first = int(self._starts_N[row])
            middle = first + int(self.title_lengths_N[row])
            found.append((self.tokens[first:middle], self.tokens[middle : first + self.lengths_N[row]]))
        return found

    def gather(self, places_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Title lengths [B, K], body lengths [B, K] and flat tokens of hits; nothing where there is no hit."""
        is_hit_BK = places_BK >= 0
        rows = places_BK.ravel() if is_hit_BK.all() else places_BK[is_hit_BK]
        title_lengths_BK = np.zeros(places_BK.shape, dtype=np.int32)
        body_lengths_BK = np.zeros(places_BK.shape, dtype=np.int32)
        title_lengths_BK[is_hit_BK] = self.title_lengths_N[rows]
        body_lengths_BK[is_hit_BK] = self.body_lengths_N[rows]
        return title_lengths_BK, body_lengths_BK, take_ranges(self.tokens, self._starts_N[rows], self.lengths_N[rows])


def take_ranges(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The ranges flat[start : start + length], one after the other, without a Python loop over them."""
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    places = np.ones(int(lengths.sum()), dtype=np.int64)
    if len(places):
        # Steps of one, and at the begin of each range the jump from the end of the one before.
        places[0] = starts[0]
        places[np.cumsum(lengths[:-1])] = starts[1:] - (starts[:-1] + lengths[:-1] - 1)
        np.cumsum(places, out=places)
    taken: np.ndarray = flat.take(places)
    return taken


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
    """One version of a shard's index, ready to search."""

    def __init__(self, *, version: int, index: Any, uids_N: np.ndarray) -> None:
        self.version = version
        self._index = index
        self._uids_N = uids_N

    @property
    def width(self) -> int:
        """P, the width of its vectors."""
        return int(self._index.d)

    def search(self, vectors_BP: np.ndarray, *, num_hits: int, exclude_B: np.ndarray) -> Hits:
        """The best `num_hits` passages of each query, without the one it excludes (NO_UID: none).

        One faiss call per batch, never one for several: faiss rounds differently in batches of other sizes.
        """
        if vectors_BP.ndim != 2 or vectors_BP.shape[1] != self.width:
            raise IndexFault(
                f"queries are of shape {vectors_BP.shape}, but the vectors of index version {self.version} are "
                f"{self.width} wide: trainers and index ranks run with different model.projection_size"
            )
        if len(exclude_B) != len(vectors_BP) or num_hits < 1:
            raise IndexFault(f"{len(vectors_BP)} queries came with {len(exclude_B)} exclusions and num_hits={num_hits}")
        queries_BP = np.require(vectors_BP, dtype=np.float32, requirements=["C", "A"])
        # One more to see whether the boundary is tied, one more for the excluded passage.
        places_BK, scores_BK = self._search(
            queries_BP, exclude_B, num_hits=num_hits, num_fetched=min(num_hits + 2, len(self._uids_N))
        )
        uids_BK = self._uids_N.take(places_BK, mode="wrap")
        uids_BK[places_BK == NOWHERE] = NO_HIT
        return Hits(places_BK=places_BK, uids_BK=uids_BK, scores_BK=scores_BK)

    def _search(
        self, queries_BP: np.ndarray, exclude_B: np.ndarray, *, num_hits: int, num_fetched: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places and scores [B, num_hits] that do not depend on which of equal scores faiss happens to keep.

        faiss keeps any of the passages that tie for the last place. Queries whose last hit ties with the next are
        searched again, wider, until it does not; rare with real vectors, every time with collapsed ones.
        """
        places_BF, scores_BF, is_all_B = self._fetch(queries_BP, exclude_B, num_fetched=num_fetched)
        if num_fetched > num_hits:
            is_cut_B = (places_BF[:, num_hits] != NOWHERE) & (scores_BF[:, num_hits - 1] > scores_BF[:, num_hits])
            tied = np.flatnonzero(~(is_cut_B | is_all_B))
        else:
            tied = np.flatnonzero(~is_all_B)
        places_BK, scores_BK = _cut(places_BF, num_hits, NOWHERE), _cut(scores_BF, num_hits, -np.inf)
        if len(tied):
            wider = min(4 * num_fetched, len(self._uids_N))
            for rows in np.array_split(tied, -(-len(tied) * wider // FETCHED_AT_ONCE)):
                if len(rows):
                    places_BK[rows], scores_BK[rows] = self._search(
                        queries_BP[rows], exclude_B[rows], num_hits=num_hits, num_fetched=wider
                    )
        return places_BK, scores_BK

    def _fetch(
        self, queries_BP: np.ndarray, exclude_B: np.ndarray, *, num_fetched: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places and scores [B, F] in our order, excluded ones emptied and last, and whether there are no more."""
        scores_BF, places_BF = self._index.search(queries_BP, num_fetched)
        is_empty_BF = places_BF < 0
        is_all_B = is_empty_BF[:, -1] | (num_fetched == len(self._uids_N))
        scores_BF[is_empty_BF] = -np.inf
        uids_BF = self._uids_N.take(places_BF, mode="wrap")
        is_excluded_BF = (uids_BF == exclude_B[:, None]) & ~is_empty_BF
        places_BF[is_excluded_BF], scores_BF[is_excluded_BF] = NOWHERE, -np.inf
        is_tie_BF = (scores_BF[:, 1:] == scores_BF[:, :-1]) & ~is_empty_BF[:, 1:]
        # faiss returns rows sorted by score: only those with ties or an emptied place need sorting.
        rows = np.flatnonzero(is_tie_BF.any(axis=1) | is_excluded_BF.any(axis=1))
        if len(rows):
            order = np.lexsort((uids_BF[rows], -scores_BF[rows]), axis=-1)
            places_BF[rows] = np.take_along_axis(places_BF[rows], order, axis=1)
            scores_BF[rows] = np.take_along_axis(scores_BF[rows], order, axis=1)
        return places_BF, scores_BF, is_all_B


def build_shard(passages: PassageShard, vectors_NP: np.ndarray, *, version: int, factory: str) -> BuiltShard:
    """Index the passages' vectors by inner product. The same vectors and threads give the same index."""
    num_passages, width = vectors_NP.shape
    if num_passages != len(passages):
        raise IndexFault(f"index version {version}: {num_passages} vectors for {len(passages)} passages: build it anew")
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors_NP)
        index.add(vectors_NP)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"index.factory={factory!r} cannot index {num_passages} passages of width {width} ({reason}); "
            "use Flat, or fewer cells or codes, or fewer shards"
        ) from error
    return BuiltShard(version=version, index=index, uids_N=passages.uids_N)


def _cut(array_BF: np.ndarray, width: int, empty: float) -> np.ndarray:
    """The first `width` columns, with empty ones where there are fewer."""
    if array_BF.shape[1] >= width:
        return np.ascontiguousarray(array_BF[:, :width])
    return np.pad(array_BF, ((0, 0), (0, width - array_BF.shape[1])), constant_values=empty)
