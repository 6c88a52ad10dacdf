"""Vectors of all passages of a shard, in length buckets. Which thread does it, and what with them, is builder.py's.

Shapes: N passages of the shard, B passages of one batch, P embedding.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from realm_ds.data.batches import Tokens, length_buckets, passage_batch
from realm_ds.data.records import SpecialIds
from realm_ds.errors import IndexFault
from realm_ds.index.passages import PassageShard

Embed = Callable[[Tokens], np.ndarray]
"""Vectors [B, P] of a batch of passages."""
SPECIAL_TOKENS = 3
"""[CLS] title [SEP] body [SEP]"""


class ShardEmbedder:
    """Embeds one shard's passages, always in the same batches: the same weights give the same vectors to the bit."""

    def __init__(
        self, passages: PassageShard, *, special: SpecialIds, passage_tokens: int, batch_tokens: int, width: int
    ) -> None:
        self._passages, self._special = passages, special
        self._passage_tokens, self._width = passage_tokens, width
        lengths_N = np.minimum(passages.lengths_N + SPECIAL_TOKENS, passage_tokens)
        self._buckets = length_buckets(lengths_N, max_tokens=batch_tokens)

    def run(self, embed: Embed, vectors_NP: np.ndarray) -> Iterator[int]:
        """Fill `vectors_NP` (float32 or float16) in corpus order, yielding after each batch how many passages are done.

        Raises IndexFault for vectors of another width or that are not finite.
        """
        num_done = 0
        for rows in self._buckets:
            tokens = passage_batch(self._passages.pairs(rows), special=self._special, max_tokens=self._passage_tokens)
            vectors_NP[rows] = self._checked(embed(tokens), num_passages=len(rows), dtype=vectors_NP.dtype)
            num_done += len(rows)
            yield num_done
            time.sleep(0)  # Lets a server that runs beside it have the interpreter.

    def _checked(self, vectors_BP: np.ndarray, *, num_passages: int, dtype: "np.dtype[Any]") -> np.ndarray:
        if vectors_BP.shape != (num_passages, self._width):
            raise IndexFault(
                f"the passage tower gives vectors of shape {vectors_BP.shape} for {num_passages} passages, but the "
                f"index is {self._width} wide (model.projection_size): the snapshot is of another model"
            )
        with np.errstate(over="ignore"):  # Said below, in words.
            kept_BP: np.ndarray = vectors_BP.astype(dtype, copy=False)
        if not np.isfinite(kept_BP).all():
            raise IndexFault(
                f"passage vectors are not finite as {dtype}: the passage tower has diverged; resume from an earlier "
                "checkpoint with a lower learning rate"
            )
        return kept_BP
