"""The messages between trainers, index ranks and builder ranks. How they travel is comm/mailbox.py's business.

Every message begins with the same four numbers, so that whoever receives it can tell whether it is meant for him.

Shapes: B queries of one request, K hits per query, H hits fetched, N passages, P embedding.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from realm_ds.comm.codec import Array

NO_HIT = -1
"""The uid of an empty place in a reply: the shard holds fewer than K passages."""
NO_REQUEST = -1
"""The request of a message that belongs to none."""
NO_SHARD = -1
"""The shard of a message that is of or for none in particular."""
NO_VERSION = -1
NO_STEP = -1


@dataclass(frozen=True, kw_only=True)
class Message:
    """What every message says first."""

    request: int = NO_REQUEST
    """Numbered by the trainer that asks; answers repeat it."""
    shard: int = NO_SHARD
    """The shard that is asked, or that answers."""
    version: int = NO_VERSION
    """The index version that is meant."""
    step: int = NO_STEP
    """The trainer's step, or the step of the snapshot."""


@dataclass(frozen=True, kw_only=True)
class Query(Message):
    """Trainer to shard: the top K of one index version for B queries."""

    num_hits: int
    wants_tokens: int
    """1: tokens of all hits come with the reply. 0: ids only; those of the winners are fetched from their owners."""
    is_audit: int
    """1: search the exact vectors, whatever the index is made of."""
    vectors_BP: Annotated[np.ndarray, Array("f4", 2)]
    uids_B: Annotated[np.ndarray, Array("i8", 1)]
    """The passage not to return for each query, or NO_UID (exclusion.py, also for what follows)."""
    articles_B: Annotated[np.ndarray, Array("i8", 1)]
    """The article of which to return nothing, or NO_ARTICLE."""
    ngrams_G: Annotated[np.ndarray, Array("i8", 1)]
    """The queries' n-grams, one after the other, or empty."""
    num_ngrams_B: Annotated[np.ndarray, Array("i4", 1)]
    """Of each query."""
    ngram: int
    """Wordpieces of an n-gram."""
    most_shared: float
    """The share of a query's n-grams that a passage may have; one with more is not returned."""


@dataclass(frozen=True, kw_only=True)
class Reply(Message):
    """Shard to trainer: best first; ties by ascending uid."""

    search_ms: float
    parked_ms: float
    """How long the request waited here for its version to be built."""
    places_BK: Annotated[np.ndarray, Array("i4", 2)]
    """Places in the corpus, -1 beside NO_HIT; to fetch by."""
    uids_BK: Annotated[np.ndarray, Array("i8", 2)]
    """NO_HIT where the shard ran out of passages."""
    scores_BK: Annotated[np.ndarray, Array("f4", 2)]
    """-inf beside NO_HIT."""
    title_lengths_BK: Annotated[np.ndarray, Array("i4", 2)]
    """Wordpieces of the title in `tokens`; empty if no tokens were wanted, like the two below."""
    body_lengths_BK: Annotated[np.ndarray, Array("i4", 2)]
    tokens: Annotated[np.ndarray, Array("u2", 1)]
    """Title and body of every hit, one after the other in row order."""


@dataclass(frozen=True, kw_only=True)
class Fetch(Message):
    """Trainer to shard: the tokens of these of its hits (the second of two phases)."""

    wants_vectors: int
    """1: their exact vectors in `version` too."""
    places_H: Annotated[np.ndarray, Array("i4", 1)]
    """Places in the corpus."""


@dataclass(frozen=True, kw_only=True)
class Fetched(Message):
    """Shard to trainer: what was fetched, in the order asked."""

    title_lengths_H: Annotated[np.ndarray, Array("i4", 1)]
    body_lengths_H: Annotated[np.ndarray, Array("i4", 1)]
    tokens: Annotated[np.ndarray, Array("u2", 1)]
    vectors_HP: Annotated[np.ndarray, Array("f4", 2)]
    """Empty if none were wanted."""


@dataclass(frozen=True, kw_only=True)
class SnapshotStart(Message):
    """Trainer 0 to the root of the tree, and down it to every index and builder rank: a version is launched. Its
    weights follow, in `num_chunks` chunks, for the ranks that embed."""

    num_bytes: int
    num_chunks: int
    sha256: str
    """Of the whole snapshot, a safetensors file."""


@dataclass(frozen=True, kw_only=True)
class SnapshotChunk(Message):
    """Down the tree: a part of the snapshot announced before it."""

    index: int
    crc32: int
    """Of `data`, so that the hop that damaged it is named."""
    data: Annotated[np.ndarray, Array("u1", 1)]


@dataclass(frozen=True, kw_only=True)
class Vectors(Message):
    """Builder rank to shard: vectors of passages that it embedded for `version`."""

    start: int
    """Place in the corpus of the first."""
    vectors_NP: Annotated[np.ndarray, Array("f4 f2", 2)]
    """As index.vectors says."""


@dataclass(frozen=True, kw_only=True)
class BuildReport(Message):
    """Shard to trainer 0: how far the build of a version is; done when the counts are equal."""

    passages_done: int
    passages_total: int
    took_s: float


@dataclass(frozen=True, kw_only=True)
class Stop(Message):
    """You get nothing more from me. A rank ends once all who may send to it have said so: none leaves while a message
    to it is under way. From a trainer: what is parked for me need not be answered; a shard answers with a Stop of its
    own. From a rank to those below it in the snapshot's tree, and from a builder rank to the shards and trainer 0."""

    is_early: int = 0
    """From a trainer: the run ends before its last step, so what is being built need not be finished, and other
    trainers need not wait for it."""


MESSAGES = (Query, Reply, Fetch, Fetched, SnapshotStart, SnapshotChunk, Vectors, BuildReport, Stop)
"""In wire order: the kind of a message is its place here."""
