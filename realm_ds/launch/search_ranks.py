"""What a rank of `realm-ds index search` does: the first asks, every other one holds a shard and serves it.

The server, the client and the builder are those of training; no weights travel, since nothing is embedded but queries.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from realm_ds.comm.world import World, join_world, start_mpi
from realm_ds.errors import ConfigError, IndexFault
from realm_ds.index.builder import Builder
from realm_ds.index.client import IndexClient
from realm_ds.index.embedding import Embed
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.factory import spec_of
from realm_ds.index.messages import MESSAGES
from realm_ds.index.passages import load_shard
from realm_ds.index.relay import snapshot_messages
from realm_ds.index.server import prepare_serving, serve
from realm_ds.index.store import IndexStore
from realm_ds.index.tree import SnapshotTree
from realm_ds.launch.index_open import Answers, Opened, Wanted, damaged, in_batches, open_index, with_texts
from realm_ds.launch.rank import as_rank, threads_for_rank

QUERIES_FILE, ANSWERS_FILE = "queries.json", "answers.json"
"""What passes between the process that a person started and the ranks that it starts, in a folder of their own."""
NO_QUERY = "no query: give a text, or - to read them from standard input, one a line"
STAGE = "search"
NO_WEIGHTS = b"vectors are read from the store"
"""What is sent down the tree in place of a snapshot."""


def take_part(make_wanted: Callable[[], Wanted], *, folder: Path) -> tuple[Wanted, Answers | None]:
    """This rank's part: the first of the world asks, all others hold a shard. Returns what was asked and found, there.

    What is wanted is read here, since that can fail.
    """
    mpi = start_mpi()  # Before anything can fail; see launch/stages.py.
    size = mpi.COMM_WORLD.Get_size() if mpi else 1
    if size < 2:
        raise ConfigError("a world of one process has no index rank: launch at least 2, or search without a launcher")
    wanted = make_wanted()
    opened = open_index(wanted)
    timeout_s = opened.config.runtime.wait_timeout_s
    world = join_world(num_shards=size - 1, placement="tail", timeout_s=timeout_s)
    answers = None
    with as_rank(world, folder=folder, stage=STAGE, threads=opened.config.runtime.threads_per_rank):
        if world.shard_rank is None:
            wanted = _with_queries(wanted, folder)
            answers = _ask(world, opened, wanted, folder=folder)
        else:
            _serve(world, opened, shard_rank=world.shard_rank)
        world.barrier(timeout_s=timeout_s, waiting_for="all ranks to finish")
    return wanted, answers


def _with_queries(wanted: Wanted, folder: Path) -> Wanted:
    """What is wanted, with the queries that the process which started the ranks has read for them."""
    if (folder / QUERIES_FILE).is_file():
        wanted = replace(wanted, queries=tuple(json.loads((folder / QUERIES_FILE).read_text(encoding="utf-8"))))
    if not wanted.queries:
        raise ConfigError(NO_QUERY)
    return wanted


def _ask(world: World, opened: Opened, wanted: Wanted, *, folder: Path) -> Answers:
    runtime, index = opened.config.runtime, opened.config.index
    mailbox = world.mailbox(MESSAGES, timeout_s=runtime.wait_timeout_s)
    tree = SnapshotTree.of(world)
    # Shards build a version once they hear of it; of weights they have no need.
    for message in snapshot_messages(NO_WEIGHTS, version=opened.version, step=0, chunk_bytes=len(NO_WEIGHTS)):
        mailbox.send(message, to=tree.root)
    queries_BP = opened.embed(wanted.queries)  # while the shards read their vectors
    client = IndexClient(
        mailbox, index_ranks=world.index_ranks, timeout_s=runtime.wait_timeout_s, build_timeout_s=index.build_timeout_s,
        replies=index.replies,
    )  # fmt: skip
    found = []
    for part_BP in in_batches(queries_BP):
        request = client.submit(
            part_BP, exclusion=exclude_nothing(len(part_BP)), num_hits=wanted.num_hits, step=0, version=opened.version
        )
        found.append(client.collect(request))
    client.close()
    answers = with_texts(
        opened, np.concatenate([part.uids_BK for part in found]), np.concatenate([part.scores_BK for part in found])
    )
    text = json.dumps([[asdict(hit) for hit in hits] for hits in answers])
    (folder / ANSWERS_FILE).write_text(text, encoding="utf-8")
    return answers


def _serve(world: World, opened: Opened, *, shard_rank: int) -> None:
    config = opened.config
    num_threads = threads_for_rank(config.runtime.threads_per_rank, ranks_here=len(world.ranks_here))
    prepare_serving(config.index.search_threads or num_threads)
    passages = load_shard(
        opened.corpus, shard_rank=shard_rank, num_shards=world.num_shards,
        max_tokens=config.data.passage_tokens,
    )  # fmt: skip

    def refuse(snapshot: bytes) -> Embed:
        raise IndexFault(damaged(opened))

    builder = Builder(
        passages,
        embed_factory=refuse,
        special=opened.tokenizer.special,
        passage_tokens=config.data.passage_tokens,
        width=opened.width,
        spec=spec_of(config.index),
        batch_tokens=config.index.embed_batch_tokens,
        num_threads=config.index.build_threads or num_threads,
        store=_StoredVersion(opened),
    )
    serve(
        world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s),
        passages=passages,
        builder=builder,
        tree=SnapshotTree.of(world),
        trainer_ranks=world.trainer_ranks,
        shard_rank=shard_rank,
        timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s,
    )


class _StoredVersion(IndexStore):
    """The store for a builder that is sent no weights: what it finds for a version is what is on disk."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(opened.index.folder, corpus_sha256=opened.corpus.digest)
        self._snapshot_sha256 = opened.snapshot_sha256

    def load(self, out_NP: np.ndarray, *, version: int, snapshot_sha256: str, start: int) -> bool:
        return super().load(out_NP, version=version, snapshot_sha256=self._snapshot_sha256, start=start)
