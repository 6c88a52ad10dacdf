"""Google's REALM as transformers 4.16 to 4.57 wrote it: what its weights are called, and folders of them to start from.

    embedder/    a RealmEmbedder, or a RealmScorer, which may have two: config.json, model.safetensors or .bin
    scorer/      a RealmScorer beside a RealmEmbedder; where it is there, the towers are taken from it
    encoder/     a RealmKnowledgeAugEncoder, likewise

transformers has no REALM since 5.0, so the files are read here. The tables of names serve both ways: hf_realm_write.py
writes such folders, and hf_realm_qa.py has the models that answer questions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig

from realm_ds.errors import CheckpointError
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.names import HF_ENCODER, QUERY_TOWER, hf_towers, strip_prefix
from realm_ds.models.towers import ONE_KERNEL, Embedder

Names = tuple[tuple[str, str | None], ...]
"""Pairs of prefixes, theirs and ours (None: it has no use here); of several that fit the first counts."""
Weights = dict[str, Tensor]

TOWER_NAMES: Names = (("realm.", "bert."), ("cls.dense.", "dense."), ("cls.LayerNorm.", "norm."))
"""Of a RealmEmbedder and models/towers.py's Embedder. Its masked-language-model head, cls.predictions, has no use."""
ENCODER_NAMES: Names = (("realm.pooler.", None), ("realm.", "mlm.bert."), ("cls.", "mlm.cls."))
"""Of a RealmKnowledgeAugEncoder and models/encoder.py's."""
BUFFERS = (".position_ids", ".token_type_ids")
"""No weights, though older versions stored them."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
BERT_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
)  # fmt: skip
"""Settings of a RealmConfig and of a BertConfig alike that must agree."""
SAME_FUNCTIONS = {ours: theirs for theirs, ours in ONE_KERNEL.items()}
"""Activations by the name of the other that computes the same, step by step."""
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 30522, "hidden_size": 768, "retriever_proj_size": 128, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu_new", "max_position_embeddings": 512,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12,
}  # fmt: skip
"""Of RealmConfig, for a config.json that leaves them out."""
OWNERS: Mapping[str, str] = {
    "vocab_size": "data.tokenizer", "hidden_size": "model.hidden_size", "retriever_proj_size": "model.projection_size",
    "num_hidden_layers": "model.num_layers", "num_attention_heads": "model.num_heads",
    "intermediate_size": "model.intermediate_size",
    "projection_norm_eps": "model.projection_norm and model.projection_norm_eps",
    "max_position_embeddings": "data.query_tokens and data.passage_tokens",
}  # fmt: skip
"""Settings that must agree with it; what is not here a run's BERT has as it is."""


@dataclass(frozen=True, kw_only=True)
class HfRealm:
    """The weights by our names. The two towers are one object where there is one embedder."""

    query_tower: Weights
    passage_tower: Weights
    encoder: Weights

    @property
    def shares_towers(self) -> bool:
        """One embedder, or two with the same weights."""
        if self.query_tower is self.passage_tower:
            return True
        return all(torch.equal(self.query_tower[name], value) for name, value in self.passage_tower.items())


def read_hf_realm(folder: Path, *, sizes: Mapping[str, Any]) -> HfRealm:
    """The checkpoint in `folder`. Raises CheckpointError if it cannot be read, or is not of the run's `sizes`.

    `sizes`: what the run's networks have, under the names of RealmConfig, and `projection_norm_eps` (None: no norm).
    """
    for part in (hf_towers(folder), folder / HF_ENCODER):
        _check_sizes(part, sizes)
    query_tower, passage_tower = _read_towers(hf_towers(folder))
    return HfRealm(query_tower=query_tower, passage_tower=passage_tower, encoder=_read_encoder(folder / HF_ENCODER))


def open_tower(folder: Path, name: str) -> Embedder:
    """One of the two towers, of the sizes that the checkpoint says, to embed with. Raises CheckpointError likewise."""
    return tower_in(hf_towers(folder), name)


def tower_in(folder: Path, name: str) -> Embedder:
    """One of the two towers of an embedder's or a scorer's own folder. Raises CheckpointError likewise."""
    query_tower, passage_tower = _read_towers(folder)
    weights = query_tower if name == QUERY_TOWER else passage_tower
    return tower_of_weights(weights, read_config(folder), folder).requires_grad_(False)


def encoder_in(folder: Path) -> KnowledgeAugEncoder:
    """The encoder of a RealmKnowledgeAugEncoder's own folder. Raises CheckpointError likewise."""
    encoder = KnowledgeAugEncoder(bert_of(read_config(folder)))
    load_into(encoder, _read_encoder(folder), folder)
    return encoder.eval()


def tower_of_weights(weights: Weights, config: Mapping[str, Any], folder: Path) -> Embedder:
    """The tower of a RealmConfig with these weights, by our names. Raises CheckpointError if they are not of it."""
    tower = Embedder(
        bert_of(config), projection_size=config["retriever_proj_size"], norm_eps=config["layer_norm_eps"], dropout=0.0
    )
    load_into(tower, weights, folder)
    return tower.eval()


def bert_of(config: Mapping[str, Any]) -> BertConfig:
    """The BERT of a RealmConfig, without dropout."""
    sizes = {size: config[size] for size in BERT_SIZES}
    # As in our own, so that what we wrote computes the same bits again; one kernel, where theirs is written out.
    sizes["hidden_act"] = ONE_KERNEL.get(sizes["hidden_act"], sizes["hidden_act"])
    return BertConfig(**sizes, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def load_into(module: nn.Module, weights: Weights, folder: Path) -> None:
    """Fill a module with all of its weights and no others. Raises CheckpointError if they are not its own."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder} does not hold the weights that its config.json says: copy the checkpoint again"
        ) from error


def renamed(state: Mapping[str, Tensor], names: Names) -> Weights:
    """Weights by their new names, without those that have none."""
    found = {}
    for name, value in state.items():
        old, new = next((pair for pair in names if name.startswith(pair[0])), ("", None))
        if new is not None and not name.endswith(BUFFERS):
            found[new + name.removeprefix(old)] = value
    return found


def flipped(names: Names) -> Names:
    """The table the other way round."""
    return tuple((ours, theirs) for theirs, ours in names if ours is not None)


def _read_towers(folder: Path) -> tuple[Weights, Weights]:
    """Of queries and of passages; the same object where there is one embedder."""
    state = read_weights(folder)
    passage, query = strip_prefix(state, "embedder"), strip_prefix(state, "query_embedder")
    passage_tower = renamed(passage or state, TOWER_NAMES)
    if not query:  # A scorer with one embedder holds it twice, or, where its file was written by hand, once.
        return passage_tower, passage_tower
    query_tower = renamed(query, TOWER_NAMES)
    _check_same_names(query_tower, passage_tower, folder)
    return query_tower, passage_tower


def _check_same_names(query_tower: Weights, passage_tower: Weights, folder: Path) -> None:
    unpaired = {**query_tower, **passage_tower}
    for name in query_tower.keys() & passage_tower.keys():
        del unpaired[name]
    if unpaired:
        name = min(renamed(unpaired, flipped(TOWER_NAMES)))
        raise CheckpointError(
            f"the scorer in {folder} has {name!r} in only one of embedder and query_embedder: copy the checkpoint again"
        )


def _read_encoder(folder: Path) -> Weights:
    encoder = renamed(read_weights(folder), ENCODER_NAMES)
    try:  # What the file may leave out, as it is the same tensor under another name.
        encoder["mlm.cls.predictions.decoder.weight"] = encoder["mlm.bert.embeddings.word_embeddings.weight"]
        encoder["mlm.cls.predictions.decoder.bias"] = encoder["mlm.cls.predictions.bias"]
    except KeyError as error:
        raise CheckpointError(
            f"{folder} lacks {error.args[0].removeprefix('mlm.')!r}: not a RealmKnowledgeAugEncoder of transformers"
        ) from error
    return encoder


def _check_sizes(folder: Path, sizes: Mapping[str, Any]) -> None:
    theirs = read_config(folder)
    if folder.name == HF_ENCODER:  # It has no projection of its own.
        theirs |= {name: sizes[name] for name in ("retriever_proj_size", "projection_norm_eps")}
    differences = [
        f"{name} is {theirs[name]} there and {_word(sizes[name])} by {OWNERS.get(name, 'the BERT of this run')}"
        for name in sizes
        if SAME_FUNCTIONS.get(theirs[name], theirs[name]) != SAME_FUNCTIONS.get(sizes[name], sizes[name])
    ]
    if differences:
        raise CheckpointError(
            f"{folder} is of another shape than this run: {'; '.join(differences)}. Set them as the checkpoint has them"
        )


def _word(value: object) -> object:
    return "none" if value is None else value


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of one of the two models. Raises CheckpointError if it is not Google's REALM."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the checkpoint again") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "realm":
        raise CheckpointError(f"{path} is of model type {kind!r}, not 'realm': {folder.parent} is not Google's REALM")
    config = {**DEFAULTS, **config}
    return {**config, "projection_norm_eps": config["layer_norm_eps"]}


def weights_file(folder: Path) -> Path:
    """Where the weights of one of the two models are. Raises CheckpointError if they are not there."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}: copy the weights there")


def read_weights(folder: Path) -> Weights:
    """All tensors of one of the models, by their names. Raises CheckpointError if they cannot be read."""
    path = weights_file(folder)
    try:
        if path.suffix == ".safetensors":
            state = dict(load_file(path))
        else:
            state = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # Of two libraries, which raise many kinds; torch refuses whatever is no weight.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"the weights in {folder} cannot be read ({reason}): copy them again") from error
    for name, value in state.items():
        if not value.is_floating_point() and not name.endswith(BUFFERS):
            raise CheckpointError(
                f"{path} has {name!r} as {value.dtype}, which is no kind of weight that is read here: take a "
                "checkpoint of float32, bfloat16 or float16"
            )
    return state
