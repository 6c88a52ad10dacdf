"""What each process of a training run does: learn its role, then train, serve or embed until the run ends.

Heavy libraries are imported once the role is known: only trainers load DeepSpeed.
"""

from pathlib import Path

from realm_ds.comm.world import World, join_world
from realm_ds.config.base import StageName
from realm_ds.config.deepspeed import load_deepspeed
from realm_ds.config.schema import RealmConfig
from realm_ds.index.messages import MESSAGES
from realm_ds.launch.rank import as_rank
from realm_ds.observe.sinks import Sinks


def run_rank(name: StageName, *, config: RealmConfig, folder: Path, resume: bool) -> None:
    """One rank of a stage, from start to end. Only pre-training has other ranks than trainers."""
    num_shards, num_builders = (config.index.num_shards, config.index.builders) if name == "pretrain" else (0, 0)
    timeout_s = config.runtime.wait_timeout_s
    world = join_world(
        num_shards=num_shards, num_builders=num_builders, placement=config.index.placement, timeout_s=timeout_s
    )
    with as_rank(world, folder=folder, stage=name, threads=config.runtime.threads_per_rank) as sinks:
        if world.shard_rank is not None:
            from realm_ds.launch.index_rank import serve_index

            served = serve_index(world, config, folder=folder, shard_rank=world.shard_rank)
            sinks.write("done", **vars(served))
        elif world.builder_rank is not None:
            from realm_ds.launch.index_rank import build_vectors

            sent = build_vectors(world, config, folder=folder, builder_rank=world.builder_rank)
            sinks.write("done", **vars(sent))
        else:
            _train(name, world, config, folder=folder, resume=resume, sinks=sinks)
        world.barrier(timeout_s=timeout_s, waiting_for="all ranks to finish")


def _train(name: StageName, world: World, config: RealmConfig, *, folder: Path, resume: bool, sinks: Sinks) -> None:
    from realm_ds.train.stage import open_stage

    stage = open_stage(world, config, folder=folder, sinks=sinks)
    deepspeed_json = load_deepspeed(config.runtime.deepspeed)
    if name == "pretrain":
        from realm_ds.train.pretrain import pretrain

        mailbox = world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s)
        pretrain(stage, mailbox, deepspeed_json=deepspeed_json, resume=resume)
    elif name == "ict":
        from realm_ds.train.ict import train_ict

        train_ict(stage, deepspeed_json=deepspeed_json, resume=resume)
    else:
        from realm_ds.train.qa import train_qa

        train_qa(stage, deepspeed_json=deepspeed_json, resume=resume)
    stage.trainers.close()
