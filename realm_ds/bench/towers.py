"""Networks of any size with random weights, and the loop over passages that one writes without us: the reference for
embedding. The only door to torch in this folder.

Shapes: N passages, B passages of a batch, L tokens, P embedding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from realm_ds.config.schema import ModelConfig
from realm_ds.data.records import SpecialIds
from realm_ds.eval.corpus import embed_with
from realm_ds.index.embedding import Embed
from realm_ds.index.passages import PassageShard
from realm_ds.models.qa import QaModel, build_qa_model
from realm_ds.models.realm import build_model, frozen_tower, tower_from_snapshot
from realm_ds.models.towers import Embedder

HEAD_WIDTH = 64
BARE_BATCH = 64
WEIGHT_SPREAD = 0.1
Tower = Mapping[str, Any]
"""layers, hidden, intermediate, vocabulary; and batch_tokens, of what to embed at a time."""


def new_tower(tower: Tower, *, width: int, seed: int = 0) -> Embedder:
    """A BERT of that size with its projection, weights drawn at random, not trained."""
    torch.manual_seed(seed)
    return frozen_tower(_model_config(tower, width), vocab_size=tower["vocabulary"], max_tokens=512)


def new_snapshot(tower: Tower, *, width: int, seed: int = 0) -> bytes:
    """Its weights as they travel: a safetensors file."""
    return save(dict(new_tower(tower, width=width, seed=seed).state_dict()))


def new_answerer(tower: Tower, *, width: int, seed: int = 0) -> QaModel:
    """A query tower and a span reader of that size, spans as wide as REALM's; weights that tell one input from another,
    as fresh ones hardly do."""
    realm = build_model(_model_config(tower, width), vocab_size=tower["vocabulary"], max_tokens=512, seed=seed)
    answerer = build_qa_model(realm, span_hidden_size=256, max_span_tokens=10, seed=seed).eval()
    with torch.no_grad():
        for parameter in answerer.parameters():
            parameter.add_(WEIGHT_SPREAD * torch.randn_like(parameter))
    return answerer


def embed_by(snapshot: bytes, tower: Tower, *, width: int) -> Embed:
    """Passages to vectors as an index rank does it in production."""
    empty = frozen_tower(_model_config(tower, width), vocab_size=tower["vocabulary"], max_tokens=512)
    return embed_with(tower_from_snapshot(snapshot, empty))


def embed(tower: Embedder) -> Embed:
    """The same with a tower that is there already."""
    return embed_with(tower)


def embed_barely(tower: Embedder, passages: PassageShard, *, special: SpecialIds, max_tokens: int) -> np.ndarray:
    """Vectors [N, P] by a plain loop: corpus order, 64 at a time, each batch padded to its longest."""
    parts = []
    for start in range(0, len(passages), BARE_BATCH):
        rows = np.arange(start, min(start + BARE_BATCH, len(passages)))
        texts = []
        for title, body in passages.pairs(rows):
            room = max_tokens - 3 - len(title)
            texts.append([special.cls, *title.tolist(), special.sep, *body[:room].tolist(), special.sep])
        titles_B = passages.title_lengths_N[rows]
        longest = max(map(len, texts))
        ids_BL = torch.full((len(texts), longest), special.pad)
        mask_BL, types_BL = torch.zeros_like(ids_BL), torch.zeros_like(ids_BL)
        for row, (ids, title) in enumerate(zip(texts, titles_B.tolist(), strict=True)):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
            mask_BL[row, : len(ids)] = 1
            types_BL[row, title + 2 : len(ids)] = 1
        with torch.inference_mode():
            states = tower.bert(input_ids=ids_BL, attention_mask=mask_BL, token_type_ids=types_BL)
            parts.append(tower.norm(tower.dense(states.pooler_output)))
    return torch.cat(parts).numpy()


def _model_config(tower: Tower, width: int) -> ModelConfig:
    heads = max(1, tower["hidden"] // HEAD_WIDTH)
    return ModelConfig(
        num_layers=tower["layers"], hidden_size=tower["hidden"], num_heads=heads,
        intermediate_size=tower["intermediate"], projection_size=width, dropout=0.0,
    )  # fmt: skip
