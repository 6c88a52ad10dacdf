"""The embedder of queries and of passages: a BERT-like encoder, a projection, a LayerNorm. What is retrieved with it
lives in index/.

Shapes: N sequences, L tokens, H hidden, P embedding.
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.hub import encoder_folder
from realm_ds.models.names import PROJECTION_FILE
from realm_ds.models.weights import WEIGHTS_FILE, read_into

hf_logging.disable_progress_bar()  # They would tear our own.

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""As settings name them."""
ONE_KERNEL = {"gelu_new": "gelu_pytorch_tanh"}
"""Activations that transformers writes out step by step, and torch's kernel of the same function."""
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
"""What BERT's family calls it, and DistilBERT."""


class TokenBatch(NamedTuple):
    """Padded sequences on the model's device; mask is 1 at tokens and 0 at padding."""

    ids_NL: Tensor
    mask_NL: Tensor
    types_NL: Tensor

    def inputs(self, *, types: bool) -> dict[str, Tensor]:
        """What a transformers encoder is called with; some have no token types."""
        inputs = {"input_ids": self.ids_NL, "attention_mask": self.mask_NL}
        return {**inputs, "token_type_ids": self.types_NL} if types else inputs


def bert_config(model: ModelConfig, *, vocab_size: int, max_tokens: int) -> PreTrainedConfig:
    """The transformers config of every encoder in the run: that of `model.encoder`, or BERT of the given sizes.

    Raises ConfigError if there is no such model, it is not BERT-like, or its wordpieces or positions are too few.
    """
    if model.encoder is None:
        return BertConfig(
            vocab_size=vocab_size, hidden_size=model.hidden_size, num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_heads, intermediate_size=model.intermediate_size,
            hidden_act=ONE_KERNEL["gelu_new"],  # BERT's own
            hidden_dropout_prob=model.dropout, attention_probs_dropout_prob=model.dropout,
            max_position_embeddings=max(512, max_tokens), pad_token_id=0,
        )  # fmt: skip
    folder = encoder_folder(model.encoder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:  # ValueError: a model type that this transformers does not know
        raise ConfigError(f"model.encoder={model.encoder} is not a transformers model folder: {error}") from error
    if config.is_encoder_decoder or not hasattr(config, "max_position_embeddings"):
        raise ConfigError(
            f"model.encoder={model.encoder} is of type {config.model_type!r}, not a BERT-like encoder with a table of "
            "positions: name one such as BERT, DistilBERT or ELECTRA"
        )
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
    config.dtype = torch.float32  # Networks are made in it, and those of a 16-bit encoder would be trained so.
    if config.model_type == "bert":
        config.hidden_act = ONE_KERNEL.get(config.hidden_act, config.hidden_act)
    return with_dropout(config, model.dropout)


def with_dropout(config: PreTrainedConfig, dropout: float) -> PreTrainedConfig:
    """The config with this dropout throughout its encoder, under whatever names its family has for it."""
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    return config


def takes_types(bert: nn.Module) -> bool:
    """Does the encoder tell two segments apart? DistilBERT has no token types, RoBERTa only one."""
    return (
        "token_type_ids" in inspect.signature(bert.forward).parameters
        and getattr(bert.config, "type_vocab_size", 0) > 1
    )


class Embedder(nn.Module):
    """embed(s) = LayerNorm(W pooled(s) + b), pooled being BERT's tanh pooler (REALM section 3.2, ORQA's code).

    An encoder without a pooler (DistilBERT, ELECTRA) gives its state at [CLS]. Without `norm_eps` there is no
    LayerNorm, as in the paper's text.
    """

    def __init__(
        self, config: PreTrainedConfig, *, projection_size: int, norm_eps: float | None, dropout: float
    ) -> None:
        super().__init__()
        self.bert: PreTrainedModel = AutoModel.from_config(config)
        self.dense = nn.Linear(config.hidden_size, projection_size)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.norm_eps = norm_eps
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(projection_size, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)
        self._takes_types = takes_types(self.bert)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """Vectors of N sequences, float32 (N, P) whatever the weights are."""
        states = self.bert(**tokens.inputs(types=self._takes_types))
        pooled_NH = getattr(states, "pooler_output", None)
        if pooled_NH is None:
            pooled_NH = states.last_hidden_state[:, 0]
        embedding_NP: Tensor = self.dropout(self.norm(self.dense(pooled_NH)).float())
        return embedding_NP

    def save(self, folder: Path) -> None:
        """Write a transformers model folder with the projection beside it."""
        self.bert.save_pretrained(folder, safe_serialization=True)
        projection = {name: weight.contiguous() for name, weight in self.projection().items()}
        metadata = {"format": "pt"} if self.norm_eps is None else {"format": "pt", "norm_eps": repr(self.norm_eps)}
        save_file(projection, folder / PROJECTION_FILE, metadata=metadata)

    def load_from(self, folder: Path) -> None:
        """Take the weights of what `save` wrote, in place, with no second copy. Raises CheckpointError if it cannot."""
        read_into(self.bert.state_dict(), folder / WEIGHTS_FILE)
        read_into(self.projection(), folder / PROJECTION_FILE)

    def projection(self) -> dict[str, Tensor]:
        """W, b and the LayerNorm, by name."""
        return {name: weight for name, weight in self.state_dict().items() if not name.startswith("bert.")}

    @classmethod
    def load(cls, folder: Path, *, dropout: float = 0.0) -> "Embedder":
        """Open what `save` wrote. Raises CheckpointError if it is not such a folder."""
        path = folder / PROJECTION_FILE
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no {PROJECTION_FILE}: not a tower written by realm-ds export")
        projection = load_file(path)
        with safe_open(path, framework="pt") as file:
            norm_eps = file.metadata().get("norm_eps")
        config = with_dropout(AutoConfig.from_pretrained(folder, local_files_only=True), dropout)
        width = projection["dense.weight"].shape[0]
        with torch.device("meta"):  # the encoder comes from its file, and would be in memory twice
            tower = cls(config, projection_size=width, norm_eps=float(norm_eps) if norm_eps else None, dropout=dropout)
        tower.bert = AutoModel.from_pretrained(folder, config=config, local_files_only=True)
        for part in (tower.dense, tower.norm):
            part.to_empty(device="cpu")
        tower.load_state_dict(projection, strict=False)
        return tower.float()  # what was exported in 16 bits may come back so


@dataclass(frozen=True, kw_only=True)
class Towers:
    """What embeds queries, and what embeds passages: the same module where the two are shared."""

    query: Embedder
    passage: Embedder

    @property
    def are_shared(self) -> bool:
        return self.query is self.passage


@torch.inference_mode()
def embed(tower: Embedder, tokens: TokenBatch) -> Tensor:
    """Vectors of N sequences without gradient or dropout, float32 (N, P) on the CPU."""
    device = next(tower.parameters()).device
    vectors_NP = tower(TokenBatch(*(part.to(device) for part in tokens)))
    return vectors_NP.float().cpu()
