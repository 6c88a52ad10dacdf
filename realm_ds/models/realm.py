"""The three networks that a run trains, as one module, and how they start. The objectives over them live in train/."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER, check_export
from realm_ds.models.start import start_encoder, start_tower
from realm_ds.models.towers import Embedder, bert_config


class RealmModel(nn.Module):
    """Query tower, passage tower (the same module when shared) and knowledge-augmented encoder."""

    def __init__(self, model: ModelConfig, *, vocab_size: int, max_tokens: int) -> None:
        super().__init__()
        config = bert_config(model, vocab_size=vocab_size, max_tokens=max_tokens)
        self.query_tower = tower_of(model, config)
        self.passage_tower = self.query_tower if model.share_towers else tower_of(model, config)
        self.encoder = KnowledgeAugEncoder(config)

    @property
    def shares_towers(self) -> bool:
        return self.passage_tower is self.query_tower


def tower_of(model: ModelConfig, config: PreTrainedConfig) -> Embedder:
    """A tower of the run's shape with weights drawn at random."""
    return Embedder(
        config, projection_size=model.projection_size, norm_eps=model.projection_norm_eps, dropout=model.dropout
    )


def frozen_tower(model: ModelConfig, *, vocab_size: int, max_tokens: int) -> Embedder:
    """A tower of the run's shape whose weights are about to be overwritten, and which is not trained."""
    return (
        tower_of(model, bert_config(model, vocab_size=vocab_size, max_tokens=max_tokens)).eval().requires_grad_(False)
    )


def tower_from_snapshot(data: bytes, tower: Embedder) -> Embedder:
    """`tower` with the weights of an index version's snapshot (a safetensors file)."""
    tower.load_state_dict(load(data))
    return tower


def build_model(model: ModelConfig, *, vocab_size: int, max_tokens: int, seed: int) -> RealmModel:
    """A model with its starting weights: those of `start_from`, of `encoder`, or drawn from `seed`.

    Two towers that are not shared start equal: inner products of unrelated spaces would make the first index noise.
    Raises CheckpointError if `start_from` is not an export of the same shape.
    """
    torch.manual_seed(seed)
    realm = RealmModel(model, vocab_size=vocab_size, max_tokens=max_tokens)
    if model.start == "narrow":
        start_tower(realm.query_tower)
        start_encoder(realm.encoder)
    if not realm.shares_towers:
        realm.passage_tower.load_state_dict(realm.query_tower.state_dict())
    if model.start_from is not None:
        load_export(realm, model.start_from)
    elif model.encoder is not None:
        config = AutoConfig.from_pretrained(model.encoder, local_files_only=True)
        bert = AutoModel.from_pretrained(model.encoder, config=config, local_files_only=True)
        realm.query_tower.bert.load_state_dict(bert.state_dict())
        realm.passage_tower.bert.load_state_dict(bert.state_dict())
        realm.encoder.load_from(model.encoder)
    return realm


def load_export(realm: RealmModel, folder: Path) -> None:
    """Fill `realm` from an export folder. Raises CheckpointError when it is absent or its shapes differ."""
    check_export(folder)
    try:
        realm.query_tower.load_state_dict(Embedder.load(folder / QUERY_TOWER).state_dict())
        if not realm.shares_towers:
            realm.passage_tower.load_state_dict(Embedder.load(folder / PASSAGE_TOWER).state_dict())
        realm.encoder.load_from(folder / ENCODER)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder} was made with other model sizes than this config: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[1].strip() if len(lines) > 1 else lines[0]


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a state dict that belongs to one sub-module."""
    return {name.removeprefix(prefix + "."): value for name, value in state.items() if name.startswith(prefix + ".")}
