"""What index and builder ranks are made of: a part of the corpus, a thread that builds, a loop that speaks MPI.

Trainers are node.py's.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from realm_ds.comm.world import World
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Shards, open_shards, passage_range
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.eval.corpus import embed_with
from realm_ds.index.builder import Builder
from realm_ds.index.builder_rank import BuilderTotals, ShardRange, send_vectors
from realm_ds.index.embedding import Embed
from realm_ds.index.factory import spec_of
from realm_ds.index.messages import MESSAGES
from realm_ds.index.passages import PassageShard, load_shard
from realm_ds.index.range_embedder import RangeEmbedder, load_pieces
from realm_ds.index.server import ServeTotals, prepare_serving, serve, share_interpreter
from realm_ds.index.store import IndexStore
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.vitals import Tell
from realm_ds.models.realm import frozen_tower, tower_from_snapshot
from realm_ds.models.towers import DTYPES


def serve_index(world: World, config: RealmConfig, *, folder: Path, shard_rank: int, tell: Tell) -> ServeTotals:
    """Hold one shard of the corpus and serve it until every trainer has taken leave."""
    prepare_serving(config.index.search_threads or torch.get_num_threads())
    tokenizer, corpus = _open_corpus(config)
    passages = load_shard(
        corpus, shard_rank=shard_rank, num_shards=config.index.num_shards,
        max_tokens=config.data.passage_tokens,
    )  # fmt: skip
    builder = _builder(world, config, folder=folder, passages=passages, corpus=corpus, tokenizer=tokenizer)
    return serve(
        world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s),
        passages=passages,
        builder=builder,
        tree=SnapshotTree.of(world),
        trainer_ranks=world.trainer_ranks,
        shard_rank=shard_rank,
        timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s,
        tell=tell,
    )


def build_vectors(world: World, config: RealmConfig, *, folder: Path, builder_rank: int, tell: Tell) -> BuilderTotals:
    """Embed one range of the corpus for every version that is launched, until trainer 0 takes leave."""
    share_interpreter()
    tokenizer, corpus = _open_corpus(config)
    pieces = load_pieces(
        corpus, builder_rank=builder_rank, num_builders=world.num_builders,
        max_tokens=config.data.passage_tokens,
    )  # fmt: skip
    embedder = RangeEmbedder(
        pieces,
        embed_factory=_embed_factory(config, device=_device(world), vocab_size=tokenizer.vocab_size),
        special=tokenizer.special,
        passage_tokens=config.data.passage_tokens,
        width=config.model.projection_size,
        dtype=config.index.vectors,
        batch_tokens=config.index.embed_batch_tokens,
        num_threads=config.index.build_threads or torch.get_num_threads(),
        store=_store(config, folder=folder, corpus=corpus),
    )
    ranges = [passage_range(corpus.count, shard, world.num_shards) for shard in range(world.num_shards)]
    return send_vectors(
        world.mailbox(MESSAGES, timeout_s=config.runtime.wait_timeout_s),
        embedder=embedder,
        builder_rank=builder_rank,
        shards=[
            ShardRange(world_rank=rank, start=start, stop=stop)
            for rank, (start, stop) in zip(world.index_ranks, ranges, strict=True)
        ],
        tree=SnapshotTree.of(world),
        message_bytes=config.index.snapshot_chunk_bytes,
        timeout_s=config.runtime.wait_timeout_s,
        build_timeout_s=config.index.build_timeout_s,
        tell=tell,
    )


def _open_corpus(config: RealmConfig) -> tuple[Tokenizer, Shards]:
    tokenizer = load_tokenizer(config.data.tokenizer)
    return tokenizer, open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )


def _builder(
    world: World, config: RealmConfig, *, folder: Path, passages: PassageShard, corpus: Shards, tokenizer: Tokenizer
) -> Builder:
    device = _device(world)
    return Builder(
        passages,
        embed_factory=_embed_factory(config, device=device, vocab_size=tokenizer.vocab_size),
        special=tokenizer.special,
        passage_tokens=config.data.passage_tokens,
        width=config.model.projection_size,
        spec=spec_of(config.index),
        batch_tokens=config.index.embed_batch_tokens,
        num_threads=config.index.build_threads or torch.get_num_threads(),
        store=_store(config, folder=folder, corpus=corpus),
        device=device.index,
    )


def _store(config: RealmConfig, *, folder: Path, corpus: Shards) -> IndexStore:
    return IndexStore(folder / "index", corpus_sha256=corpus.digest, dtype=config.index.vectors)


def _embed_factory(config: RealmConfig, *, device: torch.device, vocab_size: int) -> Callable[[bytes], Embed]:
    def of_snapshot(snapshot: bytes) -> Embed:
        tower = frozen_tower(config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens)
        return embed_with(tower_from_snapshot(snapshot, tower).to(device, DTYPES[config.index.embed_dtype]))

    return of_snapshot


def _device(world: World) -> torch.device:
    """A GPU of this rank's own where there are enough, shared with a trainer where there are not."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world.device_number % torch.cuda.device_count())
