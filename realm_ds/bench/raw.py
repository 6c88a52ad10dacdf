"""The reference in this process: FAISS alone, its own index and threads, nothing of ours between.

Shapes: B queries, K hits, P embedding.
"""

import faiss
import numpy as np

from realm_ds.bench.corpora import VectorsOf
from realm_ds.index.faiss_index import use_threads

ADDED_AT_ONCE = 2**16


class RawIndex:
    """IndexFlatIP over given vectors, searched with `num_threads`."""

    def __init__(self, vectors: VectorsOf, *, num_passages: int, num_threads: int) -> None:
        use_threads(num_threads)
        self._num_threads = num_threads
        self._index = faiss.IndexFlatIP(vectors.width)
        for start in range(0, num_passages, ADDED_AT_ONCE):
            self._index.add(vectors(start, min(start + ADDED_AT_ONCE, num_passages)))

    def search(self, queries_BP: np.ndarray, num_hits: int) -> np.ndarray:
        """Places [B, K], best first."""
        use_threads(self._num_threads)
        _, places_BK = self._index.search(queries_BP, num_hits)
        return np.asarray(places_BK)


def id_mapped(vectors: VectorsOf, *, start: int, stop: int) -> "faiss.Index":
    """IndexFlatIP of a part of the corpus that answers with places in the whole of it, for servers of shards."""
    index = faiss.IndexIDMap(faiss.IndexFlatIP(vectors.width))
    index.add_with_ids(vectors(start, stop), np.arange(start, stop, dtype=np.int64))
    return index
