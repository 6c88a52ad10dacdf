"""Google's own checkpoints of REALM, which are TensorFlow's: their variables as a folder in transformers' layout.

    embedder/    the module of both towers: variables module/module/module/bert/..., module/module/dense/...
    bert/        the module of the encoder: variables bert/..., cls/...

What that layout is, and reading it, is hf_realm.py's business. Only `read_variables` needs TensorFlow.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.models.hf_realm import DEFAULTS, Weights
from realm_ds.models.hf_realm_write import write_model
from realm_ds.models.names import HF_EMBEDDER, HF_ENCODER, TF_ENCODER

Variables = Mapping[str, np.ndarray]
HEAD_WIDTH = 64
"""Of every BERT of Google's: checkpoints do not tell how many heads there are."""
SKIPPED = re.compile(r"(^|/)(adam_[mv]|global_step|seq_relationship)(/|$)")
"""An optimizer's state, and a head of BERT's that REALM does not have."""
LAST_PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "output_bias": "bias"}
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
"""Variables that transformers has as modules with a weight."""


def write_tf_as_hf(source: Path, folder: Path, *, tokenizer_folder: Path) -> None:
    """Google's two modules in `source` as embedder/ and encoder/ in `folder`.

    Raises ConfigError without TensorFlow, CheckpointError if variables are missing.
    """
    embedder = embedder_of_variables(read_variables(checkpoint_prefix(source / HF_EMBEDDER)))
    encoder = encoder_of_variables(read_variables(checkpoint_prefix(source / TF_ENCODER)))
    try:
        config = config_of(embedder)
    except KeyError as error:
        raise CheckpointError(
            f"{source / HF_EMBEDDER} has no variable for {error.args[0]!r}: not Google's embedder; copy it again"
        ) from error
    write_model(folder / HF_EMBEDDER, "RealmEmbedder", embedder, config=config, tokenizer_folder=tokenizer_folder)
    write_model(
        folder / HF_ENCODER, "RealmKnowledgeAugEncoder", encoder, config=config, tokenizer_folder=tokenizer_folder
    )


def read_variables(prefix: Path) -> Variables:
    """All variables of a checkpoint by name. Raises ConfigError if TensorFlow is not installed."""
    try:
        import tensorflow
    except ImportError as error:
        raise ConfigError(
            f"{prefix} is a checkpoint of TensorFlow, which is not installed here: pip install tensorflow-cpu (in an "
            "environment beside this one if their versions quarrel), and import again"
        ) from error
    reader = tensorflow.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def checkpoint_prefix(folder: Path) -> Path:
    """What TensorFlow calls the checkpoint in a folder. Raises CheckpointError unless there is one."""
    found = sorted(folder.rglob("*.index"))
    if len(found) != 1:
        raise CheckpointError(
            f"{folder} holds {len(found)} checkpoints of TensorFlow (files *.index), and one is wanted: keep the one "
            "to import"
        )
    return found[0].with_suffix("")


def embedder_of_variables(variables: Variables) -> Weights:
    """Variables of the embedder's module under a RealmEmbedder's names."""
    return _renamed(variables, {"bert": "realm", "cls": "cls", "dense": "cls.dense", "LayerNorm": "cls.LayerNorm"})


def encoder_of_variables(variables: Variables) -> Weights:
    """Variables of the encoder's module under a RealmKnowledgeAugEncoder's names."""
    return _renamed(variables, {"bert": "realm", "cls": "cls"})


def config_of(embedder: Weights) -> dict[str, Any]:
    """The settings of a RealmConfig, as the shapes tell them. KeyError where a variable is missing."""
    num_words, width = embedder["realm.embeddings.word_embeddings.weight"].shape
    layers = {int(found[1]) for name in embedder if (found := re.match(r"realm\.encoder\.layer\.(\d+)\.", name))}
    return {
        **DEFAULTS, "model_type": "realm", "pad_token_id": 0, "vocab_size": num_words, "hidden_size": width,
        "num_hidden_layers": len(layers), "num_attention_heads": max(1, width // HEAD_WIDTH),
        "intermediate_size": len(embedder["realm.encoder.layer.0.intermediate.dense.bias"]),
        "max_position_embeddings": len(embedder["realm.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(embedder["realm.embeddings.token_type_embeddings.weight"]),
        "retriever_proj_size": len(embedder["cls.dense.bias"]),
    }  # fmt: skip


def _renamed(variables: Variables, firsts: Mapping[str, str]) -> Weights:
    """Of the variables whose first part, behind any number of "module", is one of `firsts`."""
    weights = {}
    for name, array in variables.items():
        first, *rest = re.sub(r"^(module/)+", "", name).split("/")
        if first not in firsts or SKIPPED.search(name):
            continue
        parts = [re.sub(r"^layer_(\d+)$", r"layer.\1", part) for part in rest]
        *middle, last = parts
        kind = f"{last}.weight" if last in TABLES else LAST_PARTS.get(last, last)
        value = array.T if last == "kernel" else array  # TensorFlow multiplies from the left
        weights[".".join([firsts[first], *middle, kind])] = torch.from_numpy(np.array(value, order="C"))
    return weights
