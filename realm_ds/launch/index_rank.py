"""What an index rank is made of: a shard of the corpus, the builder thread, the server loop. Trainers are node.py's."""

from collections.abc import Callable
from pathlib import Path

import torch

from realm_ds.comm.world import World
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Manifest, open_manifest
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.eval.corpus import embed_with
from realm_ds.index.builder import Builder
from realm_ds.index.embedding import Embed
from realm_ds.index.factory import spec_of
from realm_ds.index.messages import MESSAGES
from realm_ds.index.passages import PassageShard, load_shard
from realm_ds.index.server import ServeTotals, serve
from realm_ds.index.store import IndexStore
from realm_ds.index.tree import SnapshotTree
from realm_ds.models.realm import frozen_tower, tower_from_snapshot


def serve_index(world: World, config: RealmConfig, *, folder: Path, shard_rank: int) -> ServeTotals:
    """Hold one shard of the corpus and serve it until every trainer has taken leave."""
    tokenizer = load_tokenizer(config.data.tokenizer)
    manifest = open_manifest(config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
    passages = load_shard(
        config.data.corpus, manifest, shard_rank=shard_rank, num_shards=config.index.num_shards,
        max_tokens=config.data.passage_tokens,
    )  # fmt: skip
    return serve(
        world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s),
        passages=passages,
        builder=_builder(world, config, folder=folder, passages=passages, manifest=manifest, tokenizer=tokenizer),
        tree=SnapshotTree(trainer=world.trainer_ranks[0], embedders=world.index_ranks),
        trainer_ranks=world.trainer_ranks,
        shard_rank=shard_rank,
        timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s,
    )


def _builder(
    world: World, config: RealmConfig, *, folder: Path, passages: PassageShard, manifest: Manifest, tokenizer: Tokenizer
) -> Builder:
    return Builder(
        passages,
        embed_factory=_embed_factory(config, device=_device(world), vocab_size=tokenizer.vocab_size),
        special=tokenizer.special,
        passage_tokens=config.data.passage_tokens,
        width=config.model.projection_size,
        spec=spec_of(config.index),
        batch_tokens=config.index.embed_batch_tokens,
        num_threads=torch.get_num_threads(),
        store=IndexStore(folder / "index", corpus_sha256=manifest.digest, dtype=config.index.vectors),
    )


def _embed_factory(config: RealmConfig, *, device: torch.device, vocab_size: int) -> Callable[[bytes], Embed]:
    def of_snapshot(snapshot: bytes) -> Embed:
        tower = frozen_tower(config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens)
        return embed_with(tower_from_snapshot(snapshot, tower).to(device))

    return of_snapshot


def _device(world: World) -> torch.device:
    """A GPU of this rank's own where there are enough, shared with a trainer where there are not."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world.device_number % torch.cuda.device_count())
