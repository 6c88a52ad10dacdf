"""Messages with damaged bytes: refused with an IndexFault or harmless; never another error, never a wrong answer."""

import contextlib
import zlib
from collections.abc import Iterable

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm_ds.comm.codec import HEADER, Codec
from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.waiting import Clock
from realm_ds.errors import IndexFault
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import Exclusion, exclude_nothing
from realm_ds.index.messages import (
    MESSAGES,
    BuildReport,
    Fetch,
    Fetched,
    Query,
    Reply,
    SnapshotChunk,
    SnapshotStart,
    Stop,
    Vectors,
)
from realm_ds.index.relay import snapshot_messages
from realm_ds.index.server import serve
from realm_ds.index.tree import SnapshotTree
from tests.support.index_cases import WIDTH, make_builder, make_passages, make_shards, send_snapshot, snapshot_of

TRAINER, SERVER, BUILDER = 0, 1, 2
SHARD = make_shards(make_passages(list(range(1, 30))), [])[0]
CODEC = Codec(MESSAGES)
WHO = {"request": 0, "shard": 0, "version": 0, "step": 0}


def query() -> Query:
    exclusion = Exclusion(
        uids_B=np.array([1, 2]), articles_B=np.array([3, 0]), ngrams_G=np.array([5, 6, 7]),
        num_ngrams_B=np.array([2, 1], np.int32), ngram=2, most_shared=0.5,
    )  # fmt: skip
    return Query(
        **WHO, num_hits=3, wants_tokens=1, is_audit=0, vectors_BP=np.ones((2, WIDTH), np.float32), **vars(exclusion)
    )


TO_SERVER = [
    query(),
    Fetch(**WHO, wants_vectors=1, places_H=np.array([1, 2], np.int32)),
    Vectors(version=1, start=3, vectors_NP=np.ones((4, WIDTH), np.float32)),
    SnapshotStart(version=1, step=1, num_bytes=3, num_chunks=1, sha256="ab" * 32),
    SnapshotChunk(version=1, step=1, index=0, crc32=zlib.crc32(b"abc"), data=np.frombuffer(b"abc", np.uint8)),
    BuildReport(passages_done=1, passages_total=2, took_s=0.5),
    Stop(),
]
TO_CLIENT = [
    Reply(**WHO, search_ms=1.0, parked_ms=0.0, places_BK=np.zeros((2, 3), np.int32),
          uids_BK=np.ones((2, 3), np.int64), scores_BK=np.ones((2, 3), np.float32),
          title_lengths_BK=np.ones((2, 3), np.int32), body_lengths_BK=np.ones((2, 3), np.int32),
          tokens=np.ones(12, np.uint16)),
    Fetched(**WHO, title_lengths_H=np.ones(1, np.int32), body_lengths_H=np.ones(1, np.int32),
            tokens=np.ones(2, np.uint16), vectors_HP=np.ones((1, WIDTH), np.float32)),
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, messages: Iterable[object]) -> np.ndarray:
    """The bytes of a message with some behind its header changed, or cut off, or put behind it."""
    buffer = CODEC.encode(draw(st.sampled_from(list(messages)))).copy()
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(HEADER.size if draw(st.integers(0, 9)) else 0, buffer.size - 1))
        buffer[place] = draw(st.sampled_from([0, 1, 2, 7, 10, 127, 128, 255]))
    change = draw(st.sampled_from(["none", "none", "none", "cut", "more"]))
    if change == "cut":
        return buffer[: draw(st.integers(0, buffer.size - 1))]
    return np.concatenate([buffer, np.zeros(8, np.uint8)]) if change == "more" else buffer


def clock_that_ends() -> Clock:
    at = [0.0]

    def sleep(seconds: float) -> None:
        at[0] += 5.0

    return Clock(now=lambda: at[0], sleep=sleep)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(damaged(TO_SERVER), st.sampled_from([TRAINER, BUILDER]), st.booleans())
def test_a_server_refuses_or_survives(buffer: np.ndarray, source: int, has_builders: bool):
    hub = LoopbackHub(3, MESSAGES)
    trainer = hub.mailbox(TRAINER)
    tree = SnapshotTree(trainer=TRAINER, embedders=(SERVER,))
    if has_builders:
        tree = SnapshotTree(trainer=TRAINER, embedders=(BUILDER,), others=(SERVER,))
        start, *_ = snapshot_messages(snapshot_of(0), version=0, step=0, chunk_bytes=7)
        hub.mailbox(BUILDER).send(start, to=SERVER)
        vectors_NP = np.ones((len(SHARD), WIDTH), np.float32)
        hub.mailbox(BUILDER).send(Vectors(version=0, start=0, vectors_NP=vectors_NP), to=SERVER)
    else:
        send_snapshot(trainer, 0, to=SERVER)
    hub._inboxes[SERVER].append((source, buffer))
    trainer.send(query(), to=SERVER)
    with contextlib.suppress(IndexFault):  # at the latest of silence, unless the damage left a Stop
        serve(
            hub.mailbox(SERVER), passages=SHARD, builder=make_builder(SHARD), tree=tree, trainer_ranks=[TRAINER],
            shard_rank=0, timeout_s=20, build_timeout_s=20, clock=clock_that_ends(),
        )  # fmt: skip


@settings(max_examples=400)
@given(damaged(TO_CLIENT), st.sampled_from(["whole", "two_phase"]))
def test_a_client_refuses_or_survives(buffer: np.ndarray, replies):
    hub = LoopbackHub(2, MESSAGES, clock=clock_that_ends())
    client = IndexClient(hub.mailbox(TRAINER), index_ranks=[SERVER], timeout_s=20, build_timeout_s=0.0, replies=replies)
    request = client.submit(
        np.ones((2, WIDTH), np.float32), exclusion=exclude_nothing(2), num_hits=3, step=0, version=0
    )
    hub._inboxes[TRAINER].append((SERVER, buffer))
    with contextlib.suppress(IndexFault):
        found = client.collect(request)
        assert [len(found.hits(row)) <= 3 for row in range(2)] == [True, True]  # whatever they are, they can be read
