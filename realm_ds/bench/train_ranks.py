"""What each rank of a benchmark of training is: a rank as in production, on a core of its own.

    mpiexec -n 2 python -m mpi4py -m realm_ds.bench.train_ranks FOLDER      (processes.py starts it)

What index ranks do is launch/index_rank.py's business, what trainers measure train_jobs.py's.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from realm_ds.bench.processes import Result, read_work, write_result
from realm_ds.comm.world import World, join_world, start_mpi
from realm_ds.config.load import load
from realm_ds.config.schema import RealmConfig
from realm_ds.launch.rank import as_rank, run_as_rank
from realm_ds.observe.logs import log_path
from realm_ds.observe.notice import Notice
from realm_ds.observe.pulse import Pulse
from realm_ds.observe.sinks import Sinks

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
    log_file = log_path(folder, role=world.role, role_rank=world.role_rank)
    with (
        as_rank(world, folder=folder, stage="pretrain", threads=1) as sinks,
        Pulse(sinks, log_file, stacks_after_s=config.runtime.stacks_after_s) as pulse,
    ):
        if world.shard_rank is not None:
            from realm_ds.launch.index_rank import serve_index

            serve_index(world, config, folder=run_folder, shard_rank=world.shard_rank, tell=pulse.tell)
        else:
            result = measure(work["job"], world, config, work["options"], folder=folder, sinks=sinks, pulse=pulse)
            write_result(folder, world.trainer_rank or 0, result)
        world.barrier(timeout_s=timeout_s, waiting_for="all ranks to finish")


def keep_to_core(world_rank: int) -> None:
    """Ranks deal out the cores among them: what one of them does must not move another about."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[world_rank % len(cores)]})


def measure(
    job: str, world: World, config: RealmConfig, options: Mapping[str, Any], *, folder: Path, sinks: Sinks, pulse: Pulse
) -> Result:
    """What this trainer finds in the job of that name."""
    if job in ("resident", "saved"):
        from realm_ds.bench import memory_jobs

        return {"resident": memory_jobs.resident, "saved": memory_jobs.saved}[job](
            world, config, options, folder=folder
        )
    from realm_ds.bench import plan_jobs, train_jobs
    from realm_ds.train.stage import open_stage

    jobs: dict[str, Callable[..., Result]] = {
        "beside_bare": train_jobs.beside_bare,
        "beside_transformers": train_jobs.beside_transformers,
        "observed": train_jobs.observed,
        "plan_trained": plan_jobs.trained,
    }
    stage = open_stage(world, config, folder=Path(options["run"]), sinks=sinks, notice=Notice(), pulse=pulse)
    result = jobs[job](stage, options, folder=folder)
    stage.trainers.close()
    return result


if __name__ == "__main__":
    main()
