"""The whole corpus in one process, its vectors frozen, searched exactly: for fine-tuning and its evaluation.

Pre-training searches the sharded index of index/ instead, and so does fine-tuning if it is told to.

Shapes: N passages, B queries, K hits of each, P embedding.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch

from realm_ds.data.batches import Ids, Tokens, query_batch
from realm_ds.data.records import SpecialIds
from realm_ds.index.embedding import Embed
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.factory import IndexSpec
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import NO_STEP, NO_VERSION
from realm_ds.index.passages import PassageShard
from realm_ds.index.shard import Hits, build_shard
from realm_ds.models.towers import Embedder, TokenBatch, embed

QUERIES_AT_ONCE = 64


class CorpusIndex:
    """All passages with vectors that never change, in this process."""

    def __init__(self, passages: PassageShard, table: VectorTable) -> None:
        """`table` is kept: the vectors are most of what is in memory, and are there once."""
        self.passages = passages
        self.vectors_NP = table.vectors_NP
        self._built = build_shard(passages, table, version=0, spec=IndexSpec())

    def __len__(self) -> int:
        return len(self.passages)

    def search(self, queries_BP: np.ndarray, *, num_hits: int) -> Hits:
        """The best passages of each query; all of them where the corpus is smaller than `num_hits`."""
        return self._built.search(
            queries_BP, num_hits=min(num_hits, len(self)), exclusion=exclude_nothing(len(queries_BP))
        )

    def retrieve(self, queries_BP: np.ndarray, *, num_hits: int) -> Candidates:
        """Likewise, with tokens and vectors, as index ranks answer."""
        started_at = time.perf_counter()
        hits, passages = self.search(queries_BP, num_hits=num_hits), self.passages
        return Candidates(
            step=NO_STEP, version=NO_VERSION, uids_BK=hits.uids_BK, places_BK=hits.places_BK, scores_BK=hits.scores_BK,
            title_lengths_BK=passages.title_lengths_N[hits.places_BK],
            body_lengths_BK=passages.body_lengths_N[hits.places_BK], starts_BK=passages.starts_N[hits.places_BK],
            tokens=passages.tokens, search_ms=1e3 * (time.perf_counter() - started_at), parked_ms=0.0, wait_s=0.0,
            vectors_BKP=self.vectors_NP[hits.places_BK],
        )  # fmt: skip

    def scores(self, queries_BP: np.ndarray, places_BK: np.ndarray) -> np.ndarray:
        """Each query's inner products with passages at places of its own, float32 [B, K]."""
        scores_BK = [
            self.vectors_NP[places_K] @ query_P for query_P, places_K in zip(queries_BP, places_BK, strict=True)
        ]
        return np.stack(scores_BK)

    def bodies(self, places: np.ndarray) -> list[np.ndarray]:
        """Body wordpieces of the passages at these places."""
        return [body for _, body in self.passages.pairs(places)]


def tensors(tokens: Tokens, device: torch.device) -> TokenBatch:
    """Padded arrays as an encoder's input."""
    return TokenBatch(*(torch.from_numpy(part).to(device) for part in (tokens.ids_BL, tokens.mask_BL, tokens.types_BL)))


def embed_with(tower: Embedder) -> Embed:
    """Passages to vectors by this tower, on its device."""
    device = next(tower.parameters()).device
    return lambda tokens: embed(tower, tensors(tokens, device)).numpy()


def embed_queries(tower: Embedder, queries: Sequence[Ids], *, special: SpecialIds, max_tokens: int) -> np.ndarray:
    """Vectors of queries in order, float32 [B, P], without gradient or dropout."""
    tower.eval()
    device = next(tower.parameters()).device
    parts = [
        embed(
            tower,
            tensors(query_batch(queries[start:][:QUERIES_AT_ONCE], special=special, max_tokens=max_tokens), device),
        )
        for start in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    return torch.cat(parts).numpy()


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of that name; where nothing is said, a GPU if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
