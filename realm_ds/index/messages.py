"""The messages between trainers and index ranks. How they travel is comm/mailbox.py's business.

Shapes: B queries of one request, K hits per query, P embedding.
"""

from dataclasses import dataclass

import numpy as np

NO_HIT = -1
"""The uid of an empty place in a reply: the shard holds fewer than K passages."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Trainer to shard: the top K of one index version for B queries."""

    request: int
    """Numbered by the sender; the reply repeats it."""
    step: int
    version: int
    num_hits: int
    vectors_BP: np.ndarray
    """float32."""
    exclude_B: np.ndarray
    """int64: the passage not to return for each query, or NO_UID."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Shard to trainer: best first; ties by ascending uid."""

    request: int
    step: int
    version: int
    search_ms: float
    parked_ms: float
    """How long the request waited here for its version to be built."""
    uids_BK: np.ndarray
    """int64, NO_HIT where the shard ran out of passages."""
    scores_BK: np.ndarray
    """float32, -inf beside NO_HIT."""
    title_lengths_BK: np.ndarray
    """int32, wordpieces of the title in `tokens`."""
    body_lengths_BK: np.ndarray
    """int32."""
    tokens: np.ndarray
    """uint16: title and body of every hit, one after the other in row order."""


@dataclass(frozen=True, kw_only=True)
class SnapshotStart:
    """Trainer 0 to shard: weights of an index version follow, in `num_chunks` chunks."""

    version: int
    step: int
    num_bytes: int
    num_chunks: int
    sha256: str
    """Of the whole snapshot, a safetensors file."""


@dataclass(frozen=True, kw_only=True)
class SnapshotChunk:
    """Trainer 0 to shard: a part of the snapshot announced before it."""

    version: int
    index: int
    data: np.ndarray
    """uint8."""


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Shard to trainer 0: how far the build of a version is; done when the counts are equal."""

    version: int
    passages_done: int
    passages_total: int
    took_s: float


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Trainer to shard: I will ask no more; what is still parked need not be answered. Shard to trainer, as the answer:
    you get nothing more. So nobody leaves while a message to it is under way. A shard ends when all trainers have."""


MESSAGES = (Query, Reply, SnapshotStart, SnapshotChunk, BuildReport, Stop)
"""In wire order: the kind of a message is its place here."""
