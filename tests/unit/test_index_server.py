"""A server with its builder on loopback: parking, dropping, faults, reports, persistence, leave-taking."""

import itertools
import logging
import re
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Clock
from realm_ds.errors import IndexFault
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_passages
from realm_ds.index.factory import IndexSpec
from realm_ds.index.messages import MESSAGES, BuildReport, Query, Reply, SnapshotChunk, SnapshotStart, Stop
from realm_ds.index.server import serve
from realm_ds.index.store import IndexStore, version_folder
from realm_ds.index.tree import SnapshotTree
from tests.support.index_cases import (
    WIDTH,
    ServerThread,
    brute_force,
    check_candidates,
    fake_embed,
    make_builder,
    make_passages,
    make_shards,
    send_snapshot,
    vectors_of,
)

PASSAGES = make_passages(list(range(100, 140)))
SHARD = make_shards(PASSAGES, [])[0]
TRAINER, SECOND_TRAINER, SERVER = 0, 1, 2
QUERIES = np.random.default_rng(0).integers(-3, 4, size=(5, WIDTH)).astype(np.float32)
EXCLUDE = np.array([0, 101, 102, 0, 139])


TREE = SnapshotTree(trainer=TRAINER, embedders=(SERVER,))


def query(version: int, **changes: Any) -> Query:
    exclusion = exclude_passages(EXCLUDE)
    fields = {
        "request": 0, "shard": 3, "version": version, "step": 7, "num_hits": 4, "wants_tokens": 1, "is_audit": 0,
        "vectors_BP": QUERIES, **vars(exclusion), **changes,
    }  # fmt: skip
    return Query(**fields)


@pytest.fixture
def hub() -> LoopbackHub:
    return LoopbackHub(3, MESSAGES)


def serving(hub: LoopbackHub, *, trainers: tuple[int, ...] = (TRAINER,), **builder: object) -> ServerThread:
    return ServerThread(
        hub.mailbox(SERVER), SHARD, make_builder(SHARD, **builder), trainer_ranks=trainers  # type: ignore[arg-type]
    )  # fmt: skip


def client_of(mailbox: Mailbox) -> IndexClient:
    return IndexClient(mailbox, index_ranks=[SERVER], timeout_s=30, build_timeout_s=30)


def ask(client: IndexClient, version: int):
    request = client.submit(QUERIES, exclusion=exclude_passages(EXCLUDE), num_hits=4, step=version, version=version)
    return client.collect(request)


def fault(hub: LoopbackHub, *, clock: Clock | None = None, build_timeout_s: float = 20, **builder: object) -> str:
    """Serve what was sent until it ends in an IndexFault."""
    with pytest.raises(IndexFault) as caught:
        serve(
            hub.mailbox(SERVER), passages=SHARD, builder=make_builder(SHARD, **builder),  # type: ignore[arg-type]
            tree=TREE, trainer_ranks=[TRAINER, SECOND_TRAINER], shard_rank=3, timeout_s=20,
            build_timeout_s=build_timeout_s, clock=clock,
        )  # fmt: skip
    return str(caught.value)


def test_a_query_that_overtakes_its_version_is_parked_and_answered(hub: LoopbackHub):
    trainer, second = hub.mailbox(TRAINER), hub.mailbox(SECOND_TRAINER)
    with serving(hub, trainers=(TRAINER, SECOND_TRAINER)) as server:
        client = client_of(second)
        request = client.submit(QUERIES, exclusion=exclude_passages(EXCLUDE), num_hits=4, step=0, version=0)
        send_snapshot(trainer, 0, to=SERVER)
        check_candidates(client.collect(request), PASSAGES, vectors_of(PASSAGES, 0), QUERIES, EXCLUDE.tolist())
        client.close()
        client_of(trainer).close()
    assert server.totals is not None
    assert (server.totals.searches, server.totals.queries, server.totals.versions_built) == (1, 5, 1)


def test_it_answers_from_one_version_while_building_the_next(hub: LoopbackHub):
    gate = threading.Event()

    def gated(snapshot: bytes):
        if snapshot.endswith(b"1"):
            assert gate.wait(30)
        return fake_embed(snapshot)

    trainer = hub.mailbox(TRAINER)
    with serving(hub, embed_factory=gated) as server:
        client = client_of(trainer)
        send_snapshot(trainer, 0, to=SERVER)
        ask(client, 0)
        send_snapshot(trainer, 1, to=SERVER)
        ahead = client.submit(QUERIES, exclusion=exclude_passages(EXCLUDE), num_hits=4, step=1, version=1)
        for _ in range(3):
            check_candidates(ask(client, 0), PASSAGES, vectors_of(PASSAGES, 0), QUERIES, EXCLUDE.tolist())
        gate.set()
        late = client.collect(ahead)
        check_candidates(late, PASSAGES, vectors_of(PASSAGES, 1), QUERIES, EXCLUDE.tolist())
        assert late.parked_ms > 0
        client.close()
    assert server.totals is not None
    assert server.totals.parked >= 1


def test_many_swaps_and_builds_are_reported(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    reports: list[BuildReport] = []
    with serving(hub):
        client = client_of(trainer)
        for version in range(12):
            send_snapshot(trainer, version, to=SERVER)
            for asked in (max(0, version - 1), version):
                check_candidates(ask(client, asked), PASSAGES, vectors_of(PASSAGES, asked), QUERIES, EXCLUDE.tolist())
            reports += [report for _, report in client.build_reports()]
        client.close()
    finished = [report for report in reports if report.passages_done == report.passages_total]
    assert [report.version for report in finished] == list(range(12))
    assert all(report.passages_total == len(PASSAGES) for report in reports)
    assert client.totals.searches == 24
    assert client.totals.mixed_version_replies == 0


def test_leaving_with_parked_and_unread_answers_ends_cleanly(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    with serving(hub):
        client = client_of(trainer)
        send_snapshot(trainer, 0, to=SERVER)
        ask(client, 0)
        client.submit(QUERIES, exclusion=exclude_passages(EXCLUDE), num_hits=4, step=1, version=0)
        client.submit(QUERIES, exclusion=exclude_passages(EXCLUDE), num_hits=4, step=2, version=1)
        client.close()
    assert trainer.poll() is None


def test_a_dropped_version_is_a_fault(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    for version in (3, 4, 5):
        send_snapshot(trainer, version, to=SERVER)
    trainer.send(query(3), to=SERVER)
    assert fault(hub).startswith(
        "shard 3: rank 0, step 7, asks for index version 3, which is dropped (launched: 5, held: [4, 5])"
    )


def test_an_audit_that_comes_too_late_is_let_go(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    with serving(hub) as server:
        client = client_of(trainer)
        for version in (0, 1, 2):
            send_snapshot(trainer, version, to=SERVER)
        trainer.send(query(0, shard=0, is_audit=1, request=99), to=SERVER)
        check_candidates(ask(client, 2), PASSAGES, vectors_of(PASSAGES, 2), QUERIES, EXCLUDE.tolist())
        client.close()
    assert server.totals is not None
    assert server.totals.searches == 1


def test_what_is_ready_is_answered_before_its_version_is_dropped(hub: LoopbackHub):
    """Query and launch arrive together: the launch drops the version that the query names."""
    trainer = hub.mailbox(TRAINER)
    start = SnapshotStart(version=2, step=2, num_bytes=4, num_chunks=1, sha256="0" * 64)
    with serving(hub) as server:
        client = client_of(trainer)
        for version in (0, 1):
            send_snapshot(trainer, version, to=SERVER)
            ask(client, version)
        inbox = hub._inboxes[SERVER]
        # Both are there before the server looks again.
        inbox.extend((TRAINER, hub._codec.encode(message)) for message in (query(0, shard=0, request=50), start))
        reply = trainer.receive(Reply, source=SERVER, timeout_s=30, waiting_for="the answer of version 0")
        assert reply.version == 0
        client.close()
    assert server.totals is not None
    assert server.totals.searches == 3


def test_audits_are_done_when_nothing_else_is_and_of_the_exact_vectors(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    spec = IndexSpec(factory="SQ4", rerank=0)
    with serving(hub, spec=spec):
        trainer.send(query(0, shard=0, is_audit=1, wants_tokens=0, request=50), to=SERVER)
        send_snapshot(trainer, 0, to=SERVER)
        reply = trainer.receive(Reply, source=SERVER, timeout_s=30, waiting_for="the audit")
        uids = [passage.uid for passage in PASSAGES]
        expected, _ = brute_force(QUERIES, vectors_of(PASSAGES, 0), uids, num_hits=4, exclude=EXCLUDE.tolist())
        assert reply.uids_BK.tolist() == expected
        client_of(trainer).close()


def test_dropping_a_version_someone_waits_for_is_a_fault(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    trainer.send(query(0), to=SERVER)
    for version in (0, 1, 2):
        send_snapshot(trainer, version, to=SERVER)
    gate = threading.Event()  # never set before the fault: the build must not be faster
    message = fault(hub, embed_factory=lambda snapshot: gate.wait(5) and fake_embed(snapshot))
    gate.set()
    assert "index version 0 is dropped while rank 0 waits for it (step 7)" in message


def test_a_version_far_ahead_is_a_fault_at_once(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    send_snapshot(trainer, 0, to=SERVER)
    trainer.send(query(3), to=SERVER)
    assert "asks for index version 3, which was never launched (launched: 0, held: [0])" in fault(hub)


class FastClock:
    """A clock that moves by what is slept, times 1000; the builder's thread gets its turns meanwhile."""

    def __init__(self, on_sleep: Callable[[float], None] = lambda now: None) -> None:
        self.now_s, self.on_sleep = 0.0, on_sleep

    def __call__(self) -> Clock:
        return Clock(now=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += 1000 * seconds
        self.on_sleep(self.now_s)


def test_a_version_that_is_never_launched_is_a_fault_at_the_deadline(hub: LoopbackHub):
    trainer, alive = hub.mailbox(TRAINER), hub.mailbox(SECOND_TRAINER)
    trainer.send(query(1), to=SERVER)
    # The other trainer is heard of all the time: the silence is not what ends this.
    clock = FastClock(lambda now: alive.send(query(1), to=SERVER) if now < 99 else None)
    message = fault(hub, clock=clock(), build_timeout_s=100)
    assert "index version 1, for which rank 0 waits (step 7), was never launched: nothing of it came within 100 s" in (
        message
    )


def test_silence_is_a_fault_at_the_deadline(hub: LoopbackHub):
    message = fault(hub, clock=FastClock()())
    assert "shard 3: heard nothing from trainers (world ranks [0, 1]) for 20 s" in message


def test_silence_is_borne_while_trainers_may_wait_for_a_slower_shard(hub: LoopbackHub):
    assert "heard nothing from trainers (world ranks [0, 1]) for 300 s" in fault(
        hub, clock=FastClock()(), build_timeout_s=300
    )


def test_silence_during_a_build_is_not_a_fault(hub: LoopbackHub):
    gate = threading.Event()
    trainer = hub.mailbox(TRAINER)
    send_snapshot(trainer, 0, to=SERVER)

    def on_sleep(now: float) -> None:
        if now > 100 and not gate.is_set():
            gate.set()
            trainer.send(Stop(), to=SERVER)
            hub.mailbox(SECOND_TRAINER).send(Stop(), to=SERVER)

    totals = serve(
        hub.mailbox(SERVER), passages=SHARD, tree=TREE, trainer_ranks=[TRAINER, SECOND_TRAINER], shard_rank=0,
        timeout_s=20, build_timeout_s=20,
        builder=make_builder(SHARD, embed_factory=lambda snapshot: gate.wait(30) and fake_embed(snapshot)),
        clock=FastClock(on_sleep)(),
    )  # fmt: skip
    assert totals.searches == 0


def test_progress_is_reported_at_intervals_of_half_a_second(hub: LoopbackHub):
    """The embedder is as slow as the clock says: one batch per 0.2 s of it."""
    trainer, step, now_s = hub.mailbox(TRAINER), threading.Semaphore(0), [0.0]
    send_snapshot(trainer, 0, to=SERVER)

    def slow(snapshot: bytes):
        embed = fake_embed(snapshot)
        return lambda tokens: (step.acquire(timeout=30), embed(tokens))[1]

    builder = make_builder(SHARD, embed_factory=slow)
    reports: list[BuildReport] = []

    def sleep(seconds: float) -> None:
        now_s[0] += 0.2
        step.release()
        while (arrived := trainer.poll()) is not None:
            if isinstance(arrived[1], BuildReport):
                reports.append(arrived[1])
                if reports[-1].passages_done == len(PASSAGES):
                    trainer.send(Stop(), to=SERVER)

    serve(
        hub.mailbox(SERVER), passages=SHARD, builder=builder, tree=TREE, trainer_ranks=[TRAINER], shard_rank=0,
        timeout_s=1e6, build_timeout_s=1e6, clock=Clock(now=lambda: now_s[0], sleep=sleep),
    )  # fmt: skip
    done = [report.passages_done for report in reports]
    assert done == sorted(done)
    assert done[-1] == len(PASSAGES)
    times = [report.took_s for report in reports[:-1]]
    assert all(later - sooner >= 0.5 for sooner, later in itertools.pairwise(times))


def send_damaged(trainer: Mailbox, **changes: object) -> None:
    start = {"version": 0, "step": 0, "num_bytes": 4, "num_chunks": 1, "sha256": "0" * 64, **changes}
    trainer.send(SnapshotStart(**start), to=SERVER)  # type: ignore[arg-type]


def chunk(version: int = 0, index: int = 0, **changes: Any) -> SnapshotChunk:
    data = np.zeros(4, np.uint8)
    return SnapshotChunk(**{"version": version, "index": index, "crc32": zlib.crc32(data), "data": data, **changes})


def test_a_damaged_snapshot_is_a_fault(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    send_damaged(trainer)
    trainer.send(chunk(), to=SERVER)
    assert "snapshot of index version 0 arrived damaged: 4 bytes, sha256 df3f619804a9" in fault(hub)


def test_a_chunk_that_a_hop_damaged_is_a_fault_that_names_it(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    send_damaged(trainer)
    trainer.send(chunk(crc32=5), to=SERVER)
    assert "chunk 0 of snapshot 0 (step -1) came damaged from rank 0: its checksum is 2144df1c, not 00000005" in fault(
        hub
    )


def test_chunks_out_of_order_or_unannounced_are_faults(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    trainer.send(chunk(), to=SERVER)
    assert "chunk 0 of snapshot 0, which was not announced" in fault(hub)
    send_damaged(trainer, num_chunks=3)
    trainer.send(chunk(index=1), to=SERVER)
    assert "received chunk 1 of snapshot 0 where chunk 0 of 3 of snapshot 0 was due" in fault(hub)


def test_snapshots_out_of_order_are_faults(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    send_damaged(trainer)
    send_damaged(trainer, version=1)
    assert "snapshot 1 begins before snapshot 0 is complete" in fault(hub)
    send_snapshot(trainer, 0, to=SERVER)
    send_snapshot(trainer, 2, to=SERVER)
    assert "index version 2 is launched after 0; 1 was due" in fault(hub)


def test_messages_of_others_are_faults(hub: LoopbackHub):
    hub.mailbox(SECOND_TRAINER).send(chunk(), to=SERVER)
    assert "SnapshotChunk of version 0 from rank 1; snapshots come here from rank 0" in fault(hub)
    hub.mailbox(SECOND_TRAINER).send(BuildReport(passages_done=1, passages_total=2, took_s=0.0), to=SERVER)
    assert "BuildReport from rank 1 is not for an index rank" in fault(hub)
    hub.mailbox(SECOND_TRAINER).send(query(0, shard=1), to=SERVER)
    assert "Query of rank 1, step 7, index version 0, is for shard 1: the ranks disagree" in fault(hub)
    hub.mailbox(SERVER).send(query(0), to=SERVER)
    assert "Query from rank 2, which is no trainer or has left" in fault(hub)


def test_a_failing_embedder_ends_the_server_with_its_reason(hub: LoopbackHub):
    def broken(snapshot: bytes):
        raise KeyError("dense.weight")

    send_snapshot(hub.mailbox(TRAINER), 0, to=SERVER)
    message = fault(hub, embed_factory=broken)
    assert message == "building index version 0 (step 0) of passages 0 to 39 failed: KeyError: 'dense.weight'"


def test_wrong_embedding_width_names_both_numbers(hub: LoopbackHub):
    send_snapshot(hub.mailbox(TRAINER), 0, to=SERVER)
    message = fault(hub, embed_factory=lambda snapshot: lambda tokens: np.zeros((len(tokens.ids_BL), 6), "f4"))
    assert re.search(r"vectors of shape \(\d+, 6\) for \d+ passages, but the index is 4 wide", message)


def test_vectors_that_are_not_finite_are_a_fault(hub: LoopbackHub):
    send_snapshot(hub.mailbox(TRAINER), 0, to=SERVER)
    message = fault(hub, embed_factory=lambda snapshot: lambda tokens: np.full((len(tokens.ids_BL), WIDTH), np.nan))
    assert "passage vectors are not finite" in message


def run_with_store(folder: Path, *, embed_factory: Callable = fake_embed) -> None:
    hub = LoopbackHub(3, MESSAGES)
    store = IndexStore(folder, corpus_sha256="corpus")
    with serving(hub, embed_factory=embed_factory, store=store):
        trainer = hub.mailbox(TRAINER)
        client = client_of(trainer)
        for version in (0, 1):
            send_snapshot(trainer, version, to=SERVER)
            check_candidates(ask(client, version), PASSAGES, vectors_of(PASSAGES, version), QUERIES, EXCLUDE.tolist())
        client.close()


def test_versions_on_disk_are_loaded_not_built_again(tmp_path: Path):
    run_with_store(tmp_path)
    built: list[bytes] = []

    def counting(snapshot: bytes):
        built.append(snapshot)
        return fake_embed(snapshot)

    run_with_store(tmp_path, embed_factory=counting)
    assert built == []


def test_a_damaged_part_is_named_and_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run_with_store(tmp_path)
    part = version_folder(tmp_path, 1) / "part-000000000-000000040.npy"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 64]))
    with caplog.at_level(logging.WARNING):
        run_with_store(tmp_path)
    assert f"{part} is damaged" in caplog.text
    assert part.read_bytes() == content


def test_a_full_disk_ends_the_server_with_its_reason(tmp_path: Path, hub: LoopbackHub):
    (tmp_path / "version-00000").write_text("a file where a folder should be")
    trainer = hub.mailbox(TRAINER)
    send_snapshot(trainer, 0, to=SERVER)
    message = fault(hub, store=IndexStore(tmp_path, corpus_sha256="corpus"))
    assert "building index version 0 (step 0) of passages 0 to 39 failed: cannot write index version 0 to " in message


def test_replies_are_reproducible_to_the_bit(hub: LoopbackHub):
    trainer = hub.mailbox(TRAINER)
    with serving(hub):
        send_snapshot(trainer, 0, to=SERVER)
        replies = []
        for request in range(2):
            trainer.send(query(0, request=request, shard=0), to=SERVER)
            replies.append(trainer.receive(Reply, source=SERVER, timeout_s=30, waiting_for="a reply"))
        client_of(trainer).close()
    for name in ("uids_BK", "scores_BK", "title_lengths_BK", "body_lengths_BK", "tokens"):
        assert getattr(replies[0], name).tobytes() == getattr(replies[1], name).tobytes()
