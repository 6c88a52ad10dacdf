"""What the ranks of test_builder_ranks.py do: one trainer searches while builder ranks embed and shards serve.

`NUM_BUILDERS` and `NUM_SHARDS` in the environment say how many; `EMBED_SLEEP_S` makes embedding slower, `BREAK_VERSION`
breaks it in one version. Every answer is compared with brute force over the vectors of its version; what a rank counted
goes to a file of its own in the folder `RESULTS`.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from realm_ds.comm.world import World, join_world
from realm_ds.data.batches import Tokens
from realm_ds.data.shards import passage_range
from realm_ds.index.builder_rank import ShardRange, send_vectors
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_passages
from realm_ds.index.messages import MESSAGES
from realm_ds.index.passages import PassageShard
from realm_ds.index.range_embedder import RangeEmbedder
from realm_ds.index.server import serve
from realm_ds.index.tree import SnapshotTree
from tests.support.index_cases import (
    SPECIAL,
    WIDTH,
    check_candidates,
    fake_embed,
    make_builder,
    make_passages,
    send_snapshot,
    snapshot_of,
    vectors_of,
)

NUM_BUILDERS, NUM_SHARDS = int(os.environ.get("NUM_BUILDERS", "2")), int(os.environ.get("NUM_SHARDS", "2"))
NUM_VERSIONS, EVERY_STEPS, ADOPT_AFTER_STEPS, SEARCH_AHEAD = 25, 3, 2, 2
NUM_STEPS = NUM_VERSIONS * EVERY_STEPS
NUM_QUERIES, NUM_HITS = 6, 5
PIECE_PASSAGES, MESSAGE_BYTES = 8, 5 * 4 * WIDTH
TIMEOUT_S = 60.0
PASSAGES = make_passages(list(range(1000, 1150)))


def tree_of(world: World) -> SnapshotTree:
    return SnapshotTree.of(world)


def index_rank(world: World, shard_rank: int) -> None:
    start, stop = passage_range(len(PASSAGES), shard_rank, NUM_SHARDS)
    shard = PassageShard.from_passages(PASSAGES[start:stop], start=start)
    totals = serve(
        world.mailbox(MESSAGES), passages=shard, builder=make_builder(shard, embed_factory=embeds_nothing),
        tree=tree_of(world), trainer_ranks=world.trainer_ranks, shard_rank=shard_rank, timeout_s=TIMEOUT_S,
        build_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    tell(world, asdict(totals))


def embeds_nothing(snapshot: bytes) -> Callable[[Tokens], np.ndarray]:
    raise AssertionError("a shard embeds although there are builders")


def builder_rank(world: World, number: int) -> None:
    start, stop = passage_range(len(PASSAGES), number, NUM_BUILDERS)
    cuts = range(PIECE_PASSAGES, stop - start, PIECE_PASSAGES)
    pieces = [
        PassageShard.from_passages(PASSAGES[start + first : start + last], start=start + first)
        for first, last in zip([0, *cuts], [*cuts, stop - start], strict=True)
    ]
    embedder = RangeEmbedder(
        pieces, embed_factory=embed_factory, special=SPECIAL, passage_tokens=64, width=WIDTH, dtype="fp32",
        batch_tokens=128, num_threads=1, store=None,
    )  # fmt: skip
    ranges = [passage_range(len(PASSAGES), shard, NUM_SHARDS) for shard in range(NUM_SHARDS)]
    totals = send_vectors(
        world.mailbox(MESSAGES), embedder=embedder, builder_rank=number, tree=tree_of(world),
        shards=[
            ShardRange(world_rank=rank, start=start, stop=stop)
            for rank, (start, stop) in zip(world.index_ranks, ranges, strict=True)
        ],
        message_bytes=MESSAGE_BYTES, timeout_s=TIMEOUT_S, build_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    tell(world, asdict(totals))


def embed_factory(snapshot: bytes) -> Callable[[Tokens], np.ndarray]:
    if snapshot == snapshot_of(int(os.environ.get("BREAK_VERSION", "-1"))):
        raise ValueError("weights of another model")
    embed = fake_embed(snapshot)

    def slowly(tokens: Tokens) -> np.ndarray:
        time.sleep(float(os.environ.get("EMBED_SLEEP_S", "0")))  # The work of a real tower, which lets go of the GIL.
        return embed(tokens)

    return slowly


def trainer(world: World) -> None:
    mailbox, tree = world.mailbox(MESSAGES), tree_of(world)
    client = IndexClient(
        mailbox, index_ranks=world.index_ranks, builder_ranks=world.builder_ranks, timeout_s=TIMEOUT_S,
        build_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    requests: dict[int, int] = {}
    finished: dict[int, list[int]] = {rank: [] for rank in tree.ranks}
    for step in range(NUM_STEPS):
        if step % EVERY_STEPS == 0:
            send_snapshot(mailbox, step // EVERY_STEPS, to=tree.root)
        for ahead in range(step, min(step + SEARCH_AHEAD + 1, NUM_STEPS)):
            if ahead not in requests:
                queries, exclude = queries_of(ahead)
                requests[ahead] = client.submit(
                    queries, exclusion=exclude_passages(exclude), num_hits=NUM_HITS, step=ahead,
                    version=version_at(ahead),
                )  # fmt: skip
        candidates = client.collect(requests[step])
        assert candidates.version == version_at(step)
        queries, exclude = queries_of(step)
        check_candidates(candidates, PASSAGES, vectors_of(PASSAGES, candidates.version), queries, exclude.tolist())
        for rank, report in client.build_reports():
            if report.passages_done == report.passages_total:
                finished[rank].append(report.version)
    client.close()
    totals = client.totals
    tell(
        world, {"searches": totals.searches, "finished": [finished[rank] for rank in tree.ranks],
                "wrong": totals.mixed_version_replies + totals.strangers},
    )  # fmt: skip


def version_at(step: int) -> int:
    return max(0, (step - ADOPT_AFTER_STEPS) // EVERY_STEPS)


def queries_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(step)
    queries = random.integers(-3, 4, size=(NUM_QUERIES, WIDTH)).astype(np.float32)
    return queries, random.choice([0, *(passage.uid for passage in PASSAGES)], size=NUM_QUERIES)


def tell(world: World, counted: dict[str, object]) -> None:
    # A file for each rank: launchers join the lines that ranks print at the same time.
    path = Path(os.environ["RESULTS"]) / f"{world.role}-{world.role_rank}.json"
    path.write_text(json.dumps(counted))


def main() -> None:
    world = join_world(num_shards=NUM_SHARDS, num_builders=NUM_BUILDERS, placement="tail", timeout_s=TIMEOUT_S)
    if world.shard_rank is not None:
        index_rank(world, world.shard_rank)
    elif world.builder_rank is not None:
        builder_rank(world, world.builder_rank)
    else:
        trainer(world)
    world.barrier(timeout_s=TIMEOUT_S, waiting_for="the others to finish")


if __name__ == "__main__":
    main()
