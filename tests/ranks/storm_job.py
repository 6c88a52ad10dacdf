"""What the ranks of test_index_storm.py do: three clients and two shards, every message late by a time of its own."""

import json
import os
from pathlib import Path

from realm_ds.comm.world import World, join_world, polled_barrier
from realm_ds.index.messages import MESSAGES
from realm_ds.index.server import serve
from realm_ds.index.tree import SnapshotTree
from tests.support.index_cases import make_builder, make_shards
from tests.support.storm import NUM_CLIENTS, PASSAGES, TIMEOUT_S, LateMailbox, weather

NUM_SHARDS = 2


def main() -> None:
    world = join_world(num_shards=NUM_SHARDS, placement="tail", timeout_s=TIMEOUT_S)
    assert world.num_trainers == NUM_CLIENTS
    mailbox = LateMailbox(world.mailbox(MESSAGES), seed=2)
    tree = SnapshotTree(trainer=world.trainer_ranks[0], embedders=world.index_ranks)
    if world.trainer_rank is not None:
        seen = weather(
            mailbox, client_rank=world.trainer_rank, index_ranks=world.index_ranks, root=tree.root,
            meet=lambda version: meet(world, version),
        )  # fmt: skip
        path = Path(os.environ["RESULTS"]) / f"{world.world_rank}.json"
        path.write_text(json.dumps(vars(seen)))
    else:
        shard = make_shards(PASSAGES, [70])[world.shard_rank or 0]
        serve(
            mailbox, passages=shard, builder=make_builder(shard), tree=tree, trainer_ranks=world.trainer_ranks,
            shard_rank=world.shard_rank or 0, timeout_s=TIMEOUT_S, build_timeout_s=TIMEOUT_S,
        )  # fmt: skip
    world.barrier(timeout_s=TIMEOUT_S, waiting_for="the others to finish")


def meet(world: World, version: int) -> None:
    polled_barrier(world.trainer_comm, timeout_s=TIMEOUT_S, waiting_for=f"the other clients at version {version}")


if __name__ == "__main__":
    main()
