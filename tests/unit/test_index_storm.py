"""100,000 queries during 50 swaps, with every message late by a time of its own: on loopback. Over MPI: tests/ranks."""

import threading

import pytest

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.index.client import Replies
from realm_ds.index.messages import MESSAGES
from realm_ds.index.tree import SnapshotTree
from tests.support import storm
from tests.support.index_cases import ServerThread, make_builder, make_shards
from tests.support.storm import NUM_CLIENTS, NUM_SWAPS, PASSAGES, LateMailbox, Weathered, weather

CUTS = (40, 90, 91)
INDEX_RANKS = tuple(range(NUM_CLIENTS, NUM_CLIENTS + len(CUTS) + 1))


@pytest.mark.parametrize("replies", ["whole", "two_phase"])
def test_no_answer_is_mixed_lost_or_wrong(replies: Replies, monkeypatch: pytest.MonkeyPatch) -> None:
    if replies == "two_phase":
        monkeypatch.setattr(storm, "SEARCHES_PER_VERSION", 4)
    hub = LoopbackHub(NUM_CLIENTS + len(INDEX_RANKS), MESSAGES)
    tree = SnapshotTree(trainer=0, embedders=INDEX_RANKS)
    barrier = threading.Barrier(NUM_CLIENTS, timeout=storm.TIMEOUT_S)
    seen: list[Weathered] = []

    def client(rank: int) -> None:
        seen.append(
            weather(
                LateMailbox(hub.mailbox(rank), seed=0),
                client_rank=rank,
                index_ranks=INDEX_RANKS,
                root=tree.root,
                meet=lambda version: barrier.wait() and None,
                replies=replies,
            )
        )

    servers = [
        ServerThread(
            LateMailbox(hub.mailbox(rank), seed=1),
            shard,
            make_builder(shard),
            trainer_ranks=range(NUM_CLIENTS),
            tree=tree,
            shard_rank=shard_rank,
        )
        for shard_rank, (rank, shard) in enumerate(zip(INDEX_RANKS, make_shards(PASSAGES, list(CUTS)), strict=True))
    ]
    for server in servers:
        server.__enter__()
    clients = [threading.Thread(target=client, args=(rank,), daemon=True) for rank in range(NUM_CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(storm.TIMEOUT_S)
    for server in servers:
        server.__exit__(None)
    assert [(each.wrong, each.lost, each.mixed, each.strangers) for each in seen] == NUM_CLIENTS * [(0, 0, 0, 0)]
    assert [server.totals.versions_built for server in servers if server.totals] == len(servers) * [NUM_SWAPS + 1]
    queries = sum(each.queries for each in seen)
    assert queries > (100_000 if replies == "whole" else 30_000)
    assert all((each.two_phase > 0) == (replies == "two_phase") for each in seen)
