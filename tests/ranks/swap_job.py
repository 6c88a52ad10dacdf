"""What the ranks of test_index_service.py do: two trainers search while two index ranks build dozens of versions.

`EMBED_SLEEP_S` in the environment makes embedding slower, `BREAK_VERSION` breaks the build of one version.
Every answer is compared with brute force over the vectors of its version; what a rank counted goes to a file of its
own in the folder `RESULTS`.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from realm_ds.comm.world import World, join_world, polled_barrier
from realm_ds.config.index import RefreshConfig
from realm_ds.data.batches import Tokens
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_passages
from realm_ds.index.messages import MESSAGES
from realm_ds.index.server import serve
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.versions import Schedule
from tests.support.index_cases import (
    WIDTH,
    check_candidates,
    fake_embed,
    make_builder,
    make_passages,
    make_shards,
    send_snapshot,
    snapshot_of,
    vectors_of,
)

NUM_VERSIONS, EVERY_STEPS, ADOPT_AFTER_STEPS, SEARCH_AHEAD = 40, 3, 2, 2
NUM_STEPS = NUM_VERSIONS * EVERY_STEPS
SCHEDULE = Schedule(RefreshConfig(every_steps=EVERY_STEPS, adopt_after_steps=ADOPT_AFTER_STEPS))
SEARCHES_PER_STEP, NUM_QUERIES, NUM_HITS = 3, 6, 5
TIMEOUT_S = 60.0
PASSAGES = make_passages(list(range(1000, 1150)))


def index_rank(world: World) -> None:
    start, stop = (0, 60) if world.shard_rank == 0 else (60, len(PASSAGES))
    shard = make_shards(PASSAGES, [60])[world.shard_rank or 0]
    assert (shard.start, shard.stop) == (start, stop)
    totals = serve(
        world.mailbox(MESSAGES), passages=shard, builder=make_builder(shard, embed_factory=embed_factory),
        tree=tree_of(world), trainer_ranks=world.trainer_ranks, shard_rank=world.shard_rank or 0, timeout_s=TIMEOUT_S,
        build_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    tell(world, {"shard": world.shard_rank, "searches": totals.searches, "built": totals.versions_built})


def tree_of(world: World) -> SnapshotTree:
    return SnapshotTree(trainer=world.trainer_ranks[0], embedders=world.index_ranks)


def embed_factory(snapshot: bytes) -> Callable[[Tokens], np.ndarray]:
    if snapshot == snapshot_of(int(os.environ.get("BREAK_VERSION", "-1"))):
        raise ValueError("weights of another model")
    embed = fake_embed(snapshot)

    def slowly(tokens: Tokens) -> np.ndarray:
        time.sleep(float(os.environ.get("EMBED_SLEEP_S", "0")))  # The work of a real tower, which lets go of the GIL.
        return embed(tokens)

    return slowly


def trainer(world: World) -> None:
    mailbox = world.mailbox(MESSAGES)
    client = IndexClient(mailbox, index_ranks=world.index_ranks, timeout_s=TIMEOUT_S, build_timeout_s=TIMEOUT_S)
    vectors = [vectors_of(PASSAGES, version) for version in range(NUM_VERSIONS)]
    requests: dict[int, list[int]] = {}
    digest, finished = hashlib.sha256(), 0
    for step in range(NUM_STEPS):
        version = SCHEDULE.launch_at(step)
        if version is not None and world.trainer_rank == 0:
            send_snapshot(mailbox, version, to=tree_of(world).root)
        for ahead in range(step + SEARCH_AHEAD + 1):
            if ahead not in requests and ahead < NUM_STEPS:
                requests[ahead] = submit(client, world, step=ahead)
        for number, request in enumerate(requests[step]):
            candidates = client.collect(request)
            queries, exclude = queries_of(world, step, number)
            check_candidates(candidates, PASSAGES, vectors[candidates.version], queries, exclude.tolist())
            digest.update(candidates.uids_BK.tobytes())
        finished += sum(report.passages_done == report.passages_total for _, report in client.build_reports())
        # Trainers go in step, as gradients make them do.
        polled_barrier(world.trainer_comm, timeout_s=TIMEOUT_S, waiting_for=f"the other trainer at step {step}")
    client.close()
    counted = {"trainer": world.trainer_rank, "digest": digest.hexdigest(), "finished": finished}
    tell(world, counted | vars(client.totals))


def tell(world: World, counted: dict[str, object]) -> None:
    # A file for each rank: launchers join the lines that ranks print at the same time.
    (Path(os.environ["RESULTS"]) / f"{world.world_rank}.json").write_text(json.dumps(counted))


def queries_of(world: World, step: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([world.trainer_rank or 0, step, number])
    queries = random.integers(-3, 4, size=(NUM_QUERIES, WIDTH)).astype(np.float32)
    return queries, random.choice([0, *(passage.uid for passage in PASSAGES)], size=NUM_QUERIES)


def submit(client: IndexClient, world: World, *, step: int) -> list[int]:
    version = SCHEDULE.version_at(step)
    requests = []
    for number in range(SEARCHES_PER_STEP):
        queries, exclude = queries_of(world, step, number)
        requests.append(
            client.submit(queries, exclusion=exclude_passages(exclude), num_hits=NUM_HITS, step=step, version=version)
        )
    return requests


def main() -> None:
    world = join_world(num_shards=2, placement="tail", timeout_s=TIMEOUT_S)
    (trainer if world.role == "trainer" else index_rank)(world)
    world.barrier(timeout_s=TIMEOUT_S, waiting_for="the others to finish")


if __name__ == "__main__":
    main()
