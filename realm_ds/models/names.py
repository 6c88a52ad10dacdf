"""What the three networks are called, and what kind of folder one can start from; without torch, so that it can be
asked before anything is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from realm_ds.config.load import RUN_CONFIG
from realm_ds.errors import CheckpointError

Weight = TypeVar("Weight")
QUERY_TOWER, PASSAGE_TOWER, ENCODER = "query_tower", "passage_tower", "encoder"
"""Folders of an export, and the names of the three networks in every state dict."""
PROJECTION_FILE = "projection.safetensors"
"""In a tower's folder, beside its BERT: the linear map of vectors and its LayerNorm."""
READER = "reader"
"""What only a folder has that answers questions (models/qa.py)."""
HF_EMBEDDER, HF_SCORER, HF_ENCODER = "embedder", "scorer", "encoder"
"""Folders of Google's REALM in transformers' layout (models/hf_realm.py)."""
TF_ENCODER = "bert"
"""What Google calls the encoder's folder, beside its embedder/ (models/tf_realm.py)."""
HEAD_PARTS = (
    "cls", "generator_predictions", "generator_lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector",
)  # fmt: skip
"""What the parts of masked-language-model heads are called: BERT's, ELECTRA's, DistilBERT's (models/encoder.py)."""


def check_export(folder: Path) -> None:
    """Raise CheckpointError unless the folder has the three networks."""
    for place in (folder, folder / "export"):
        if (place / READER).is_dir():
            config = place.parent / RUN_CONFIG
            where = f": it is model.start_from in {config}" if config.is_file() else ""
            raise CheckpointError(
                f"{place} answers questions, and of its towers it has that of questions alone: take the pre-trained "
                f"export that it was made of{where}"
            )
    for name in (QUERY_TOWER, PASSAGE_TOWER, ENCODER):
        if not (folder / name / "config.json").is_file():
            inner = [str(folder / where) for where in ("export", "best") if (folder / where / name).is_dir()]
            hint = f"; of that run there is {' and '.join(inner)}" if inner else ""
            raise CheckpointError(f"{folder} is not an export of realm-ds: {name}/config.json is missing{hint}")


def check_start(folder: Path) -> None:
    """Raise CheckpointError unless the folder is an export or holds Google's REALM."""
    if not is_hf_realm(folder):
        if (folder / "config.json").is_file():
            raise CheckpointError(
                f"model.start_from={folder} is a single transformers model: name it in model.encoder, or, if it is of "
                f"Google's REALM, put the embedder (or scorer) into {HF_EMBEDDER}/ and the encoder into {HF_ENCODER}/ "
                "of one folder"
            )
        check_export(folder)
    elif not (folder / HF_ENCODER / "config.json").is_file():
        raise CheckpointError(
            f"model.start_from={folder} has {HF_EMBEDDER}/, as Google's REALM in transformers' layout, but "
            f"{HF_ENCODER}/config.json is missing: put its RealmKnowledgeAugEncoder there"
        )


def check_encoder_start(folder: Path) -> None:
    """Raise CheckpointError unless the folder is an export."""
    try:
        check_export(folder)
    except CheckpointError as error:
        raise CheckpointError(f"model.encoder_from: {error}") from error


def is_hf_realm(folder: Path) -> bool:
    """Does the folder hold Google's REALM, and not an export of ours?"""
    return (folder / HF_EMBEDDER / "config.json").is_file()


def hf_towers(folder: Path) -> Path:
    """Where Google's REALM has its towers: a scorer's folder can hold two, an embedder's one."""
    scorer = folder / HF_SCORER
    return scorer if (scorer / "config.json").is_file() else folder / HF_EMBEDDER


def strip_prefix(state: Mapping[str, Weight], prefix: str) -> dict[str, Weight]:
    """The part of a state dict that belongs to one sub-module."""
    return {name.removeprefix(prefix + "."): value for name, value in state.items() if name.startswith(prefix + ".")}
