"""Mailboxes over real MPI: every kind of message, order, large payloads, and what waiting costs."""

import re

import pytest

from tests.support.worlds import run_ranks

JOIN = """
import sys, time, resource, threading
import numpy as np
from realm_ds.comm.world import join_world
from realm_ds.errors import IndexFault
from realm_ds.index.messages import *
world = join_world(num_shards=1, placement="tail", timeout_s=60)
mailbox = world.mailbox(MESSAGES, timeout_s=60)
me, size = world.world_rank, world.world_size
"""
LEAVE = """
mailbox.flush(60)
world.barrier(timeout_s=60, waiting_for="the others to finish")
print(f"rank {me} done", flush=True)
"""


def run(body: str, *, processes: int, timeout_s: float = 120) -> str:
    outcome = run_ranks(JOIN + body + LEAVE, processes=processes, timeout_s=timeout_s)
    assert outcome.code == 0, outcome.output
    assert sorted(re.findall(r"rank \d+ done", outcome.stdout)) == [f"rank {rank} done" for rank in range(processes)]
    return outcome.output


def test_every_kind_of_message_arrives_from_every_rank_as_it_was_sent() -> None:
    run(
        """
def message(kind, sender):
    r = np.random.default_rng(sender)
    return {
        Query: lambda: Query(request=sender, shard=1, step=2, version=0, num_hits=3, wants_tokens=1, is_audit=0,
                             vectors_BP=r.random((4, 8), np.float32), uids_B=r.integers(0, 2**62, 4),
                             articles_B=r.integers(0, 2**62, 4), ngrams_G=r.integers(-2**62, 2**62, 9),
                             num_ngrams_B=np.array([4, 0, 5, 0], np.int32), ngram=5,
                             most_shared=0.5),
        Reply: lambda: Reply(request=1, shard=0, step=sender, version=1, search_ms=0.5, parked_ms=2.25,
                             places_BK=np.zeros((2, 3), np.int32), uids_BK=r.integers(0, 9, (2, 3)),
                             scores_BK=r.random((2, 3), np.float32),
                             title_lengths_BK=np.ones((2, 3), np.int32), body_lengths_BK=np.ones((2, 3), np.int32),
                             tokens=r.integers(0, 60000, 12).astype(np.uint16)),
        Fetch: lambda: Fetch(request=1, shard=sender, wants_vectors=1, places_H=np.arange(3, dtype=np.int32)),
        Fetched: lambda: Fetched(request=1, shard=sender, title_lengths_H=np.ones(3, np.int32),
                                 body_lengths_H=np.ones(3, np.int32), tokens=np.arange(6, dtype=np.uint16),
                                 vectors_HP=r.random((3, 8), np.float32)),
        Vectors: lambda: Vectors(version=2, start=5, vectors_NP=r.random((3, 8)).astype(np.float16)),
        SnapshotStart: lambda: SnapshotStart(version=1, step=5, num_bytes=9, num_chunks=2, sha256="ab" * 32),
        SnapshotChunk: lambda: SnapshotChunk(version=1, index=0, crc32=7,
                                             data=r.integers(0, 256, 1000).astype(np.uint8)),
        BuildReport: lambda: BuildReport(version=sender, passages_done=1, passages_total=2, took_s=0.1),
        Stop: lambda: Stop(),
    }[kind]()

def same(a, b):
    return type(a) is type(b) and all(
        np.array_equal(x, y) and getattr(x, "dtype", 0) == getattr(y, "dtype", 0)
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True))

for to in range(size):
    for kind in MESSAGES:
        mailbox.send(message(kind, me), to=to)
# Out of order, on purpose: kinds backwards, sources backwards.
for kind in reversed(MESSAGES):
    for source in reversed(range(size)):
        got = mailbox.receive(kind, source=source, timeout_s=60, waiting_for=f"{kind.__name__} of {source}")
        assert same(got, message(kind, source)), (kind, source)
assert mailbox.poll() is None
""",
        processes=3,
    )


def test_a_snapshot_of_200_mb_in_chunks_while_small_messages_keep_their_order() -> None:
    output = run(
        """
import hashlib
CHUNKS, CHUNK_BYTES = 50, 4 * 2**20
if me == 0:
    digest = hashlib.sha256()
    for index in range(CHUNKS):
        data = np.full(CHUNK_BYTES, index, np.uint8)
        data[:8].view(np.int64)[0] = index
        digest.update(data)
        mailbox.send(SnapshotChunk(version=1, index=index, crc32=0, data=data), to=1)
        data[:] = 255  # the mailbox has its own copy
        mailbox.send(BuildReport(version=1, passages_done=index, passages_total=CHUNKS, took_s=0.0), to=1)
    mailbox.send(SnapshotStart(version=1, step=0, num_bytes=0, num_chunks=CHUNKS, sha256=digest.hexdigest()), to=1)
    mailbox.receive(Stop, source=1, timeout_s=60, waiting_for="the end")
else:
    started_at, order, digest, end = time.monotonic(), [], hashlib.sha256(), None
    while end is None:
        arrived = mailbox.poll()
        if arrived is None:
            time.sleep(0.0005)
            continue
        message = arrived[1]
        if isinstance(message, SnapshotChunk):
            order.append(("chunk", message.index))
            digest.update(message.data)
        elif isinstance(message, BuildReport):
            order.append(("report", message.passages_done))
        else:
            end = message
    assert order == [(what, i) for i in range(CHUNKS) for what in ("chunk", "report")]
    assert digest.hexdigest() == end.sha256
    print(f"took {time.monotonic() - started_at:.2f} s")
    mailbox.send(Stop(), to=0)
""",
        processes=2,
    )
    assert "took" in output
    print(output)


def test_two_ranks_that_send_each_other_more_than_mpi_buffers_both_flush() -> None:
    run(
        """
other = 1 - me
for index in range(4):
    mailbox.send(SnapshotChunk(version=0, index=index, crc32=0, data=np.full(8 * 2**20, me, np.uint8)), to=other)
mailbox.flush(60)
for index in range(4):
    chunk = mailbox.receive(SnapshotChunk, source=other, timeout_s=60, waiting_for="a chunk")
    assert chunk.index == index and (chunk.data == other).all()
""",
        processes=2,
    )


def test_a_rank_that_waits_takes_little_of_a_core_and_its_deadline_names_what_it_waited_for() -> None:
    output = run(
        """
if me == 0:
    before, started_at = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    try:
        mailbox.receive(Reply, source=1, timeout_s=3, waiting_for="shard 0, index version 3, step 7")
    except IndexFault as fault:
        print(fault)
    after, took_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - started_at
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"waited {took_s:.3f} s with {used_s / took_s:.4f} of a core", flush=True)
    mailbox.send(Stop(), to=1)
else:
    mailbox.receive(Stop, source=0, timeout_s=60, waiting_for="the end")
""",
        processes=2,
    )
    assert "rank 0 waited 3 s for shard 0, index version 3, step 7" in output
    share = float(re.findall(r"with ([\d.]+) of a core", output)[0])
    print(output)
    assert share < 0.15, output


def test_only_the_main_thread_may_use_it_and_only_ranks_that_exist_are_sent_to() -> None:
    output = run(
        """
def elsewhere():
    for attempt in (lambda: mailbox.send(Stop(), to=0), mailbox.poll, lambda: mailbox.flush(1)):
        try:
            attempt()
        except RuntimeError as error:
            print(error, flush=True)
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
try:
    mailbox.send(Stop(), to=size)
except ValueError as error:
    print(error, flush=True)
""",
        processes=2,
    )
    assert output.count("only the main thread may use the MPI mailbox") == 6
    assert output.count("rank 2 is not one of the world's 2") == 2


@pytest.mark.parametrize("raw", ["np.arange(64, dtype=np.uint8)"])
def test_a_message_from_a_stranger_names_its_sender(raw: str) -> None:
    output = run(
        f"""
if me == 0:
    mailbox._comm.Send({raw}, dest=1)
else:
    try:
        mailbox.receive(Stop, source=0, timeout_s=60, waiting_for="anything")
    except IndexFault as fault:
        print(fault)
""",
        processes=2,
    )
    assert "rank 1, from rank 0: received 64 bytes that are no message" in output
