"""A checkpoint as folders that other programs open: transformers models, the tokenizer, vectors and passages, a card.

    export/{query_tower, passage_tower, encoder, tokenizer}/    index/version-00000/    passages/    README.md

Needs no GPU and no other process: weights are consolidated from the ZeRO shards of any stage.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent

import torch
from torch import Tensor

from realm_ds.config.load import RUN_CONFIG, dump, load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.files import publish_folder, recover_folder
from realm_ds.index.passages import load_shard
from realm_ds.index.store import IndexStore
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER, strip_prefix
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import Embedder
from realm_ds.train import checkpoint
from realm_ds.train.consolidate import consolidate
from realm_ds.train.stage import starting_model

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
EXPORTED_VERSION = 0
"""The index of an export is of its own towers; it has one version."""
Say = Callable[[str], None]


def export_run(run_folder: Path, *, step: int | None, out: Path | None, say: Say = log.info) -> Path:
    """Export a run's checkpoint (the newest, or that of `step`) to `out`, by default RUN/export; returns the folder.

    Raises CheckpointError if there is none or it is damaged. `out` appears whole or not at all; an older export there
    is replaced, anything else is left alone (ConfigError).
    """
    out = out or run_folder / "export"
    recover_folder(out)
    if out.exists() and not ((out / MANIFEST).is_file() and (out / QUERY_TOWER).is_dir()):
        raise ConfigError(f"{out} is there and is no export, so it is not overwritten: name another folder with --out")
    config = load(run_folder / RUN_CONFIG)
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )
    source = checkpoint.find(run_folder, step)
    unfinished = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        say(f"consolidating {source}")
        weights = strip_prefix(consolidate(source), "model")
        realm = fill(unfilled(config, vocab_size=tokenizer.vocab_size), weights)
        write_models(realm, unfinished, tokenizer_folder=config.data.tokenizer)
        say(f"embedding {corpus.count} passages")
        _write_index(realm.passage_tower, unfinished, config=config, corpus=corpus, tokenizer=tokenizer)
        (unfinished / "README.md").write_text(_card(config, corpus, source, realm), encoding="utf-8")
        _write_manifest(unfinished, source=source)
        publish_folder(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def write_models(realm: RealmModel, folder: Path, *, tokenizer_folder: Path) -> None:
    """The three networks and the tokenizer; every model folder has the tokenizer too, so that it opens alone."""
    realm.query_tower.save(folder / QUERY_TOWER)
    realm.passage_tower.save(folder / PASSAGE_TOWER)
    realm.encoder.save(folder / ENCODER)
    for name in (QUERY_TOWER, PASSAGE_TOWER, ENCODER, "tokenizer"):
        shutil.copytree(tokenizer_folder, folder / name, dirs_exist_ok=True)


def unfilled(config: RealmConfig, *, vocab_size: int) -> RealmModel:
    """The model of a run, on the CPU, with weights that mean nothing."""
    fresh = config.model_copy(update={"model": config.model.model_copy(update={"start_from": None})})
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten, and a run may go on
        return starting_model(fresh, vocab_size=vocab_size).eval()


def fill(realm: RealmModel, weights: Mapping[str, Tensor]) -> RealmModel:
    """The model with these weights; a tower that is shared may be there once, under its first name.

    Raises CheckpointError if they are of another model.
    """
    state = dict(weights)
    if realm.shares_towers:
        tower = strip_prefix(state, QUERY_TOWER)
        state |= {f"{PASSAGE_TOWER}.{name}": value for name, value in tower.items()}
    try:
        realm.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not hold the model of {RUN_CONFIG}: {error}") from error
    return realm


def _write_index(tower: Embedder, folder: Path, *, config: RealmConfig, corpus: Shards, tokenizer: Tokenizer) -> None:
    """Vectors by the exported passage tower, and the passages that they are of."""
    from realm_ds.train.recall import (
        embed_passages,  # and faiss with it, which trainers, who write models too, need not
    )

    passages = load_shard(corpus, shard_rank=0, num_shards=1, max_tokens=config.data.passage_tokens)
    vectors_NP = embed_passages(tower, passages, config=config, special=tokenizer.special)
    weights = (folder / PASSAGE_TOWER / "model.safetensors").read_bytes()
    store = IndexStore(folder / "index", corpus_sha256=corpus.digest)
    store.save(vectors_NP, version=EXPORTED_VERSION, snapshot_sha256=hashlib.sha256(weights).hexdigest(), start=0)
    corpus.copy_to(folder / "passages")


def _write_manifest(folder: Path, *, source: Path) -> None:
    sums = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            sums[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / MANIFEST).write_text(json.dumps({"source": str(source), "sha256": sums}, indent=1) + "\n")


def _card(config: RealmConfig, corpus: Shards, source: Path, realm: RealmModel) -> str:
    num_parameters = sum(parameter.numel() for parameter in realm.parameters())
    settings = indent(dump(config), "    ")
    return f"""---
library_name: transformers
tags: [realm, retrieval, fill-mask]
---
# REALM: {num_parameters / 1e6:.1f} million parameters, {corpus.count} passages

Made by `realm-ds export` from `{source.name}` of a run with {"shared" if realm.shares_towers else "separate"} towers.

| folder | what it is | opens with |
|---|---|---|
| `{QUERY_TOWER}`, `{PASSAGE_TOWER}` | BERT of each tower; `projection.safetensors` holds W, b and the LayerNorm | \
`AutoModel`; whole: `realm_ds.models.towers.Embedder.load` |
| `{ENCODER}` | knowledge-augmented encoder, [CLS] x [SEP] passage [SEP] | `AutoModelForMaskedLM` |
| `tokenizer` | WordPiece, also in each model folder | `AutoTokenizer` |
| `index` | float32 vectors of all passages, in the order of the tar shards | `numpy.load` |
| `passages` | the corpus as WebDataset tar shards | `webdataset.WebDataset` |

A vector is LayerNorm(W pooler_output + b); a passage's score for a query is their inner product.
Corpus: {corpus.manifest.source}. Every file's sha256 is in `{MANIFEST}`. Torch {torch.__version__}. The settings of the
run:

{settings}
"""
