"""The models of an export in each of its layouts, and back for `--verify`. Index, passages and card are export.py's."""

from pathlib import Path

from realm_ds.config.schema import RealmConfig
from realm_ds.errors import ConfigError
from realm_ds.models.hf_realm_write import write_hf_realm
from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER
from realm_ds.models.realm import RealmModel, load_export, load_hf_realm
from realm_ds.models.sentence import write_sentence_transformer
from realm_ds.train.export import Dtype, Layout, write_models

_READERS = {"realm": load_export, "hf-realm": load_hf_realm}


def check_layout(layout: Layout, *, dtype: Dtype, verify: bool) -> None:
    """Raise ConfigError, before anything is read, for what a layout cannot have."""
    if verify and layout not in _READERS:
        raise ConfigError(f"--verify reads back {' and '.join(_READERS)}, not {layout}: leave --verify out")
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


def read_layout(realm: RealmModel, folder: Path, *, layout: Layout) -> None:
    """Overwrite the weights of `realm` with those that were written."""
    _READERS[layout](realm, folder)
