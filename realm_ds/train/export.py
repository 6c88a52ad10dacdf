"""A run's weights as folders that other programs open: models, the tokenizer, vectors and passages, a card.

    export/{query_tower, passage_tower, encoder, tokenizer}/    index/version-00000/    passages/    README.md

Needs no GPU and no other process. In memory are the models, once, then a part of the corpus, but that a file for faiss
takes all vectors at once. Which weights is export_source.py's business, how they are written export_networks.py's, what
the card says export_card.py's.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from realm_ds.config.load import RUN_CONFIG, load
from realm_ds.config.schema import RealmConfig
from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER, strip_prefix
from realm_ds.models.realm import RealmModel
from realm_ds.models.tokenizer_files import copy_tokenizer
from realm_ds.models.towers import DTYPES, Embedder
from realm_ds.models.weights import WEIGHTS_FILE
from realm_ds.sealed import recover_sealed, sealed_folder, sha256
from realm_ds.train.manifest import refuse_unfinished

log = logging.getLogger(__name__)

KIND = "export"
FAISS_FILE = "index.faiss"
EMBEDDED_AT_ONCE = 65_536
"""Passages whose tokens and vectors are in memory."""
REMEDY = "free space there, or name another folder with --out"
Say = Callable[[str], None]
Dtype = Literal["fp32", "bf16", "fp16"]
Layout = Literal["realm", "hf-realm", "sentence-transformers"]


def export_run(
    run_folder: Path, *, step: int | Literal["best", "latest"] = "latest", out: Path | None = None,
    dtype: Dtype = "fp32", layout: Layout = "realm", verify: bool = False, faiss_file: bool = False,
    licence: str = "unknown", with_corpus: bool = True, say: Say = log.info,
) -> Path:  # fmt: skip
    """Export a run's newest checkpoint, that of a step, or its best models to `out`, by default RUN/export, of another
    layout than realm RUN/export-LAYOUT.

    Raises CheckpointError if there are none, they are damaged, `verify` finds that what was written computes something
    else, or the disk is full. `out` appears whole or not at all; an older export of that layout there is replaced,
    anything else is left alone (ConfigError). `licence` is by the hub's name, for the card. Without the corpus there
    are neither vectors nor passages: what another run starts from needs none.
    """
    # With faiss, which trainers, who write models, need not.
    from realm_ds.eval.exported import CARD, write_corpus
    from realm_ds.train.export_card import card, check_licence, code_of
    from realm_ds.train.export_layouts import check_layout, open_part, passage_part
    from realm_ds.train.export_networks import write_networks
    from realm_ds.train.export_qa import answers_questions, export_qa
    from realm_ds.train.export_source import check_corpus, find_source

    check_layout(layout, dtype=dtype)
    check_licence(licence)
    if answers_questions(run_folder):
        return export_qa(
            run_folder, layout=layout, step=step, out=out, dtype=dtype, verify=verify, faiss_file=faiss_file,
            licence=licence, say=say,
        )  # fmt: skip
    refuse_unfinished(run_folder)
    out = out or default_folder(run_folder, layout)
    recover_sealed(out, what=f"export of layout {layout}", kind=KIND, layout=layout)
    if not (run_folder / RUN_CONFIG).is_file():
        raise ConfigError(f"{run_folder} holds no run: there is no {RUN_CONFIG}; name another with --run")
    config = load(run_folder / RUN_CONFIG)
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(
        config.data.corpus, kind="corpus", fingerprint=tokenizer.fingerprint, timeout_s=config.runtime.wait_timeout_s
    )
    source = find_source(run_folder, step)
    check_corpus(source, corpus, run_folder=run_folder)
    known: dict[str, str] = {}
    with sealed_folder(
        out, what="the export", remedy=REMEDY, known=known, kind=KIND, layout=layout, source=source.folder.name,
        step=source.step, stage=source.stage, dtype=dtype,
    ) as unfinished:  # fmt: skip
        written = write_networks(
            source, unfinished, config=config, corpus=corpus, tokenizer=tokenizer, dtype=dtype, layout=layout,
            verify=verify, say=say,
        )  # fmt: skip
        if with_corpus:
            say(f"embedding {corpus.count} passages")
            part = passage_part(layout)
            tower = open_part(unfinished, part)
            known |= write_corpus(
                unfinished, corpus, _embedded(tower, config=config, corpus=corpus, tokenizer=tokenizer),
                snapshot_sha256=sha256(unfinished / part.folder / WEIGHTS_FILE),
            )  # fmt: skip
        if faiss_file:
            _write_faiss_file(unfinished, width=config.model.projection_size)
        text = card(
            config=config, corpus=corpus, source=source, written=written, code=code_of(run_folder), dtype=dtype,
            licence=licence, has_faiss_file=faiss_file, layout=layout,
        )  # fmt: skip
        (unfinished / CARD).write_text(text, encoding="utf-8")
        if layout == "realm" and with_corpus:
            _write_settings(unfinished, config=config, tokenizer=tokenizer)
    return out


def default_folder(run_folder: Path, layout: Layout) -> Path:
    """One for each layout: only of layout realm is what is answered from, and what a run starts from."""
    return run_folder / ("export" if layout == "realm" else f"export-{layout}")


def write_models(realm: RealmModel, folder: Path, *, tokenizer_folder: Path) -> None:
    """The three networks and the tokenizer; every model folder has the tokenizer too, so that it opens alone."""
    realm.query_tower.save(folder / QUERY_TOWER)
    realm.passage_tower.save(folder / PASSAGE_TOWER)
    realm.encoder.save(folder / ENCODER)
    for name in (QUERY_TOWER, PASSAGE_TOWER, ENCODER, "tokenizer"):
        copy_tokenizer(tokenizer_folder, folder / name)


def unfilled(config: RealmConfig, *, vocab_size: int) -> RealmModel:
    """The model of a run, on the CPU, with weights that mean nothing."""
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten, and a run may go on
        return RealmModel(config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens).eval()


def with_weights(realm: RealmModel, weights: Mapping[str, Tensor]) -> RealmModel:
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


def round_to(module: nn.Module, dtype: Dtype) -> None:
    """Weights in another precision, in place. Raises ConfigError where it is too narrow for one."""
    if dtype == "fp16":
        widest = torch.finfo(torch.float16).max
        for name, weight in module.named_parameters():
            if weight.detach().abs().max() > widest:
                raise ConfigError(f"the weights of {name} are too large for fp16 ({widest:g}): take --dtype bf16")
    module.to(DTYPES[dtype])


def _embedded(tower: Embedder, *, config: RealmConfig, corpus: Shards, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Vectors by the exported passage tower, some passages' after others'."""
    from realm_ds.index.passages import load_shard
    from realm_ds.train.recall import embed_passages

    if torch.cuda.is_available():
        tower = tower.to("cuda")
    num_parts = -(-corpus.count // EMBEDDED_AT_ONCE)
    for number in range(num_parts):
        passages = load_shard(corpus, shard_rank=number, num_shards=num_parts, max_tokens=config.data.passage_tokens)
        yield embed_passages(tower, passages, config=config, special=tokenizer.special)


def _write_settings(folder: Path, *, config: RealmConfig, tokenizer: Tokenizer) -> None:
    """What filling in masked words must do as pre-training did it."""
    from realm_ds.eval.exported import AnswerSettings, write_settings
    from realm_ds.eval.pairs import ReadingSizes

    sizes = ReadingSizes(
        question_tokens=config.data.query_tokens, passage_tokens=config.data.passage_tokens,
        read=config.pretrain.num_retrieved,
    )  # fmt: skip
    settings = AnswerSettings(
        sizes=sizes, null_passage=config.pretrain.null_passage, temperature=config.pretrain.temperature,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )  # fmt: skip
    write_settings(folder, settings)


def _write_faiss_file(folder: Path, *, width: int) -> None:
    from realm_ds.eval.exported import EXPORTED_VERSION
    from realm_ds.index.faiss_index import write_flat
    from realm_ds.index.store import stored_parts

    parts = stored_parts(folder / "index", EXPORTED_VERSION)
    write_flat((piece for part in parts for _, piece in part.pieces(part.manifest())), folder / FAISS_FILE, width=width)
