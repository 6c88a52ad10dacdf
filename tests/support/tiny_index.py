"""Towers without training, as an export and as a run has them, for the tests of the verbs on an index."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save

from realm_ds.config.load import dump
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval.corpus import embed_with
from realm_ds.index.embedding import ShardEmbedder
from realm_ds.index.passages import load_shard
from realm_ds.index.store import IndexStore, version_folder, write_snapshot
from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.train.export import write_models
from tests.support.tiny import make_data, tiny_config


def make_model(config: RealmConfig, *, seed: int) -> RealmModel:
    """Two towers of random weights that tell passages apart, and are not the same."""
    vocab_size = load_tokenizer(config.data.tokenizer).vocab_size
    realm = build_model(config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens, seed=seed)
    with torch.no_grad():
        for weight in realm.query_tower.parameters():
            weight += 0.01 * torch.randn_like(weight)
    return realm.eval()


def make_export(folder: Path, config: RealmConfig, *, seed: int = 3) -> Path:
    """What `realm-ds export` writes of the networks and the tokenizer."""
    write_models(make_model(config, seed=seed), folder, tokenizer_folder=config.data.tokenizer)
    return folder


def make_ground(folder: Path, **changes: object) -> RealmConfig:
    """data/, config.yaml and export/ in `folder`; returns the settings."""
    make_data(folder / "data")
    config = tiny_config(folder / "data", **{"model.start": "narrow", **changes})
    (folder / "config.yaml").write_text(dump(config))
    make_export(folder / "export", config)
    return config


def make_run(folder: Path, config: RealmConfig, *, version: int = 2, num_shards: int = 2) -> Path:
    """A run folder with one index version, as trainers and index ranks leave it."""
    realm = make_model(config, seed=5)
    passage = {name: value.detach() for name, value in realm.passage_tower.state_dict().items()}
    query = {name: value.detach() for name, value in realm.query_tower.state_dict().items()}
    state = {f"{PASSAGE_TOWER}.{name}": value for name, value in passage.items()}
    state |= {f"{QUERY_TOWER}.{name}": value for name, value in query.items()}
    place = version_folder(folder / "index", version)
    place.mkdir(parents=True)
    write_snapshot(place.parent, version, save(state, metadata={"step": str(3 * version)}), step=3 * version)
    (folder / "config.yaml").write_text(dump(config))
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint)
    store = IndexStore(folder / "index", corpus_sha256=corpus.digest, dtype=config.index.vectors)
    for shard_rank in range(num_shards):
        passages = load_shard(corpus, shard_rank=shard_rank, num_shards=num_shards)
        embedder = ShardEmbedder(passages, special=tokenizer.special, passage_tokens=32, batch_tokens=512, width=16)
        vectors_NP = torch.empty(len(passages), 16).numpy()
        for _ in embedder.run(embed_with(realm.passage_tower), vectors_NP):
            pass
        sha256 = hashlib.sha256(save(passage)).hexdigest()
        store.save(vectors_NP, version=version, snapshot_sha256=sha256, start=passages.start)
    return folder
