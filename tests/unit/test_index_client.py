"""The client against shards that misbehave: strangers, other versions, other shapes, silence."""

import numpy as np
import pytest

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Clock
from realm_ds.errors import IndexFault
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.messages import MESSAGES, NO_HIT, BuildReport, Query, Reply, Stop

TRAINER, SHARDS = 0, (1, 2)


def reply(shard: int, request: int, uids: list[list[int]], *, version: int = 5, search_ms: float = 1.0) -> Reply:
    """Scores fall with the uid; each passage has the one body token uid."""
    uids_BK = np.array(uids, dtype=np.int64)
    is_hit = uids_BK != NO_HIT
    return Reply(
        request=request, shard=shard, step=9, version=version, search_ms=search_ms, parked_ms=0.5,
        places_BK=np.zeros(uids_BK.shape, np.int32), uids_BK=uids_BK,
        scores_BK=np.where(is_hit, -uids_BK, -np.inf).astype(np.float32),
        title_lengths_BK=np.zeros(uids_BK.shape, np.int32), body_lengths_BK=is_hit.astype(np.int32),
        tokens=uids_BK[is_hit].astype(np.uint16),
    )  # fmt: skip


@pytest.fixture
def mailboxes() -> tuple[Mailbox, Mailbox, Mailbox]:
    hub = LoopbackHub(3, MESSAGES, clock=Clock(sleep=lambda seconds: None))
    return hub.mailbox(0), hub.mailbox(1), hub.mailbox(2)


def client_of(mailbox: Mailbox, *, build_timeout_s: float = 30.0) -> IndexClient:
    return IndexClient(mailbox, index_ranks=SHARDS, timeout_s=30.0, build_timeout_s=build_timeout_s)


def submit(client: IndexClient, *, num_queries: int = 1, num_hits: int = 2) -> int:
    return client.submit(
        np.ones((num_queries, 3)), exclusion=exclude_nothing(num_queries), num_hits=num_hits, step=9, version=5
    )


def test_every_shard_gets_the_query_and_replies_are_merged(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client)
    for shard in shards:
        source, query = shard.poll()
        assert source == TRAINER
        assert isinstance(query, Query)
        assert (query.request, query.step, query.version, query.num_hits) == (request, 9, 5, 2)
        assert (query.vectors_BP.dtype, query.uids_B.dtype) == (np.float32, np.int64)
    shards[1].send(reply(1, request, [[3, 8]], search_ms=4.0), to=TRAINER)
    shards[0].send(reply(0, request, [[5, NO_HIT]], search_ms=2.0), to=TRAINER)
    found = client.collect(request)
    assert found.uids_BK.tolist() == [[3, 5]]
    assert [hit.body_ids.tolist() for hit in found.hits(0)] == [[3], [5]]
    assert (found.step, found.version, found.search_ms, found.parked_ms) == (9, 5, 4.0, 0.5)
    assert (client.totals.searches, client.totals.queries, client.totals.search_ms) == (1, 1, 4.0)


def test_requests_overlap_and_are_collected_in_any_order(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    first, second = submit(client), submit(client)
    for number, shard in enumerate(shards):
        shard.send(reply(number, first, [[1, 2]]), to=TRAINER)
        shard.send(reply(number, second, [[3, 4]]), to=TRAINER)
    assert client.collect(second).uids_BK.tolist() == [[3, 3]]
    assert client.collect(first).uids_BK.tolist() == [[1, 1]]


def test_strangers_are_dropped_and_counted(mailboxes, caplog: pytest.LogCaptureFixture):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client)
    shards[0].send(reply(0, 77, [[66, 67]]), to=TRAINER)
    shards[0].send(reply(0, request, [[1, 2]]), to=TRAINER)
    shards[1].send(reply(1, request, [[3, 4]]), to=TRAINER)
    assert client.collect(request).uids_BK.tolist() == [[1, 2]]
    assert client.totals.strangers == 1
    assert "dropped a reply of rank 1, shard 0, to request 77" in caplog.text


def test_another_version_is_counted_and_a_fault(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client)
    shards[0].send(reply(0, request, [[1, 2]]), to=TRAINER)
    shards[1].send(reply(1, request, [[3, 4]], version=4), to=TRAINER)
    with pytest.raises(IndexFault, match=r"asked for index version 5, but rank\(s\) answered from others {2: 4}"):
        client.collect(request)
    assert client.totals.mixed_version_replies == 1


def test_a_reply_of_another_shape_is_a_fault(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client, num_hits=3)
    shards[0].send(reply(0, request, [[1, 2]]), to=TRAINER)
    with pytest.raises(IndexFault, match=r"index rank 1 answered \(1, 2\) hits where step 9 asked for \(1, 3\)"):
        client.collect(request)


def test_a_silent_shard_is_named(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, build_timeout_s=0.01)
    request = submit(client)
    shards[0].send(reply(0, request, [[1, 2]]), to=TRAINER)
    with pytest.raises(IndexFault, match=r"index rank\(s\) \[2\] to the queries of step 9, index version 5"):
        client.collect(request)
    with pytest.raises(IndexFault, match=r"raise index.build_timeout_s or add index ranks"):
        client.collect(request)


def test_queries_that_are_not_finite_are_a_fault(mailboxes):
    with pytest.raises(IndexFault, match=r"queries of step 9 \(index version 5\) hold values that are not finite"):
        client_of(mailboxes[0]).submit(
            np.full((1, 3), np.nan), exclusion=exclude_nothing(1), num_hits=2, step=9, version=5
        )


def test_build_reports_do_not_swallow_replies(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client)
    report = BuildReport(version=6, passages_done=1, passages_total=2, took_s=0.1)
    for number, shard in enumerate(shards):
        shard.send(report, to=TRAINER)
        shard.send(reply(number, request, [[1, 2]]), to=TRAINER)
    assert client.build_reports() == [(shard.rank, report) for shard in shards]
    assert client.collect(request).uids_BK.tolist() == [[1, 1]]
    assert client.build_reports() == []


def test_messages_that_are_no_replies_are_a_fault(mailboxes):
    trainer, shard, _ = mailboxes
    shard.send(Stop(), to=TRAINER)
    with pytest.raises(IndexFault, match="a trainer received Stop from rank 1; only replies were due"):
        client_of(trainer).build_reports()


def test_closing_takes_what_was_still_under_way(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client)
    shards[0].send(reply(0, request, [[1, 2]]), to=TRAINER)
    for shard in shards:
        shard.send(Stop(), to=TRAINER)
    client.close()
    assert trainer.poll() is None
    assert [type(shard.poll()[1]) for shard in shards for _ in range(2)] == [Query, Stop, Query, Stop]
