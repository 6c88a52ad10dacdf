"""What an export is made of: which weights of a run, and what is known of them. Writing is export.py's business."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Literal

from realm_ds.config.load import RUN_CONFIG
from realm_ds.data.shards import Shards
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.files import recover_folder
from realm_ds.models.realm import RealmModel, load_export
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.sealed import MANIFEST, check
from realm_ds.train import checkpoint
from realm_ds.train.best import FOLDER, RECORD, read_best
from realm_ds.train.consolidate import consolidate_into, weight_shapes

Step = int | Literal["best", "latest"]
"""A checkpoint's; the models that train/best.py has kept; the newest checkpoint that is whole."""
_PREFIX = "model."
"""What objectives call the three networks."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights of a run, found whole."""

    folder: Path
    step: int
    """Optimizer steps done."""
    stage: str
    why: str
    """Why these, in the words of a card."""
    metrics: Mapping[str, float]
    """What was measured on held-out data at that step; nothing where nothing was."""
    saved_on: str
    """The day, UTC."""
    corpus: str | None = None
    """How the digest of the passages begins that it was trained over; None where that is not known."""


def find_source(run_folder: Path, step: Step) -> Source:
    """Raises CheckpointError where there are none, or damaged ones."""
    if step == "best":
        return _best(run_folder)
    folder = checkpoint.find(run_folder, None if step == "latest" else step)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    return Source(
        folder=folder, step=manifest["step"], stage=manifest["stage"],
        why="the newest checkpoint that is whole" if step == "latest" else "the checkpoint that was asked for",
        metrics=_measured(run_folder, manifest["step"]), saved_on=_day(folder / MANIFEST),
        corpus=checkpoint.read_states(folder)[0].fixed.get("data.corpus"),
    )  # fmt: skip


def check_corpus(source: Source, corpus: Shards, *, run_folder: Path) -> None:
    """Raise ConfigError if passages, and so tokenizer and vectors, are not what the weights were trained with."""
    if source.corpus is not None and not corpus.digest.startswith(source.corpus):
        raise ConfigError(
            f"{source.folder} was trained with another corpus or tokenizer than are now in {corpus} (its digest "
            f"was {source.corpus}, now {corpus.digest[:12]}): name those in data.corpus and data.tokenizer of "
            f"{run_folder / RUN_CONFIG}"
        )


def read_source(realm: RealmModel, source: Source) -> None:
    """Overwrite the weights of a run's model, in place. Raises CheckpointError if the source's are of another model."""
    if source.folder.name == FOLDER:
        load_export(realm, source.folder)
        return
    own = realm.state_dict()
    names = {name.removeprefix(_PREFIX) for name in weight_shapes(source.folder) if name.startswith(_PREFIX)}
    # A shared tower and tied weights are saved once, under their first name.
    filled = {own[name].data_ptr() for name in names & own.keys()}
    lacking = [name for name, value in own.items() if value.data_ptr() not in filled]
    if wrong := sorted(names - own.keys()) or lacking:
        what = "has" if names - own.keys() else "lacks"
        raise CheckpointError(
            f"{source.folder} does not hold the model of config.yaml: it {what} {wrong[0]} and {len(wrong) - 1} more"
        )
    consolidate_into({_PREFIX + name: own[name] for name in names}, source.folder)


def _best(run_folder: Path) -> Source:
    folder = run_folder / FOLDER
    recover_folder(folder)
    best = read_best(folder)
    if best is None:
        raise CheckpointError(
            f"{run_folder} has kept no best models: none were judged on held-out sentences or questions "
            "(evaluate.every_steps, evaluate.keep_best); take --step latest"
        )
    try:
        check(folder)
    except CheckpointError as error:
        raise CheckpointError(f"the best models are not whole: {error}; take --step latest") from error
    return Source(
        folder=folder, step=best.step, stage="pretrain", why=f"the best by {best.measure}, {best.value:.4g}",
        metrics=best.metrics, saved_on=_day(folder / RECORD), corpus=best.corpus,
    )  # fmt: skip


def _measured(run_folder: Path, step: int) -> dict[str, float]:
    path = metrics_path(run_folder, role="trainer", role_rank=0)
    if not path.is_file():
        return {}
    found = {}
    for event in read_events(path, event="evaluated"):
        if event["step"] == step:
            found = {
                name: value for name, value in event.items()
                if name.startswith("held_out_") and isinstance(value, float) and isfinite(value)
            }  # fmt: skip
    return found


def _day(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
