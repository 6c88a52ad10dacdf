"""The networks in numbers: parameters and floating-point operations of each, from the sizes of its encoder.

Loads no torch, so that planning needs none. What modules that are there need is flops.py's business; a test holds both
against each other.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.hub import encoder_folder
from realm_ds.models.names import ENCODER, PROJECTION_FILE, QUERY_TOWER, is_hf_realm

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", float, "Tensor")

TRAINING = 3
"""Of a forward pass: the backward pass takes twice as many, one product for the weights and one for what is below."""
LEAST_POSITIONS = 512
"""Rows of a BERT's table of positions, at least."""
_OTHER_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "intermediate_size": "hidden_dim"}
"""What DistilBERT calls them."""
_SETTINGS = {"num_layers": "num_hidden_layers", "hidden_size": "hidden_size", "num_heads": "num_attention_heads",
             "intermediate_size": "intermediate_size"}  # fmt: skip
"""Of section model, and what BERT's config.json calls them."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of one forward pass of a network: matrix products alone, a multiplication and an addition each."""

    per_token: float
    per_square: float
    """Of the number of tokens of a sequence: attention looks from every token at every token."""
    per_sequence: float = 0.0
    per_mask: float = 0.0

    def forward(self, *, tokens: Number, squares: Number, sequences: float = 0.0, masks: Number = 0.0) -> Number:
        """`squares` is the sum over sequences of their squared number of tokens."""
        by_length = self.per_token * tokens + self.per_square * squares + self.per_mask * masks
        return by_length + self.per_sequence * sequences

    def training(self, *, tokens: Number, squares: Number, sequences: float, masks: Number) -> Number:
        """Forward and backward."""
        return TRAINING * self.forward(tokens=tokens, squares=squares, sequences=sequences, masks=masks)


@dataclass(frozen=True, kw_only=True)
class EncoderSizes:
    """Of a BERT, which all three networks of a run are made of."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int
    segments: int = 2

    @property
    def layer_products(self) -> int:
        """Weights of a layer's linear maps: queries, keys, values, their output, and the two of the feed-forward."""
        return 4 * self.hidden**2 + 2 * self.hidden * self.intermediate

    @property
    def body_parameters(self) -> int:
        """Embeddings and layers, without a pooler."""
        embeddings = (self.vocabulary + self.positions + self.segments + 2) * self.hidden
        return embeddings + self.layers * (self.layer_products + 9 * self.hidden + self.intermediate)

    @property
    def encoder_parameters(self) -> int:
        """With the language-model head, whose large matrix is the table of wordpieces."""
        return self.body_parameters + self.hidden**2 + 3 * self.hidden + self.vocabulary

    def tower_parameters(self, width: int) -> int:
        """With pooler, projection and LayerNorm."""
        return self.body_parameters + self.hidden**2 + self.hidden + self.hidden * width + 3 * width

    @property
    def encoder_cost(self) -> Cost:
        """Of the knowledge-augmented encoder."""
        return Cost(
            per_token=2.0 * self.layers * self.layer_products,
            per_square=4.0 * self.layers * self.hidden,
            per_mask=2.0 * self.hidden * (self.hidden + self.vocabulary),
        )

    def tower_cost(self, width: int) -> Cost:
        """Of a tower."""
        return Cost(
            per_token=2.0 * self.layers * self.layer_products,
            per_square=4.0 * self.layers * self.hidden,
            per_sequence=2.0 * self.hidden * (self.hidden + width),
        )


def encoder_sizes(model: ModelConfig, *, vocabulary: int, max_tokens: int) -> EncoderSizes:
    """Of the encoders of a run: those of `model.encoder`, or as the settings say.

    Raises ConfigError if `model.encoder` is not on this host or does not tell its sizes.
    """
    if model.encoder is None:
        return EncoderSizes(
            layers=model.num_layers, hidden=model.hidden_size, intermediate=model.intermediate_size,
            vocabulary=vocabulary, positions=max(LEAST_POSITIONS, max_tokens),
        )  # fmt: skip
    path = encoder_folder(model.encoder) / "config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        sizes = _told(said)
        return EncoderSizes(
            layers=sizes["num_hidden_layers"], hidden=sizes["hidden_size"], intermediate=sizes["intermediate_size"],
            vocabulary=int(said["vocab_size"]),
            positions=int(said["max_position_embeddings"]), segments=int(said.get("type_vocab_size", 0)),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"model.encoder={model.encoder}: {path} does not tell the encoder's sizes ({error}): name a BERT-like model"
        ) from error


def check_start_sizes(model: ModelConfig, *, vocabulary: int) -> None:
    """Raise ConfigError where `model.start_from` or `model.encoder_from` is an export of other sizes, and
    CheckpointError where it is damaged.

    Google's REALM is not looked at: its reader does that.
    """
    if model.start_from is not None and not is_hf_realm(model.start_from):
        _check_sizes(model, "start_from", model.start_from, network=QUERY_TOWER, vocabulary=vocabulary)
    if model.encoder_from is not None:
        _check_sizes(model, "encoder_from", model.encoder_from, network=ENCODER, vocabulary=vocabulary)


def _check_sizes(model: ModelConfig, setting: str, folder: Path, *, network: str, vocabulary: int) -> None:
    place = folder / network
    try:
        said = json.loads((place / "config.json").read_bytes())
        there = {"projection_size": _projection_size(place)} if network == QUERY_TOWER else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{place} cannot be read ({error}): export the run again, or copy the folder again"
        ) from error
    if model.encoder is None:
        there |= {ours: said[name] for ours, name in _SETTINGS.items() if name in said}
    if wrong := [f"model.{name}={size}" for name, size in there.items() if size != getattr(model, name)]:
        raise ConfigError(f"model.{setting}={folder} is of other sizes than this run: set {' '.join(wrong)}")
    if model.encoder is not None:
        _check_same_encoder(model, _told(said), named=f"model.{setting}={folder}", vocabulary=vocabulary)
    elif (words := said.get("vocab_size", vocabulary)) != vocabulary:
        raise ConfigError(
            f"model.{setting}={folder} has {words} wordpieces, but data.tokenizer has {vocabulary}: name the one in "
            f"{folder / 'tokenizer'}, and prepare the data with it"
        )


def _projection_size(tower: Path) -> int:
    with safe_open(tower / PROJECTION_FILE, framework="np") as file:
        return int(file.get_slice("dense.weight").get_shape()[0])


def _check_same_encoder(model: ModelConfig, there: Mapping[str, int], *, named: str, vocabulary: int) -> None:
    brought = encoder_sizes(model, vocabulary=vocabulary, max_tokens=0)
    pairs = {
        "layers": (there["num_hidden_layers"], brought.layers),
        "hidden_size": (there["hidden_size"], brought.hidden),
        "intermediate_size": (there["intermediate_size"], brought.intermediate),
    }
    if differ := [f"{name} {size} and {other}" for name, (size, other) in pairs.items() if size != other]:
        raise ConfigError(
            f"{named} and model.encoder={model.encoder} are of different sizes ({', '.join(differ)}): name the encoder "
            "that the export began with"
        )


def _told(config: Mapping[str, Any]) -> dict[str, int]:
    """What a config.json says, by BERT's names."""
    return {name: int(config[name] if name in config else config[other]) for name, other in _OTHER_NAMES.items()}
