"""The models of an export in each of its layouts, and each of its folders opened again. Index, passages and card are
export.py's business."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.hf_realm import encoder_in, tower_in
from realm_ds.models.hf_realm_write import write_hf_realm
from realm_ds.models.names import ENCODER, HF_EMBEDDER, HF_ENCODER, HF_SCORER, PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.realm import RealmModel
from realm_ds.models.sentence import open_sentence_transformer, write_sentence_transformer
from realm_ds.models.towers import Embedder
from realm_ds.train.export import Dtype, Layout, write_models


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder of an export, and one of the three networks, which is in it."""

    folder: str
    network: str
    open: Callable[[Path], nn.Module]
    """By the files of that folder alone."""


def _hf_tower(network: str) -> Callable[[Path], Embedder]:
    return lambda folder: tower_in(folder, network)


PARTS: Mapping[Layout, tuple[Part, ...]] = {
    "realm": (
        Part(folder=QUERY_TOWER, network=QUERY_TOWER, open=Embedder.load),
        Part(folder=PASSAGE_TOWER, network=PASSAGE_TOWER, open=Embedder.load),
        Part(folder=ENCODER, network=ENCODER, open=KnowledgeAugEncoder.load),
    ),
    "hf-realm": (
        Part(folder=HF_SCORER, network=QUERY_TOWER, open=_hf_tower(QUERY_TOWER)),
        Part(folder=HF_SCORER, network=PASSAGE_TOWER, open=_hf_tower(PASSAGE_TOWER)),
        Part(folder=HF_EMBEDDER, network=PASSAGE_TOWER, open=_hf_tower(PASSAGE_TOWER)),
        Part(folder=HF_ENCODER, network=ENCODER, open=encoder_in),
    ),
    "sentence-transformers": (
        Part(folder=QUERY_TOWER, network=QUERY_TOWER, open=open_sentence_transformer),
        Part(folder=PASSAGE_TOWER, network=PASSAGE_TOWER, open=open_sentence_transformer),
    ),
}


def check_layout(layout: Layout, *, dtype: Dtype) -> None:
    """Raise ConfigError, before anything is read, for what a layout cannot have."""
    if dtype != "fp32" and layout == "sentence-transformers":
        raise ConfigError(f"sentence-transformers opens parts of a model as float32, whatever they are: not {dtype}")


def write_layout(realm: RealmModel, folder: Path, *, layout: Layout, config: RealmConfig) -> None:
    """Raises ConfigError if the layout's library cannot compute what the models do."""
    tokenizer_folder, data = config.data.tokenizer, config.data
    if layout == "realm":
        write_models(realm, folder, tokenizer_folder=tokenizer_folder)
    elif layout == "hf-realm":
        num_candidates = config.pretrain.candidates
        write_hf_realm(realm, folder, tokenizer_folder=tokenizer_folder, num_candidates=num_candidates)
    else:
        towers = {QUERY_TOWER: (realm.query_tower, data.query_tokens)}
        towers[PASSAGE_TOWER] = (realm.passage_tower, data.passage_tokens)
        for name, (tower, max_tokens) in towers.items():
            write_sentence_transformer(tower, folder / name, tokenizer_folder=tokenizer_folder, max_tokens=max_tokens)


def open_part(folder: Path, part: Part) -> nn.Module:
    """The network as it was written, in float32."""
    return part.open(folder / part.folder).float().eval()


def passage_part(layout: Layout) -> Part:
    """Where the passage tower is."""
    return next(part for part in PARTS[layout] if part.network == PASSAGE_TOWER)
