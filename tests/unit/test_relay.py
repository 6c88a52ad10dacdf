"""The tree that snapshots go down, and the relay of each rank in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.errors import IndexFault
from realm_ds.index.messages import MESSAGES, SnapshotChunk, SnapshotStart
from realm_ds.index.relay import Snapshot, SnapshotRelay, snapshot_messages
from realm_ds.index.tree import SnapshotTree


def tree_of(num_embedders: int, num_others: int = 0) -> SnapshotTree:
    """World ranks as they come: trainer 0, then everyone else."""
    ranks = range(1, 1 + num_embedders + num_others)
    return SnapshotTree(trainer=0, embedders=tuple(ranks[:num_embedders]), others=tuple(ranks[num_embedders:]))


@given(st.integers(1, 40), st.integers(0, 40))
def test_everyone_hears_once_and_weights_pass_only_through_those_who_need_them(num_embedders: int, num_others: int):
    tree = tree_of(num_embedders, num_others)
    heard, weighed, waiting = [], [], [tree.root]
    while waiting:
        rank = waiting.pop()
        heard.append(rank)
        assert all(tree.parent(child) == rank for child in tree.children(rank))
        waiting += tree.children(rank)
        weighed += tree.chunk_children(rank)
        assert not tree.chunk_children(rank) or rank in tree.embedders
    assert sorted(heard) == sorted(tree.ranks)
    assert sorted([tree.root, *weighed]) == sorted(tree.embedders)
    assert tree.parent(tree.root) == 0
    depth, rank = 0, tree.ranks[-1]
    while rank:
        rank, depth = tree.parent(rank), depth + 1
    assert depth <= len(tree.ranks).bit_length()


def send_down(tree: SnapshotTree, data: bytes, *, chunk_bytes: int) -> dict[int, list[object]]:
    """What each rank's relay gave, when trainer 0 sends to the root alone and all ranks take their turns."""
    hub = LoopbackHub(1 + len(tree.ranks), MESSAGES)
    relays = {
        rank: SnapshotRelay(hub.mailbox(rank), tree=tree, wants_weights=rank in tree.embedders) for rank in tree.ranks
    }
    for message in snapshot_messages(data, version=4, step=40, chunk_bytes=chunk_bytes):
        hub.mailbox(0).send(message, to=tree.root)
    given: dict[int, list[object]] = {rank: [] for rank in tree.ranks}
    for _ in tree.ranks:
        for rank in tree.ranks:
            mailbox = hub.mailbox(rank)
            while (arrived := mailbox.poll()) is not None:
                given[rank].append(relays[rank].take(*arrived))  # type: ignore[arg-type]
    return given


@given(st.integers(1, 9), st.integers(0, 9), st.binary(min_size=1, max_size=99), st.integers(1, 40))
def test_every_embedder_gets_the_snapshot_and_every_other_the_word(num_embedders, num_others, data, chunk_bytes):
    tree = tree_of(num_embedders, num_others)
    for rank, given_ in send_down(tree, data, chunk_bytes=chunk_bytes).items():
        assert isinstance(given_[0], SnapshotStart)
        assert (given_[0].version, given_[0].step) == (4, 40)
        rest = [got for got in given_[1:] if got is not None]
        if rank in tree.embedders:
            assert [got.take() for got in rest if isinstance(got, Snapshot)] == [data]
            assert rest[0].sha256 == given_[0].sha256  # type: ignore[attr-defined]
        else:
            assert len(given_) == 1


def relay() -> tuple[SnapshotRelay, list[SnapshotStart | SnapshotChunk]]:
    tree = tree_of(1)
    hub = LoopbackHub(2, MESSAGES)
    messages = list(snapshot_messages(b"abcdef", version=1, step=10, chunk_bytes=3))
    return SnapshotRelay(hub.mailbox(1), tree=tree, wants_weights=True), messages


def test_snapshots_come_from_the_parent_alone():
    receiver, messages = relay()
    with pytest.raises(IndexFault, match="SnapshotStart of version 1 from rank 5; snapshots come here from rank 0"):
        receiver.take(5, messages[0])


def test_a_damaged_chunk_names_the_hop_version_and_step():
    receiver, messages = relay()
    receiver.take(0, messages[0])
    chunk = messages[1]
    assert isinstance(chunk, SnapshotChunk)
    with pytest.raises(IndexFault, match=r"chunk 0 of snapshot 1 \(step 10\) came damaged from rank 0"):
        receiver.take(0, SnapshotChunk(**{**vars(chunk), "data": chunk.data ^ np.uint8(1)}))


def test_a_snapshot_of_nothing_is_refused():
    receiver, _ = relay()
    with pytest.raises(IndexFault, match="snapshot 2 .step 3. holds no weights"):
        receiver.take(0, SnapshotStart(version=2, step=3, num_bytes=0, num_chunks=0, sha256=""))
