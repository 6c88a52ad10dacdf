"""What each rank of a benchmark of training is: a rank as in production, on a core of its own, and what trainers measure.

    mpiexec -n 2 python -m mpi4py -m realm_ds.bench.train_ranks FOLDER      (processes.py starts it)

What index ranks do is launch/index_rank.py's business, what trainers measure train_jobs.py's.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_ds.bench.processes import read_work, write_result
from realm_ds.comm.world import World, join_world, start_mpi
from realm_ds.config.load import load
from realm_ds.config.schema import RealmConfig
from realm_ds.launch.rank import as_rank, run_as_rank

if TYPE_CHECKING:
    from realm_ds.train.stage import Stage

MODULE = "realm_ds.bench.train_ranks"


def main() -> None:
    folder = Path(sys.argv[1])
    run_as_rank(folder, lambda: take_part(folder))


def take_part(folder: Path) -> None:
    """One rank, from joining the world to leaving it."""
    start_mpi()  # before anything that can fail
    work = read_work(folder)
    config, run_folder = load(work["options"]["config"]), Path(work["options"]["run"])
    timeout_s = config.runtime.wait_timeout_s
    world = join_world(num_shards=work["shards"], placement="tail", timeout_s=timeout_s)
    keep_to_core(world.world_rank)
    with as_rank(world, folder=folder, stage="pretrain", threads=1) as sinks:
        if world.shard_rank is not None:
            from realm_ds.launch.index_rank import serve_index

            serve_index(world, config, folder=run_folder, shard_rank=world.shard_rank)
        else:
            from realm_ds.train.stage import open_stage

            stage = open_stage(world, config, folder=run_folder, sinks=sinks)
            result = jobs()[work["job"]](stage, work["options"], folder=folder)
            write_result(folder, stage.trainers.rank, result)
            stage.trainers.close()
        world.barrier(timeout_s=timeout_s, waiting_for="all ranks to finish")


def keep_to_core(world_rank: int) -> None:
    """Ranks deal out the cores among them: what one of them does must not move another about."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[world_rank % len(cores)]})


def jobs() -> "dict[str, Callable[[Stage, Mapping[str, Any]], dict[str, Any]]]":
    """What trainers do, by name."""
    from realm_ds.bench import memory_jobs, train_jobs

    return {
        "beside_bare": train_jobs.beside_bare,
        "observed": train_jobs.observed,
        "beside_transformers": train_jobs.beside_transformers,
        "resident": memory_jobs.resident,
    }


if __name__ == "__main__":
    main()
