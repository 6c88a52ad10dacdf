"""What each process of a training run does: learn its role, then train, serve or embed until the run ends.

Heavy libraries are imported once the role is known: only trainers load DeepSpeed.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from realm_ds.comm.world import World, join_world
from realm_ds.config.base import StageName
from realm_ds.config.deepspeed import load_deepspeed
from realm_ds.config.schema import RealmConfig
from realm_ds.errors import REQUEUE, Preempted
from realm_ds.index.messages import MESSAGES
from realm_ds.index.vitals import Tell
from realm_ds.launch.failures import explain_preemption, record_preemption
from realm_ds.launch.offload import check_disk_folders
from realm_ds.launch.rank import as_rank, loading_libraries
from realm_ds.observe.logs import log_path
from realm_ds.observe.notice import Notice
from realm_ds.observe.pulse import Pulse
from realm_ds.observe.sinks import Sinks
from realm_ds.observe.trackers import open_tracker

if TYPE_CHECKING:
    from realm_ds.train.loop import Ending

log = logging.getLogger(__name__)

LAST_S = 1.0
"""Rank 0 gives the others so long to be gone: a process with much memory takes a while to end."""


def run_rank(name: StageName, *, config: RealmConfig, folder: Path, resume: bool, notice: Notice) -> None:
    """One rank of a stage, from start to end.

    Raises Preempted, on every rank, when trainers have ended early because one of them was asked to.
    """
    has_index = config.has_index_ranks(name)
    num_shards, num_builders = (config.index.num_shards, config.index.builders) if has_index else (0, 0)
    timeout_s = config.runtime.wait_timeout_s
    world = join_world(
        num_shards=num_shards, num_builders=num_builders, placement=config.index.placement, folder=folder,
        timeout_s=timeout_s,
    )  # fmt: skip
    log_file = log_path(folder, role=world.role, role_rank=world.role_rank)
    with as_rank(world, folder=folder, stage=name, threads=config.runtime.threads_per_rank) as sinks:
        with Pulse(sinks, log_file, stacks_after_s=config.runtime.stacks_after_s) as pulse:
            is_early = _work(name, world, config, folder=folder, resume=resume, sinks=sinks, notice=notice, pulse=pulse)
            is_early = world.any(is_early, timeout_s=timeout_s, waiting_for="all ranks to finish")
        sinks.write("ended")
    if is_early:
        leave_early(world, folder=folder)


def _work(
    name: StageName,
    world: World,
    config: RealmConfig,
    *,
    folder: Path,
    resume: bool,
    sinks: Sinks,
    notice: Notice,
    pulse: Pulse,
) -> bool:
    """What this rank is for. Whether it ended early: only trainers know."""
    tell = _telling(pulse, notice)
    if world.shard_rank is not None:
        with loading_libraries():
            from realm_ds.launch.index_rank import serve_index

        served = serve_index(world, config, folder=folder, shard_rank=world.shard_rank, tell=tell)
        sinks.write("done", **vars(served))
        return False
    if world.builder_rank is not None:
        with loading_libraries():
            from realm_ds.launch.index_rank import build_vectors

        sent = build_vectors(world, config, folder=folder, builder_rank=world.builder_rank, tell=tell)
        sinks.write("done", **vars(sent))
        return False
    if world.trainer_rank == 0:
        settings = config.model_dump(mode="json")
        sinks.also_to(open_tracker(config.runtime.tracker, folder, stage=name, settings=settings))
    ending = _train(name, world, config, folder=folder, resume=resume, sinks=sinks, notice=notice, pulse=pulse)
    if ending.is_early and world.trainer_rank == 0:
        sinks.write("preempted", step=ending.step, signal=notice.name)
        record_preemption(folder, step=ending.step)
        log.info("%s", explain_preemption(folder))
    return ending.is_early


def leave_early(world: World, *, folder: Path) -> NoReturn:
    """End with the code that has a batch script queue the job again: once, by the last of all ranks to go, since
    `srun -K1` kills whatever is left at the first code that is not 0, and then gives that of the killed."""
    world.leave()
    is_last = world.world_rank == 0
    if is_last:
        time.sleep(LAST_S)
    raise Preempted(explain_preemption(folder), exit_code=REQUEUE if is_last else 0)


def _telling(pulse: Pulse, notice: Notice) -> Tell:
    """For index and builder ranks, that go on until the trainers take leave, whatever they were asked."""
    said: list[str] = []

    def tell(**figures: float) -> None:
        pulse.tell(**figures)
        if notice.is_given and not said:
            said.append(notice.name)
            log.info("%s: this rank goes on until the trainers take leave", notice.name)

    return tell


def _train(
    name: StageName,
    world: World,
    config: RealmConfig,
    *,
    folder: Path,
    resume: bool,
    sinks: Sinks,
    notice: Notice,
    pulse: Pulse,
) -> "Ending":
    sinks.write("doing", text="loading torch, transformers and DeepSpeed")
    with loading_libraries():
        from realm_ds.train.stage import open_stage

    sinks.write("doing", text="setting up the model and its optimizer")
    stage = open_stage(world, config, folder=folder, sinks=sinks, notice=notice, pulse=pulse)
    deepspeed_json = load_deepspeed(config.runtime.deepspeed)
    check_disk_folders(deepspeed_json)
    mailbox = None
    if config.has_index_ranks(name):
        mailbox = world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s)
    if name == "pretrain":
        from realm_ds.train.pretrain import pretrain

        assert mailbox is not None
        ending = pretrain(stage, mailbox, deepspeed_json=deepspeed_json, resume=resume)
    elif name == "ict":
        from realm_ds.train.ict import train_ict

        ending = train_ict(stage, deepspeed_json=deepspeed_json, resume=resume)
    else:
        from realm_ds.train.qa import train_qa

        ending = train_qa(stage, mailbox, deepspeed_json=deepspeed_json, resume=resume)
    stage.writer.close()
    stage.trainers.close()
    return ending
