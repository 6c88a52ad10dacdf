"""What each rank of a benchmark's world is: an index rank as in production, or a client with a job to measure.

    mpiexec -n 3 python -m mpi4py -m realm_ds.bench.ranks FOLDER      (processes.py starts it)

Index ranks hold numbered passages; their vectors come by snapshot, as in production: one that holds a seed gives every
passage the vector of its place (corpora.py), one that holds weights is a tower.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_ds.bench.processes import read_work, write_result
from realm_ds.comm.world import World, join_world
from realm_ds.data.shards import passage_range
from realm_ds.launch.failures import record_rank
from realm_ds.launch.rank import limit_threads, run_as_rank
from realm_ds.observe.logs import start_logs

if TYPE_CHECKING:
    from realm_ds.bench.client import Desk
    from realm_ds.data.batches import Tokens
    from realm_ds.index.embedding import Embed

TIMEOUT_S = 900.0


def main() -> None:
    folder = Path(sys.argv[1])
    run_as_rank(folder, lambda: take_part(folder))


def take_part(folder: Path) -> None:
    """One rank, from joining the world to leaving it."""
    work = read_work(folder)
    world = join_world(num_shards=work["shards"], placement="tail", timeout_s=TIMEOUT_S)
    options = work["options"]
    # Before FAISS and torch are loaded, which read the environment.
    limit_threads(options.get("raw_threads", 1) if world.trainer_rank == 0 else 1)
    start_logs(folder, role=world.role, role_rank=world.role_rank, leads=False)
    record_rank(folder, world_rank=world.world_rank, role=world.role, role_rank=world.role_rank, host=world.hostname)
    if world.shard_rank is not None:
        serve_numbered(world, options, shard_rank=world.shard_rank)
    else:
        _measure(world, work["job"], options, folder=folder)
    world.barrier(timeout_s=TIMEOUT_S, waiting_for="all ranks to finish")


def serve_numbered(world: World, options: Mapping[str, Any], *, shard_rank: int) -> None:
    """One shard of `passages` numbered passages of `tokens` wordpieces, until all clients have left."""
    from realm_ds.bench.corpora import BLOCK, PLACE_TOKENS, SPECIAL, numbered_passages
    from realm_ds.index.builder import Builder
    from realm_ds.index.embedding import SPECIAL_TOKENS
    from realm_ds.index.factory import IndexSpec
    from realm_ds.index.messages import MESSAGES
    from realm_ds.index.server import prepare_serving, serve
    from realm_ds.index.tree import SnapshotTree

    prepare_serving(1)
    start, stop = passage_range(options["passages"], shard_rank, world.num_shards)
    passages = numbered_passages(start, stop, tokens=options["tokens"])
    tower = options.get("tower")
    seen = options["tokens"] if tower else min(options["tokens"], PLACE_TOKENS)
    passage_tokens = seen + SPECIAL_TOKENS
    builder = Builder(
        passages, embed_factory=_embed_factory(options, seen=seen), special=SPECIAL, passage_tokens=passage_tokens,
        width=options["width"], spec=IndexSpec(),
        batch_tokens=tower["batch_tokens"] if tower else BLOCK * passage_tokens, num_threads=1, store=None,
    )  # fmt: skip
    serve(
        world.mailbox(MESSAGES, timeout_s=TIMEOUT_S), passages=passages, builder=builder,
        trainer_ranks=world.trainer_ranks, shard_rank=shard_rank, tree=SnapshotTree.of(world), timeout_s=TIMEOUT_S,
        build_timeout_s=TIMEOUT_S,
    )  # fmt: skip


def _embed_factory(options: Mapping[str, Any], *, seen: int) -> "Callable[[bytes], Embed]":
    from realm_ds.bench.corpora import VectorsOf, embed_places, seed_in

    def of_snapshot(data: bytes) -> "Callable[[Tokens], Any]":
        seed = seed_in(data)
        if seed is not None:
            return embed_places(VectorsOf(seed=seed, width=options["width"]), tokens=seen)
        from realm_ds.bench.towers import embed_by

        return embed_by(data, options["tower"], width=options["width"])

    return of_snapshot


def _measure(world: World, job: str, options: Mapping[str, Any], *, folder: Path) -> None:
    from realm_ds.bench.client import Desk
    from realm_ds.index.tree import SnapshotTree

    with Desk(world, options, folder=folder, tree=SnapshotTree.of(world), timeout_s=TIMEOUT_S) as desk:
        result = jobs()[job](desk, options)
    write_result(folder, desk.number, result)


def jobs() -> "dict[str, Callable[[Desk, Mapping[str, Any]], dict[str, Any]]]":
    """What clients do, by name."""
    from realm_ds.bench import refresh_jobs, scale_jobs, search_jobs

    return {
        "throughput": search_jobs.throughput,
        "overhead": search_jobs.overhead,
        "latency": search_jobs.latency,
        "serving": refresh_jobs.serving,
        "swap": refresh_jobs.swap,
        "cost": scale_jobs.cost,
    }


if __name__ == "__main__":
    main()
