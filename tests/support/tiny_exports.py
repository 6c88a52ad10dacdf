"""Exports of models drawn at random over tiny.make_data's corpus: one answers questions, one fills in masks."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.exported import AnswerSettings, write_corpus, write_qa_export, write_settings
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.models.qa import build_qa_model
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.sealed import seal
from realm_ds.train.export import write_models
from tests.support.tiny import FACTS, make_data, tiny_config
from tests.support.tiny_qa import make_corpus, make_questions

SIZES = ReadingSizes(question_tokens=16, passage_tokens=32, read=3)


@dataclass(frozen=True, kw_only=True)
class Exports:
    folder: Path
    tokenizer: Tokenizer
    shards: Shards
    qa: Path
    """In RUN/export."""
    cloze: Path
    realm: RealmModel
    settings: AnswerSettings


def make_exports(folder: Path, *, num_facts: int = len(FACTS)) -> Exports:
    """A QA run's export in RUN/export and one of pre-training."""
    tokenizer, config = make_data(folder, num_facts=num_facts), tiny_config(folder)
    make_questions(folder)
    shards = open_shards(folder / "corpus", kind="corpus", fingerprint=None)
    corpus = make_corpus(folder, width=config.model.projection_size)
    realm = build_model(config.model, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0).eval()
    settings = AnswerSettings(
        sizes=SIZES, null_passage=False, temperature=1.0, tokenizer_fingerprint=tokenizer.fingerprint
    )
    qa, cloze = folder / "qa_run" / "export", folder / "cloze"
    qa.parent.mkdir()
    write_qa_export(
        qa, build_qa_model(realm, span_hidden_size=8, max_span_tokens=4, seed=1), shards=shards,
        vectors=[corpus.vectors_NP], tokenizer_folder=folder / "tokenizer", settings=settings,
    )  # fmt: skip
    cloze_settings = replace(settings, null_passage=True, temperature=0.5)
    write_cloze_export(
        cloze, realm, shards=shards, vectors=[corpus.vectors_NP[:30], corpus.vectors_NP[30:]],
        tokenizer_folder=folder / "tokenizer", settings=cloze_settings,
    )  # fmt: skip
    return Exports(
        folder=folder, tokenizer=tokenizer, shards=shards, qa=qa, cloze=cloze, realm=realm, settings=cloze_settings
    )


def write_cloze_export(
    out: Path, realm: RealmModel, *, shards: Shards, vectors: list[np.ndarray], tokenizer_folder: Path,
    settings: AnswerSettings,
) -> None:  # fmt: skip
    """What `realm-ds export` writes of a pre-trained model."""
    write_models(realm, out, tokenizer_folder=tokenizer_folder)
    write_corpus(out, shards, vectors, snapshot_sha256="of the towers")
    write_settings(out, settings)
    seal(out, source="step-9")
