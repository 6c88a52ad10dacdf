"""Vectors of one index version as builder ranks send them, put together for one shard. No messages here.

Shapes: N passages of the shard, M passages of one message, P embedding.
"""

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.index.faiss_index import VectorTable


class VectorAssembly:
    """The table of one version while it fills, in any order."""

    def __init__(self, table: VectorTable, *, version: int, start: int) -> None:
        """`start` is the place in the corpus of the shard's first passage."""
        self.table = table
        self._version, self._start = version, start
        self._is_there_N = np.zeros(len(table), dtype=bool)
        self.num_there = 0

    @property
    def is_complete(self) -> bool:
        return self.num_there == len(self.table)

    def add(self, vectors_MP: np.ndarray, *, start: int) -> None:
        """Take the vectors of passages start, start + 1, ... of the corpus.

        Raises IndexFault for what is not this shard's, of another width or type, or there already.
        """
        table, first = self.table, start - self._start
        of_table = table.vectors_NP.dtype
        if vectors_MP.ndim != 2 or vectors_MP.shape[1] != table.width or vectors_MP.dtype != of_table:
            raise IndexFault(
                f"vectors of index version {self._version} came as {vectors_MP.dtype} {vectors_MP.shape}, but the "
                f"shard keeps {of_table}, {table.width} wide: builder and index ranks run with different index.vectors "
                "or model.projection_size"
            )
        last = first + len(vectors_MP)
        if first < 0 or last > len(table):
            raise IndexFault(
                f"vectors of passages {start} to {start + len(vectors_MP) - 1} (index version {self._version}) came to "
                f"the shard of passages {self._start} to {self._start + len(table) - 1}: builder and index ranks run "
                "with different index.num_shards or corpora"
            )
        if self._is_there_N[first:last].any():
            raise IndexFault(
                f"vectors of passages {start} to {start + len(vectors_MP) - 1} (index version {self._version}) came "
                "twice: a fault of the sender"
            )
        table.vectors_NP[first:last] = vectors_MP
        self._is_there_N[first:last] = True
        self.num_there += len(vectors_MP)

    def missing(self) -> str:
        """Which passages have not come, in words."""
        places = np.flatnonzero(~self._is_there_N)
        first = self._start + int(places[0])
        return f"{len(places)} of {len(self.table)} passages, from passage {first} on"
