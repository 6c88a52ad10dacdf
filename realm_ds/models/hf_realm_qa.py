"""Models that answer questions, as transformers 4.16 to 4.57 have them, written and read.

    reader/    RealmReader
    openqa/    RealmForOpenQA: query tower, reader and the passages' vectors, with the passages in block_records.npy

Pre-trained models are hf_realm.py's and hf_realm_write.py's business, the passages hf_block_records.py's. Shapes: N
passages, P embedding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel

from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.hf_block_records import BLOCK_RECORDS, write_block_records
from realm_ds.models.hf_realm import (
    TOWER_NAMES,
    Names,
    Weights,
    bert_of,
    flipped,
    load_into,
    read_config,
    read_weights,
    renamed,
    tower_of_weights,
)
from realm_ds.models.hf_realm_write import (
    check_same_bert,
    embedder_weights,
    idle_head,
    idle_pooler,
    realm_config,
    write_model,
)
from realm_ds.models.names import strip_prefix
from realm_ds.models.qa import QaModel
from realm_ds.models.readers import SpanReader

HF_READER, HF_OPENQA = "reader", "openqa"
READER_NAMES: Names = (
    ("realm.pooler.", None), ("realm.", "encoder."), ("qa_outputs.dense_intermediate.", "scorer.ends."),
    ("qa_outputs.layer_normalization.", "scorer.norm."), ("qa_outputs.dense_output.", "scorer.score."),
)  # fmt: skip
"""Of a RealmReader and models/readers.py's SpanReader. Its masked-language-model head, cls.predictions, has no use."""
READER_DEFAULTS: dict[str, Any] = {
    "span_hidden_size": 256, "max_span_width": 10, "reader_layer_norm_eps": 1e-3, "reader_beam_size": 5,
    "reader_seq_len": 320,
}  # fmt: skip
"""Of RealmConfig, for a config.json that leaves them out."""
QUESTION_TOKENS = "question_tokens"
"""A setting of our own beside theirs, which know only the length of question and passage together."""
QUESTION_SHARE = 10
"""Where nobody has said: a tenth of both, so that of 320 wordpieces passages have the 288 that REALM cuts them to."""


@dataclass(frozen=True, kw_only=True)
class HfQa:
    """A RealmForOpenQA by our names, without its passages."""

    model: QaModel
    vectors_NP: Tensor
    """float32."""
    num_read: int
    question_tokens: int
    passage_tokens: int


def write_hf_qa(
    model: QaModel, folder: Path, *, tokenizer_folder: Path, vectors_NP: np.ndarray, bodies: Iterable[str],
    num_read: int, question_tokens: int, passage_tokens: int,
) -> None:  # fmt: skip
    """Write both folders. `bodies`: the passages as text without titles, as the reader reads them, in the order of the
    vectors; `num_read` of them, best first, are read, each with the question.

    Raises ConfigError if transformers' classes cannot compute what the model does.
    """
    reader, num_passages = span_reader_of(model), len(vectors_NP)
    check_same_bert(model.query_tower.bert.config, reader.encoder.config)
    config = realm_config(model.query_tower) | {
        "span_hidden_size": reader.scorer.norm.normalized_shape[0], "max_span_width": reader.scorer.max_span_tokens,
        "reader_layer_norm_eps": reader.scorer.norm.eps, "reader_beam_size": min(num_read, num_passages),
        "reader_seq_len": question_tokens + passage_tokens, QUESTION_TOKENS: question_tokens,
        "num_block_records": num_passages,
        "searcher_beam_size": min(5000, num_passages),  # what it retrieves in training, by default
    }  # fmt: skip
    own = _reader_weights(reader)
    write_model(folder / HF_READER, "RealmReader", own, config=config, tokenizer_folder=tokenizer_folder)
    whole = {f"embedder.{name}": value for name, value in embedder_weights(model.query_tower).items()}
    whole |= {f"reader.{name}": value for name, value in own.items()}
    whole["block_emb"] = torch.from_numpy(np.asarray(vectors_NP, dtype=np.float32))
    write_model(folder / HF_OPENQA, "RealmForOpenQA", whole, config=config, tokenizer_folder=tokenizer_folder)
    write_block_records(folder / HF_OPENQA / BLOCK_RECORDS, bodies, count=num_passages)


def span_reader_of(model: QaModel) -> SpanReader:
    """Its reader. Raises ConfigError where that names words: transformers has no class that answers so."""
    if isinstance(model.reader, SpanReader):
        return model.reader
    raise ConfigError(
        "the model answers by a masked word (qa.answer_by=masked_word), and transformers' RealmReader and "
        "RealmForOpenQA answer by spans alone: take its own export, which AutoModelForMaskedLM opens (reader/)"
    )


def read_hf_qa(folder: Path) -> HfQa:
    """What a RealmForOpenQA's folder holds. Raises CheckpointError, or ConfigError for a reader unlike ours."""
    config = {**READER_DEFAULTS, **read_config(folder)}
    state = read_weights(folder)
    if "block_emb" not in state:
        raise CheckpointError(f"{folder} has no 'block_emb', the vectors of passages: it is no RealmForOpenQA")
    if config["reader_layer_norm_eps"] != 1e-3:
        raise ConfigError(
            f"{folder / 'config.json'} has reader_layer_norm_eps={config['reader_layer_norm_eps']:g}, and the reader "
            "here has 1e-3, as Google's: it would answer otherwise"
        )
    tower = tower_of_weights(renamed(strip_prefix(state, "embedder"), TOWER_NAMES), config, folder)
    bert = bert_of(config)
    reader = SpanReader(
        AutoModel.from_config(bert, add_pooling_layer=False), hidden_size=bert.hidden_size,
        span_hidden_size=config["span_hidden_size"], max_span_tokens=config["max_span_width"],
    )  # fmt: skip
    load_into(reader, renamed(strip_prefix(state, "reader"), READER_NAMES), folder)
    question_tokens = config.get(QUESTION_TOKENS, config["reader_seq_len"] // QUESTION_SHARE)
    return HfQa(
        model=QaModel(tower, reader).eval(), vectors_NP=state["block_emb"].float(), num_read=config["reader_beam_size"],
        question_tokens=question_tokens, passage_tokens=config["reader_seq_len"] - question_tokens,
    )  # fmt: skip


def _reader_weights(reader: SpanReader) -> Weights:
    """All that a RealmReader has, by its names."""
    weights = renamed(reader.state_dict(), flipped(READER_NAMES))
    words_VH = weights["realm.embeddings.word_embeddings.weight"]
    return weights | idle_head(words_VH) | idle_pooler(words_VH)
