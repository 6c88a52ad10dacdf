"""The client against shards that misbehave: strangers, other versions, other shapes, silence."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Clock
from realm_ds.errors import IndexFault
from realm_ds.index import client as client_module
from realm_ds.index.client import IndexClient, SearchTotals
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.messages import MESSAGES, NO_HIT, BuildReport, Fetch, Fetched, Query, Reply, Stop

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


def client_of(mailbox: Mailbox, *, build_timeout_s: float = 30.0, **settings: Any) -> IndexClient:
    return IndexClient(mailbox, index_ranks=SHARDS, timeout_s=30.0, build_timeout_s=build_timeout_s, **settings)


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


def bare(shard: int, request: int, uids: list[list[int]]) -> Reply:
    """A first phase: ids, and as places the last digit of the uid."""
    whole = reply(shard, request, uids)
    nothing = np.zeros((0, 0), np.int32)
    return dataclasses.replace(
        whole, places_BK=(whole.uids_BK % 10).astype(np.int32), title_lengths_BK=nothing, body_lengths_BK=nothing,
        tokens=np.zeros(0, np.uint16),
    )  # fmt: skip


def fetched(shard: int, request: int, places: list[int], *, width: int = 0) -> Fetched:
    """Each passage's title is its place, its body the place twice, and so are the numbers of its vector."""
    ones = np.ones(len(places), np.int32)
    tokens = np.repeat(np.array(places, np.uint16), 3)
    return Fetched(
        request=request, shard=shard, version=5, step=9, title_lengths_H=ones, body_lengths_H=2 * ones, tokens=tokens,
        vectors_HP=np.repeat(np.array([places if width else []], np.float32).T, width, axis=1),
    )  # fmt: skip


def test_in_two_phases_each_shard_sends_the_tokens_of_its_winners_once(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, replies="two_phase")
    request = submit(client, num_queries=2, num_hits=2)
    assert [shard.poll()[1].wants_tokens for shard in shards] == [0, 0]
    shards[0].send(bare(0, request, [[11, 17], [11, 12]]), to=TRAINER)
    client.progress()
    assert shards[0].poll() is None  # who won is not known yet
    shards[1].send(bare(1, request, [[13, 18], [19, NO_HIT]]), to=TRAINER)
    client.progress()  # and not collect: the second phase goes out while the trainer trains
    fetches = [shard.poll()[1] for shard in shards]
    assert [type(fetch) for fetch in fetches] == [Fetch, Fetch]
    assert [fetch.places_H.tolist() for fetch in fetches] == [[1, 2], [3]]
    assert [(fetch.request, fetch.shard, fetch.version, fetch.step) for fetch in fetches] == [
        (0, 0, 5, 9),
        (0, 1, 5, 9),
    ]
    shards[1].send(fetched(1, request, [3]), to=TRAINER)
    shards[0].send(fetched(0, request, [1, 2]), to=TRAINER)
    found = client.collect(request)
    assert found.uids_BK.tolist() == [[11, 13], [11, 12]]
    bodies = [[hit.body_ids.tolist() for hit in found.hits(row)] for row in range(2)]
    assert bodies == [[[1, 1], [3, 3]], [[1, 1], [2, 2]]]
    assert [hit.title_ids.tolist() for hit in found.hits(0)] == [[1], [3]]
    assert (client.totals.two_phase, client.totals.strangers) == (1, 0)


def test_vectors_are_fetched_with_the_tokens_of_winners_whatever_replies_are_wanted(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, replies="whole")
    request = client.submit(
        np.ones((2, 3)), exclusion=exclude_nothing(2), num_hits=2, step=9, version=5, with_vectors=True
    )  # fmt: skip
    other = submit(client)  # one that wants none is under way too
    for shard in shards:
        assert [shard.poll()[1].wants_tokens for _ in range(2)] == [0, 1]
    for number, uids in enumerate(([[11, 17], [11, 12]], [[13, 18], [19, NO_HIT]])):
        shards[number].send(bare(number, request, uids), to=TRAINER)
        shards[number].send(reply(number, other, [[1, 2]]), to=TRAINER)
    client.progress()
    assert [shard.poll()[1].wants_vectors for shard in shards] == [1, 1]
    shards[1].send(fetched(1, request, [3], width=3), to=TRAINER)
    shards[0].send(fetched(0, request, [1, 2], width=3), to=TRAINER)
    found = client.collect(request)
    assert found.vectors_BKP.tolist() == [[[1] * 3, [3] * 3], [[1] * 3, [2] * 3]]
    assert found.places_BK.tolist() == [[1, 3], [1, 2]]
    assert [part.tolist() for part in found.bodies(0)] == [[1, 1, 3, 3], [0, 2, 4]]
    assert client.collect(other).vectors_BKP is None


def test_vectors_of_another_shape_are_a_fault(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = client.submit(
        np.ones((1, 3)), exclusion=exclude_nothing(1), num_hits=1, step=9, version=5, with_vectors=True
    )  # fmt: skip
    shards[0].send(bare(0, request, [[11]]), to=TRAINER)
    shards[1].send(bare(1, request, [[12]]), to=TRAINER)
    client.progress()
    shards[0].send(fetched(0, request, [1], width=4), to=TRAINER)
    with pytest.raises(IndexFault, match=r"index rank 1 sent vectors \(1, 4\) for step 9, which wants \(1, 3\)"):
        client.collect(request)


def test_nothing_is_fetched_where_nothing_won(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, replies="two_phase")
    request = submit(client, num_hits=1)
    for number, shard in enumerate(shards):
        shard.send(bare(number, request, [[NO_HIT]]), to=TRAINER)
    found = client.collect(request)
    assert found.hits(0) == []
    assert [type(shard.poll()[1]) for shard in shards] == [Query, Query]
    assert [shard.poll() for shard in shards] == [None, None]


def test_tokens_of_other_passages_than_those_fetched_are_a_fault(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, replies="two_phase")
    request = submit(client, num_hits=1)
    shards[0].send(bare(0, request, [[11]]), to=TRAINER)
    shards[1].send(bare(1, request, [[12]]), to=TRAINER)
    client.progress()
    shards[0].send(fetched(0, request, [1, 2]), to=TRAINER)
    with pytest.raises(IndexFault, match="shard 0 sent the tokens of 2 passages where step 9 fetched those of 1"):
        client.collect(request)


def test_tokens_that_nobody_fetched_are_dropped(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer)
    request = submit(client)
    shards[0].send(fetched(0, request, [1]), to=TRAINER)
    shards[0].send(reply(1, request, [[6, 7]]), to=TRAINER)  # of another shard than it says
    for number, shard in enumerate(shards):
        shard.send(reply(number, request, [[1, 2]]), to=TRAINER)
    assert client.collect(request).uids_BK.tolist() == [[1, 1]]
    client.progress()
    assert client.totals.strangers == 2


def test_auto_goes_in_two_phases_once_the_tokens_of_losers_are_many(mailboxes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "TWO_PHASE_BYTES", 3)
    trainer, *shards = mailboxes
    client = client_of(trainer)
    modes = []
    for num_hits in (4, 3, 4):  # of hits of one wordpiece, 2 bytes: of one shard's worth, 8 are too many, 6 are not
        request = submit(client, num_hits=num_hits)
        modes.append([shard.poll()[1].wants_tokens for shard in shards])
        if modes[-1] == [1, 1]:
            for number, shard in enumerate(shards):
                shard.send(reply(number, request, [list(range(1, num_hits + 1))]), to=TRAINER)
            client.collect(request)
    assert modes == [[1, 1], [1, 1], [0, 0]]


def test_audits_compare_what_was_found_with_what_there_is(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, audit_every=2)
    vectors, exclusion = np.arange(18, dtype="f4").reshape(6, 3), exclude_nothing(6)
    request = client.submit(vectors, exclusion=exclusion, num_hits=2, step=9, version=5)
    asked = [[shard.poll()[1], shard.poll()[1]] for shard in shards]
    audit = asked[0][1]
    assert [query.is_audit for query in asked[0]] == [0, 1]
    assert (audit.version, audit.step, audit.wants_tokens, audit.num_hits) == (5, 9, 0, 2)
    assert audit.vectors_BP.tolist() == vectors[:4].tolist()
    for number, shard in enumerate(shards):
        shard.send(bare(number, audit.request, [[1, 2] if number else [3, 4] for _ in range(4)]), to=TRAINER)
    client.progress()  # the audit may come first
    for number, shard in enumerate(shards):
        shard.send(reply(number, request, [[5, 6] if number else [1, 3] for _ in range(6)]), to=TRAINER)
    client.collect(request)
    client.progress()
    assert client.take_recall() == (4, 8)  # 1 was found, 2 was not, four times
    assert client.take_recall() == (0, 0)
    assert (client.totals.audited_found, client.totals.audited_hits, client.totals.searches) == (4, 8, 1)
    kinds = [[submit(client), [message.is_audit for message in polled(shards[0])]] for _ in range(3)]
    assert kinds == [[2, [0]], [3, [0, 1]], [5, [0]]]  # 4 is the audit of 3: every second search, whatever the numbers


def polled(mailbox: Mailbox) -> list[Query]:
    arrived = iter(mailbox.poll, None)
    return [message for _, message in arrived]


def test_a_search_that_does_not_count_leaves_no_trace(mailboxes):
    """Neither in the totals, nor in which searches are audited or fetched in two phases."""
    trainer, *shards = mailboxes
    client = client_of(trainer, audit_every=2)
    kinds = []
    for counts in (True, False, False, True, True):
        request = client.submit(
            np.ones((1, 3)), exclusion=exclude_nothing(1), num_hits=2, step=9, version=5, counts=counts
        )  # fmt: skip
        kinds.append([message.is_audit for message in polled(shards[0])])
        if not counts:
            for number, shard in enumerate(shards):
                shard.send(reply(number, request, [[1, 2]]), to=TRAINER)
            assert [hit.body_ids.tolist() for hit in client.collect(request).hits(0)] == [[1], [1]]
    assert kinds == [[0, 1], [0], [0], [0], [0, 1]]
    assert client.totals == SearchTotals()
    assert client._tokens_per_hit == 0.0


def test_an_audit_that_a_shard_has_let_go_is_forgotten(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, audit_every=3)
    for version in (5, 6, 7):
        request = client.submit(
            np.ones((1, 3)), exclusion=exclude_nothing(1), num_hits=2, step=9, version=version
        )  # fmt: skip
        for number, shard in enumerate(shards):
            shard.send(reply(number, request, [[1, 2]], version=version), to=TRAINER)
        client.collect(request)
        client.progress()
    assert client._open == {}
    assert client.take_recall() == (0, 0)


def test_ids_alone_need_no_tokens_and_no_second_phase(mailboxes):
    trainer, *shards = mailboxes
    client = client_of(trainer, replies="two_phase")
    request = client.submit(np.ones((1, 3)), exclusion=exclude_nothing(1), num_hits=2, step=9, version=5, ids_only=True)
    for number, shard in enumerate(shards):
        assert [query.wants_tokens for query in polled(shard)] == [0]
        shard.send(bare(number, request, [[13 - number, 18]]), to=TRAINER)
    found = client.collect(request)
    assert found.uids_BK.tolist() == [[12, 13]]
    assert found.tokens.size == 0
    assert [polled(shard) for shard in shards] == [[], []]
