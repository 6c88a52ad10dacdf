"""The embedder of queries and of passages: BERT, a projection, a LayerNorm. What is retrieved with it lives in index/.

Shapes: N sequences, L tokens, H hidden, P embedding.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedConfig
from transformers.utils import logging as hf_logging

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError, ConfigError

hf_logging.disable_progress_bar()  # They would tear our own.

PROJECTION_FILE = "projection.safetensors"


class TokenBatch(NamedTuple):
    """Padded sequences on the model's device; mask is 1 at tokens and 0 at padding."""

    ids_NL: Tensor
    mask_NL: Tensor
    types_NL: Tensor


def bert_config(model: ModelConfig, *, vocab_size: int, max_tokens: int) -> PreTrainedConfig:
    """The transformers config of every encoder in the run: that of `model.encoder`, or BERT of the given sizes.

    Raises ConfigError if the folder cannot be read or its wordpieces or positions are too few.
    """
    if model.encoder is None:
        return BertConfig(
            vocab_size=vocab_size, hidden_size=model.hidden_size, num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_heads, intermediate_size=model.intermediate_size,
            hidden_act="gelu_pytorch_tanh",  # BERT's own gelu_new, in one kernel
            hidden_dropout_prob=model.dropout, attention_probs_dropout_prob=model.dropout,
            max_position_embeddings=max(512, max_tokens), pad_token_id=0,
        )  # fmt: skip
    try:
        config = AutoConfig.from_pretrained(model.encoder, local_files_only=True)
    except OSError as error:
        raise ConfigError(f"model.encoder={model.encoder} is not a transformers model folder: {error}") from error
    if config.vocab_size < vocab_size:
        raise ConfigError(
            f"model.encoder={model.encoder} has {config.vocab_size} wordpieces, but data.tokenizer has {vocab_size}: "
            "prepare the data with the encoder's own tokenizer, and name that in data.tokenizer"
        )
    if config.max_position_embeddings < max_tokens:
        raise ConfigError(
            f"model.encoder={model.encoder} has {config.max_position_embeddings} positions, but query and passage "
            f"together may take {max_tokens}: lower data.passage_tokens or data.query_tokens"
        )
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = model.dropout
    return config


class Embedder(nn.Module):
    """embed(s) = LayerNorm(W pooled(s) + b), pooled being BERT's tanh pooler (REALM section 3.2, ORQA's code)."""

    def __init__(self, config: PreTrainedConfig, *, projection_size: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.bert = AutoModel.from_config(config, attn_implementation="sdpa")
        self.dense = nn.Linear(config.hidden_size, projection_size)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.norm = nn.LayerNorm(projection_size, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Vectors of N sequences, float (N, P)."""
        states = self.bert(input_ids=tokens.ids_NL, attention_mask=tokens.mask_NL, token_type_ids=tokens.types_NL)
        embedding_NP: Tensor = self.dropout(self.norm(self.dense(states.pooler_output)))
        return embedding_NP

    def save(self, folder: Path) -> None:
        """Write a transformers model folder with the projection beside it."""
        self.bert.save_pretrained(folder, safe_serialization=True)
        projection = {**_named("dense", self.dense), **_named("norm", self.norm)}
        metadata = {"format": "pt", "norm_eps": repr(self.norm.eps)}
        save_file(projection, folder / PROJECTION_FILE, metadata=metadata)

    @classmethod
    def load(cls, folder: Path, *, dropout: float = 0.0) -> "Embedder":
        """Open what `save` wrote. Raises CheckpointError if it is not such a folder."""
        path = folder / PROJECTION_FILE
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no {PROJECTION_FILE}: not a tower written by realm-ds export")
        projection = load_file(path)
        with safe_open(path, framework="pt") as file:
            norm_eps = float(file.metadata()["norm_eps"])
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
        width = projection["dense.weight"].shape[0]
        tower = cls(config, projection_size=width, norm_eps=norm_eps, dropout=dropout)
        tower.bert = AutoModel.from_pretrained(folder, config=config, local_files_only=True, attn_implementation="sdpa")
        tower.load_state_dict(projection, strict=False)
        return tower


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value.detach().contiguous() for name, value in module.state_dict().items()}


@torch.inference_mode()
def embed(tower: Embedder, tokens: TokenBatch) -> Tensor:
    """Vectors of N sequences without gradient or dropout, float32 (N, P) on the CPU."""
    device = next(tower.parameters()).device
    vectors_NP = tower(TokenBatch(*(part.to(device) for part in tokens)))
    return vectors_NP.float().cpu()
