"""The three networks that a run trains, as one module, and how they start. Objectives are objectives.py's."""

from pathlib import Path

import torch
from safetensors.torch import load
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from realm_ds.config.schema import ModelConfig
from realm_ds.errors import CheckpointError
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.hf_realm import BERT_SIZES, read_config, read_hf_realm
from realm_ds.models.hub import encoder_folder
from realm_ds.models.names import (
    ENCODER,
    PASSAGE_TOWER,
    QUERY_TOWER,
    check_encoder_start,
    check_export,
    check_start,
    hf_towers,
    is_hf_realm,
)
from realm_ds.models.start import start_encoder, start_tower
from realm_ds.models.towers import Embedder, bert_config
from realm_ds.models.weights import WEIGHTS_FILE, read_into
from realm_ds.sealed import MANIFEST, check_told


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
    norm_eps = model.projection_norm_eps if model.projection_norm else None
    return Embedder(config, projection_size=model.projection_size, norm_eps=norm_eps, dropout=model.dropout)


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
    The encoder is that of `encoder_from`, where that is given. Raises CheckpointError if `start_from` is neither an
    export nor Google's REALM, `encoder_from` no export, or either damaged or of another shape.
    """
    torch.manual_seed(seed)
    realm = RealmModel(model, vocab_size=vocab_size, max_tokens=max_tokens)
    if model.start == "narrow" and model.encoder is None:
        start_tower(realm.query_tower)
        start_encoder(realm.encoder)
    if not realm.shares_towers:
        realm.passage_tower.load_state_dict(realm.query_tower.state_dict())
    if model.start_from is not None:
        check_start(model.start_from)
        _check_files(model.start_from)
        load_from = load_hf_realm if is_hf_realm(model.start_from) else load_export
        load_from(realm, model.start_from)
    elif model.encoder is not None:
        folder = encoder_folder(model.encoder)
        bert = AutoModel.from_pretrained(folder, local_files_only=True)
        realm.query_tower.bert.load_state_dict(bert.state_dict())
        realm.passage_tower.bert.load_state_dict(bert.state_dict())
        realm.encoder.load_from(folder)
    if model.encoder_from is not None:
        check_encoder_start(model.encoder_from)
        _check_files(model.encoder_from)
        load_encoder(realm, model.encoder_from)
    return realm


def _check_files(folder: Path) -> None:
    if (folder / MANIFEST).is_file():  # a folder of others has none
        check_told(folder, trusted=("index", "passages", "README.md"))


def load_export(realm: RealmModel, folder: Path) -> None:
    """Fill `realm` from an export folder. Raises CheckpointError when it is absent or its shapes differ."""
    check_export(folder)
    realm.query_tower.load_from(folder / QUERY_TOWER)
    if not realm.shares_towers:
        realm.passage_tower.load_from(folder / PASSAGE_TOWER)
    load_encoder(realm, folder)


def load_encoder(realm: RealmModel, folder: Path) -> None:
    """The encoder alone of an export. Raises CheckpointError when its shapes differ."""
    read_into(realm.encoder.mlm.state_dict(), folder / ENCODER / WEIGHTS_FILE)


def load_hf_realm(realm: RealmModel, folder: Path) -> None:
    """Fill `realm` from Google's REALM as transformers had it. Raises CheckpointError where it does not fit."""
    tower = realm.query_tower
    bert = tower.bert.config
    if bert.model_type != "bert":
        raise CheckpointError(
            f"model.start_from={folder} is Google's REALM, which is made of BERTs, but model.encoder is a "
            f"{bert.model_type}: leave model.encoder out"
        )
    sizes = {name: getattr(bert, name) for name in BERT_SIZES}
    sizes |= {"retriever_proj_size": tower.dense.out_features, "projection_norm_eps": tower.norm_eps}
    found = read_hf_realm(folder, sizes=sizes)
    if realm.shares_towers and not found.shares_towers:
        raise CheckpointError(
            f"model.start_from={folder} has two embedders with weights of their own, for queries and for passages, but "
            "model.share_towers=true: set model.share_towers=false"
        )
    try:
        realm.query_tower.load_state_dict(found.query_tower)
        realm.passage_tower.load_state_dict(found.passage_tower)
        realm.encoder.load_state_dict(found.encoder)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} does not hold the weights of Google's REALM: {_first_line(error)}") from error


def open_hf_realm(folder: Path) -> RealmModel:
    """Google's REALM, in the sizes that its own settings say; its towers are one where their weights are.

    Raises CheckpointError where no run could take it.
    """
    check_start(folder)
    theirs = read_config(hf_towers(folder))
    model = ModelConfig(
        num_layers=theirs["num_hidden_layers"], hidden_size=theirs["hidden_size"],
        num_heads=theirs["num_attention_heads"], intermediate_size=theirs["intermediate_size"],
        projection_size=theirs["retriever_proj_size"], projection_norm_eps=theirs["layer_norm_eps"],
        share_towers=False, dropout=0.0, start_from=folder,
    )  # fmt: skip
    realm = build_model(model, vocab_size=theirs["vocab_size"], max_tokens=theirs["max_position_embeddings"], seed=0)
    passage = realm.passage_tower.state_dict()
    if all(torch.equal(passage[name], value) for name, value in realm.query_tower.state_dict().items()):
        realm.passage_tower = realm.query_tower
    return realm.eval()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[1].strip() if len(lines) > 1 else lines[0]
