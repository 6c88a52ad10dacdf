"""How long sequences are, in wordpieces: the longest that settings allow, or a sample of shards that are there; and how
long padding makes them.

Shapes: N sampled sequences, B sequences of a batch.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from realm_ds.config.schema import DataConfig
from realm_ds.data.records import NUM_SPECIAL
from realm_ds.data.shards import open_shards

SAMPLED = 2_000
"""Records of a folder of shards, from its beginning."""
DRAWS = 64
"""Batches to see what padding makes of the sampled lengths."""
TYPICAL_MASKS = 4
"""Wordpieces of a salient span, where no shards tell; most are shorter, but the longest of a batch counts for all."""
AROUND_X = 2
"""[CLS] x [SEP]"""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Samples, special tokens included but in bodies."""

    queries_N: np.ndarray
    passages_N: np.ndarray
    bodies_N: np.ndarray
    """Of the same passages, without title."""
    masks_N: np.ndarray
    are_sampled: bool
    distinct_share: float = 1.0
    """Of the passages retrieved for a micro-batch, each counted once: a run embeds those alone. 1 is the most."""

    @classmethod
    def longest(cls, data: DataConfig) -> "Lengths":
        """As settings allow: what a plan must reckon with that has no data yet."""
        return cls(
            queries_N=np.array([data.query_tokens]), passages_N=np.array([data.passage_tokens]),
            bodies_N=np.array([data.passage_tokens - AROUND_X]), masks_N=np.array([min(data.max_masks, TYPICAL_MASKS)]),
            are_sampled=False,
        )  # fmt: skip

    @classmethod
    def sample(cls, data: DataConfig) -> "Lengths":
        """Of the first passages of data.corpus and the first sentences of data.pretrain, cut as a run would."""
        corpus = open_shards(data.corpus, kind="corpus", fingerprint=None)
        pairs = [
            (len(passage.title_ids), len(passage.body_ids))
            for passage in islice(corpus.passages(verify=False), SAMPLED)
        ]
        pretrain = open_shards(data.pretrain_place, kind="pretrain", fingerprint=None)
        examples = list(islice(pretrain.examples(verify=False), SAMPLED))
        sentences = [stop - start + AROUND_X for example in examples for start, stop in example.sentences]
        spans = [stop - start for example in examples for start, stop in example.spans]
        titles_N, bodies_N = np.array(pairs).T
        return cls(
            queries_N=np.array([length for length in sentences if length <= data.query_tokens] or [data.query_tokens]),
            passages_N=np.minimum(titles_N + bodies_N + NUM_SPECIAL, data.passage_tokens),
            bodies_N=np.minimum(bodies_N, data.passage_tokens - AROUND_X),
            masks_N=np.minimum(np.array(spans or [TYPICAL_MASKS]), data.max_masks), are_sampled=True,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Padded:
    """Sequences as a network sees them."""

    rows: float
    tokens: float
    squares: float
    """Sum over the sequences of their squared length."""
    masks: float = 0.0
    passes: int = 1
    """Forward passes: one for each bucket."""


def in_buckets(lengths_DB: np.ndarray, *, buckets: int, masks: float = 0.0) -> Padded:
    """The mean over drawn batches, each sorted by length into as many buckets, padded to the longest of each.

    `masks` are the places of a row that are projected to the vocabulary.
    """
    rows = lengths_DB.shape[1]
    parts = np.array_split(np.sort(lengths_DB, axis=1), min(buckets, rows), axis=1)
    longest_and_count = [(part[:, -1].astype(float), part.shape[1]) for part in parts]
    return Padded(
        rows=rows,
        tokens=float(sum(longest_D.mean() * count for longest_D, count in longest_and_count)),
        squares=float(sum((longest_D**2).mean() * count for longest_D, count in longest_and_count)),
        masks=rows * masks,
        passes=len(parts),
    )


def in_length_order(lengths_N: np.ndarray, *, rows: int, batch_tokens: int) -> Padded:
    """So many passages in batches of like length, which padding hardly lengthens."""
    mean, mean_square = float(lengths_N.mean()), float((lengths_N.astype(float) ** 2).mean())
    return Padded(
        rows=rows, tokens=rows * mean, squares=rows * mean_square,
        passes=max(1, round(rows / max(1.0, batch_tokens // mean))),
    )  # fmt: skip


def draw(lengths_N: np.ndarray, *, rows: int, seed: int) -> np.ndarray:
    """DRAWS batches of so many, the same for the same seed."""
    return np.random.default_rng(seed).choice(lengths_N, size=(DRAWS, rows))
