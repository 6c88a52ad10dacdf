"""A model of ours as folders that transformers 4.16 to 4.57 load as REALM, each with the tokenizer beside it.

    embedder/    RealmEmbedder: the passage tower
    scorer/      RealmScorer: both towers
    encoder/     RealmKnowledgeAugEncoder

Reading them, and the tables of names, is hf_realm.py's business; models that answer questions are hf_realm_qa.py's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from realm_ds.errors import ConfigError
from realm_ds.models.hf_realm import BERT_SIZES, ENCODER_NAMES, SAME_FUNCTIONS, TOWER_NAMES, Weights, flipped, renamed
from realm_ds.models.names import HF_EMBEDDER, HF_ENCODER, HF_SCORER
from realm_ds.models.realm import RealmModel
from realm_ds.models.tokenizer_files import copy_tokenizer
from realm_ds.models.towers import Embedder


def write_hf_realm(realm: RealmModel, folder: Path, *, tokenizer_folder: Path, num_candidates: int = 8) -> None:
    """Write the three folders. Raises ConfigError if transformers' classes cannot compute what the model does.

    `num_candidates`, the null passage among them, is how RealmScorer splits its candidates. Of two towers, it takes the
    one of queries only when told so: RealmScorer.from_pretrained(scorer, query_embedder=RealmEmbedder(config)).
    """
    tower = realm.passage_tower
    config = realm_config(tower) | {"num_candidates": num_candidates}
    check_same_bert(tower.bert.config, realm.encoder.mlm.config)
    passage = embedder_weights(tower)
    scorer = {f"embedder.{name}": value for name, value in passage.items()}
    if not realm.shares_towers:
        scorer |= {f"query_embedder.{name}": value for name, value in embedder_weights(realm.query_tower).items()}
    write_model(folder / HF_EMBEDDER, "RealmEmbedder", passage, config=config, tokenizer_folder=tokenizer_folder)
    write_model(folder / HF_SCORER, "RealmScorer", scorer, config=config, tokenizer_folder=tokenizer_folder)
    encoder = encoder_weights(realm.encoder)
    write_model(
        folder / HF_ENCODER, "RealmKnowledgeAugEncoder", encoder, config=config, tokenizer_folder=tokenizer_folder
    )


def realm_config(tower: Embedder) -> dict[str, Any]:
    """The settings of a RealmConfig. Raises ConfigError if REALM's tower in transformers is not like this one."""
    bert = tower.bert.config
    if bert.model_type != "bert":
        raise ConfigError(
            f"the encoders are of type {bert.model_type!r}, and REALM in transformers is made of BERTs: export them "
            "with --layout realm or sentence-transformers"
        )
    if tower.norm_eps != bert.layer_norm_eps:
        found = "none" if tower.norm_eps is None else f"one with epsilon {tower.norm_eps:g}"
        raise ConfigError(
            f"behind the projection transformers' REALM has a LayerNorm with BERT's epsilon, {bert.layer_norm_eps:g}, "
            f"and this model has {found}: export it with --layout realm or sentence-transformers"
        )
    sizes = {name: getattr(bert, name) for name in BERT_SIZES}
    return {
        **sizes,
        "hidden_act": SAME_FUNCTIONS.get(bert.hidden_act, bert.hidden_act),  # older versions know only this name
        "initializer_range": bert.initializer_range,
        "model_type": "realm",
        "pad_token_id": 0,
        "retriever_proj_size": tower.dense.out_features,
        "torch_dtype": str(tower.dense.weight.dtype).removeprefix("torch."),
    }


def check_same_bert(tower: PreTrainedConfig, other: PreTrainedConfig) -> None:
    """Raise ConfigError unless both are BERTs of the same sizes: a folder has one config.json for both."""
    if other.model_type != "bert" or any(getattr(tower, name) != getattr(other, name) for name in BERT_SIZES):
        raise ConfigError("towers and encoder are of different sizes, and REALM in transformers has one for both")


def embedder_weights(tower: Embedder) -> Weights:
    """All that a RealmEmbedder has, by its names."""
    weights = renamed(tower.state_dict(), flipped(TOWER_NAMES))
    return weights | idle_head(weights["realm.embeddings.word_embeddings.weight"])


def encoder_weights(encoder: nn.Module) -> Weights:
    """All that a RealmKnowledgeAugEncoder has, by its names, save what it ties to others itself."""
    weights = renamed(encoder.state_dict(), flipped(ENCODER_NAMES))
    weights = {name: value for name, value in weights.items() if ".predictions.decoder." not in name}
    return weights | idle_pooler(weights["realm.embeddings.word_embeddings.weight"])


def idle_head(words_VH: Tensor) -> Weights:
    """A vocabulary head that its class has and nothing goes through: it adds nothing."""
    num_words, width = words_VH.shape
    # As large as the word embeddings; numpy's zeros take no memory until something is written there.
    zeros = torch.from_numpy(np.zeros(words_VH.nbytes, dtype=np.uint8))
    return {
        "cls.predictions.bias": words_VH.new_zeros(num_words),
        "cls.predictions.transform.dense.weight": words_VH.new_zeros(width, width),
        "cls.predictions.transform.dense.bias": words_VH.new_zeros(width),
        "cls.predictions.transform.LayerNorm.weight": words_VH.new_ones(width),
        "cls.predictions.transform.LayerNorm.bias": words_VH.new_zeros(width),
        "cls.predictions.decoder.weight": zeros.view(words_VH.dtype).view(words_VH.shape),
    }


def idle_pooler(words_VH: Tensor) -> Weights:
    """A pooler that its class has and nothing goes through."""
    width = words_VH.shape[1]
    return {
        "realm.pooler.dense.weight": words_VH.new_zeros(width, width),
        "realm.pooler.dense.bias": words_VH.new_zeros(width),
    }


@torch.no_grad()
def write_model(
    folder: Path, kind: str, weights: Weights, *, config: Mapping[str, Any], tokenizer_folder: Path
) -> None:
    """One folder that `kind`.from_pretrained loads."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"architectures": [kind], **config}
    (folder / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    copy_tokenizer(tokenizer_folder, folder)
