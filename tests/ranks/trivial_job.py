"""What the ranks of test_local.py do: `python -m mpi4py -m tests.ranks.trivial_job MODE FOLDER`."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from realm_ds.comm.world import World
from realm_ds.errors import DataError
from realm_ds.files import write_durably
from realm_ds.launch.failures import record_preemption
from realm_ds.launch.node import leave_early
from realm_ds.launch.rank import as_rank, run_as_rank
from realm_ds.observe.notice import Notice
from realm_ds.sealed import MANIFEST
from realm_ds.train.manifest import step_folder


def job(mode: str, folder: Path) -> None:
    from realm_ds.comm.world import join_world

    if mode == "fail-before-joining":
        raise DataError("corpus /none is absent; make it")
    world = join_world(num_shards=1, placement="tail", timeout_s=20)
    with as_rank(world, folder=folder, stage="ict", threads=1) as sinks:
        sinks.write("step", step=1, steps=1, loss=0.5)
        print(f"{world.role} is here")
        world.barrier(timeout_s=20, waiting_for="all to be ready")
        if mode == "well":
            subprocess.Popen(["sleep", "600"])
            return
        if mode == "leaves":
            _leave_when_asked(world, folder)
        if world.world_rank == 1:
            _fail(mode)
        _wait_for_ever(mode, folder / f"waiting-{world.world_rank}")


def _leave_when_asked(world: World, folder: Path) -> None:
    """As a run of training does."""
    notice = Notice().listen()
    (folder / f"waiting-{world.world_rank}").touch()
    while not notice.is_given:
        time.sleep(0.05)
    if world.world_rank == 0:
        write_durably(step_folder(folder, 3) / MANIFEST, "{}")
        record_preemption(folder, step=3)
    world.barrier(timeout_s=20, waiting_for="all ranks to finish")
    leave_early(world, folder=folder)


def _fail(mode: str) -> None:
    if mode == "data-error":
        raise DataError("shard-00003.tar is damaged; make it again")
    if mode == "bug":
        raise ValueError("boom")
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "crashed":
        os.abort()
    if mode == "exits":
        sys.exit(5)


def _wait_for_ever(mode: str, ready: Path) -> None:
    """With a child of its own, that must not be left either; a stubborn rank does not end when asked."""
    subprocess.Popen(["sleep", "600"])
    if mode == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asked_to_end: list[int] = []
    if mode == "saves":
        signal.signal(signal.SIGTERM, lambda number, frame: asked_to_end.append(number))
    ready.touch()
    while not asked_to_end:
        time.sleep(0.05)


if __name__ == "__main__":
    run_as_rank(Path(sys.argv[2]), partial(job, sys.argv[1], Path(sys.argv[2])))
