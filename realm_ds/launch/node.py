"""What each process of a training run does: learn its role, then train or serve the index until the run ends."""

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from realm_ds.comm.world import World, join_world
from realm_ds.config.deepspeed import load_deepspeed
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import open_manifest
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.index.messages import MESSAGES
from realm_ds.launch.rank import as_rank
from realm_ds.observe.sinks import Sinks

log = logging.getLogger(__name__)

StageName = Literal["ict", "pretrain", "qa"]


def run_rank(name: StageName, *, config: RealmConfig, folder: Path, resume: bool) -> None:
    """One rank of a stage, from start to end. Only pre-training has index ranks."""
    num_shards = config.index.num_shards if name == "pretrain" else 0
    timeout_s = config.runtime.wait_timeout_s
    world = join_world(num_shards=num_shards, placement=config.index.placement, timeout_s=timeout_s)
    with as_rank(world, folder=folder, stage=name, threads=config.runtime.threads_per_rank) as sinks:
        if world.shard_rank is not None:
            _serve_index(world, config, folder=folder, shard_rank=world.shard_rank, sinks=sinks)
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


def _serve_index(world: World, config: RealmConfig, *, folder: Path, shard_rank: int, sinks: Sinks) -> None:
    import torch

    from realm_ds.data.batches import Tokens
    from realm_ds.index.builder import Builder
    from realm_ds.index.embedding import Embed
    from realm_ds.index.server import serve
    from realm_ds.index.shard import load_shard
    from realm_ds.index.store import IndexStore
    from realm_ds.models.towers import TokenBatch, embed
    from realm_ds.train.refresh import tower_from_snapshot
    from realm_ds.train.stage import frozen_tower

    tokenizer = load_tokenizer(config.data.tokenizer)
    manifest = open_manifest(config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
    passages = load_shard(
        config.data.corpus, manifest, shard_rank=shard_rank, num_shards=config.index.num_shards,
        max_tokens=config.data.passage_tokens,
    )  # fmt: skip
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", world.device_number % torch.cuda.device_count())
    new_tower = partial(frozen_tower, config, vocab_size=tokenizer.vocab_size)

    def embedder(snapshot: bytes) -> Embed:
        tower = tower_from_snapshot(snapshot, new_tower=new_tower).to(device)

        def embed_batch(tokens: Tokens) -> np.ndarray:
            arrays = (tokens.ids_BL, tokens.mask_BL, tokens.types_BL)
            return embed(tower, TokenBatch(*map(torch.from_numpy, arrays))).numpy()

        return embed_batch

    builder = Builder(
        passages,
        embed_factory=embedder,
        special=tokenizer.special,
        passage_tokens=config.data.passage_tokens,
        width=config.model.projection_size,
        factory=config.index.factory,
        batch_tokens=config.index.embed_batch_tokens,
        num_threads=torch.get_num_threads(),
        store=IndexStore(folder / "index", corpus_sha256=manifest.digest),
    )
    totals = serve(
        world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s),
        passages=passages,
        builder=builder,
        trainer_ranks=world.trainer_ranks,
        shard_rank=shard_rank,
        timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s,
    )
    sinks.write("done", **vars(totals))
