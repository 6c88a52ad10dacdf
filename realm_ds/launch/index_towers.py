"""The two towers that an index is of, wherever they are: an export folder, Google's REALM in transformers' layout, or
the snapshot of a run's index version.

Looking at them costs no more than reading their files once; torch builds them only to embed with.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from realm_ds.config.schema import RealmConfig
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.index.store import VERSION_NAME, PartFault, check_snapshot
from realm_ds.launch.index_store import snapshot_step
from realm_ds.models.hf_realm import open_tower, read_config, weights_file
from realm_ds.models.names import PASSAGE_TOWER, QUERY_TOWER, check_export, hf_towers, is_hf_realm, strip_prefix
from realm_ds.models.realm import frozen_tower
from realm_ds.models.towers import PROJECTION_FILE, Embedder
from realm_ds.models.weights import WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class TowerSource:
    """Where the towers are, and what can be told of them without building them."""

    path: Path
    """An export folder, one with Google's REALM, or a snapshot.safetensors."""
    sha256: str
    """Of the weights: an index is of these and no others."""
    width: int
    num_words: int | None
    """Wordpieces and positions they have room for; None where only the settings of the run tell."""
    num_positions: int | None
    num_bytes: int
    """Of one tower's weights."""
    step: int | None


def look_at_towers(path: Path) -> TowerSource:
    """Read the files of the towers. Raises CheckpointError if they are none, or damaged."""
    try:
        if is_hf_realm(path):
            return _of_hf_realm(path)
        return _of_export(path) if path.is_dir() or not path.exists() else _of_snapshot(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not hold two towers as realm-ds writes them ({error}): export again"
        ) from error


def check_towers(towers: TowerSource, config: RealmConfig, tokenizer: Tokenizer) -> None:
    """Raise ConfigError unless the towers can read the config's passages and queries."""
    if towers.num_words is not None and towers.num_words < tokenizer.vocab_size:
        raise ConfigError(
            f"{towers.path} has {towers.num_words} wordpieces, but data.tokenizer={config.data.tokenizer} has "
            f"{tokenizer.vocab_size}: name the tokenizer that the towers were trained with"
        )
    own = towers.path / "tokenizer"
    if own.is_dir() and load_tokenizer(own).fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"{towers.path} was trained with another tokenizer (its own is in {own}) than data.tokenizer="
            f"{config.data.tokenizer}: name a corpus and tokenizer that were prepared together with it"
        )
    longest = max(config.data.passage_tokens, config.data.query_tokens)
    if towers.num_positions is not None and towers.num_positions < longest:
        raise ConfigError(
            f"{towers.path} has {towers.num_positions} positions, but passages and queries may take {longest} "
            "wordpieces: lower data.passage_tokens and data.query_tokens"
        )


def load_tower(
    towers: TowerSource, name: str, config: RealmConfig, *, vocab_size: int, device: torch.device
) -> Embedder:
    """One of the two, ready to embed."""
    if is_hf_realm(towers.path):
        tower = open_tower(towers.path, name)
    elif towers.path.is_dir():
        tower = Embedder.load(towers.path / name)
    else:
        state = load_file(towers.path)
        weights = strip_prefix(state, name) or strip_prefix(state, PASSAGE_TOWER)  # one that is shared is there once
        tower = frozen_tower(config.model, vocab_size=vocab_size, max_tokens=config.data.joint_tokens)
        try:
            tower.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"{towers.path} was made with other model sizes than its run's config.yaml says: {error}"
            ) from error
    return tower.eval().requires_grad_(False).to(device)


def device_for(number: int = 0) -> torch.device:
    """The GPU of a rank with this number among those of its host, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", number % torch.cuda.device_count())


def _of_export(folder: Path) -> TowerSource:
    check_export(folder)
    digest = hashlib.sha256()
    for name in (PASSAGE_TOWER, QUERY_TOWER):
        for file_name in (WEIGHTS_FILE, PROJECTION_FILE):
            path = folder / name / file_name
            if not path.is_file():
                raise CheckpointError(f"{folder} is not an export of realm-ds: {name}/{file_name} is missing")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    tower = folder / PASSAGE_TOWER
    with safe_open(tower / PROJECTION_FILE, framework="pt") as file:
        width = int(file.get_slice("dense.weight").get_shape()[0])
    config = json.loads((tower / "config.json").read_bytes())
    return TowerSource(
        path=folder, sha256=digest.hexdigest(), width=width, num_words=config["vocab_size"],
        num_positions=config["max_position_embeddings"], step=None,
        num_bytes=sum((tower / name).stat().st_size for name in (WEIGHTS_FILE, PROJECTION_FILE)),
    )  # fmt: skip


def _of_hf_realm(folder: Path) -> TowerSource:
    config, path = read_config(hf_towers(folder)), weights_file(hf_towers(folder))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TowerSource(
        path=folder, sha256=digest, width=config["retriever_proj_size"], num_words=config["vocab_size"],
        num_positions=config["max_position_embeddings"], step=None, num_bytes=path.stat().st_size,
    )  # fmt: skip


def _of_snapshot(path: Path) -> TowerSource:
    named = VERSION_NAME.fullmatch(path.parent.name)
    if named is not None:
        try:
            check_snapshot(path.parent.parent, int(named[1]))
        except PartFault as fault:
            raise CheckpointError(f"{path} is {fault}: take another version, or an export") from fault
    passage = strip_prefix(load_file(path), PASSAGE_TOWER)
    # What trainer 0 sends to the index ranks, which name the versions they build and store by its digest.
    data = save(passage)
    return TowerSource(
        path=path, sha256=hashlib.sha256(data).hexdigest(), width=len(passage["dense.weight"]), num_words=None,
        num_positions=None, step=snapshot_step(path), num_bytes=len(data),
    )  # fmt: skip
