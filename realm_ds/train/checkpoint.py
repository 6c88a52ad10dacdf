"""A checkpoint: DeepSpeed's shards, where every trainer stood in its streams, a manifest. Whole, or not there at all.

    checkpoints/step-00000100/{zero/, trainer-00000.json, ..., manifest.json}    checkpoints/latest

Which index versions belong to a step follows from the step and the launches (index/versions.py); their files are
refresh.py's business. How a run goes on from a checkpoint is resume.py's.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from realm_ds.comm.trainers import Trainers
from realm_ds.data.redeal import Interval, StreamState
from realm_ds.errors import CheckpointError
from realm_ds.files import publish_folder, write_durably
from realm_ds.sealed import OtherFormat, check, seal
from realm_ds.train.engine import Engine
from realm_ds.train.manifest import saved_steps, step_folder
from realm_ds.train.writer import Writer

log = logging.getLogger(__name__)

UNFINISHED, CONVERTED = "unfinished-", "universal-"
"""What stands before the name of a folder that no search for checkpoints may match."""


@dataclass(frozen=True, kw_only=True)
class IndexState:
    """What the next launches are decided by, so that a resumed run decides alike."""

    launches: tuple[int, ...]
    """Steps at which versions were or will be launched, by version; none where the settings say it."""
    probe_uids: tuple[tuple[int, ...], ...]
    """What this trainer's probe queries found in the adopted version (train/staleness.py)."""
    changed_share: float | None
    """Share of the hits that the newest adoption changed, over all trainers."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where one trainer stood: everything that is not in DeepSpeed's shards. Dropout is a function of the step."""

    stage: str
    step: int
    """Optimizer steps done."""
    num_trainers: int
    zero_stage: int
    on_disk: bool
    """Whether weights or optimizer states lie on a disk (NVMe offload), whose checkpoints have another layout."""
    global_batch: int
    """Examples of one optimizer step, of all trainers."""
    streams: Mapping[str, StreamState]
    """By name. Of the records consumed by these steps, not of those prefetched."""
    groups: Sequence[Mapping[str, Any]]
    """Settings of each parameter group (learning rate, weight decay, ...), which not every way to load brings back."""
    fixed: Mapping[str, str]
    """Settings that a resumed run must share with this one, by name: positions and index versions count on them."""
    index: IndexState | None = None
    """Of stages that have an index."""


def kept_steps(steps: Sequence[int], *, last: int, every: int | None) -> set[int]:
    """Those of the saved steps to keep: the newest `last`, and all multiples of `every`."""
    return set(sorted(steps)[-last:]) | {step for step in steps if every and step % every == 0}


def save(
    engine: Engine,
    run_folder: Path,
    *,
    state: TrainState,
    trainers: Trainers,
    writer: Writer,
    keep: Callable[[Sequence[int]], Collection[int]],
    timeout_s: float,
) -> None:
    """Write a checkpoint under another name; trainer 0's writer then makes it durable and publishes it. Collective.

    Returns when all files are written; a power cut may still lose them, and the checkpoint before is there until then.
    """
    final = step_folder(run_folder, state.step)
    unfinished = final.with_name(UNFINISHED + final.name)
    if trainers.rank == 0:
        writer.wait_for("checkpoint")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    trainers.barrier(timeout_s=timeout_s, waiting_for=f"trainer 0 to make {unfinished}")
    engine.save(unfinished)
    (unfinished / _trainer_file(trainers.rank)).write_text(_json(asdict(state)), encoding="utf-8")
    trainers.barrier(timeout_s=timeout_s, waiting_for=f"all trainers to write {unfinished}")
    if trainers.rank == 0:
        writer.submit("checkpoint", partial(_publish, unfinished, final, stage=state.stage, step=state.step, keep=keep))


def _publish(
    unfinished: Path, final: Path, *, stage: str, step: int, keep: Callable[[Sequence[int]], Collection[int]]
) -> None:
    """Make durable, rename, move `latest`; then drop what is no longer needed."""
    seal(unfinished, stage=stage, step=step)
    publish_folder(unfinished, final)
    write_durably(final.parent / "latest", _json({"step": step}))
    run_folder = final.parents[1]
    steps = saved_steps(run_folder)
    for old in sorted(set(steps) - set(keep(steps)) - {step}):
        shutil.rmtree(step_folder(run_folder, old))
    # A run that went on from a converted checkpoint now has one of its own layout.
    for converted in final.parent.glob(f"{CONVERTED}*"):
        shutil.rmtree(converted)


def find(run_folder: Path, step: int | None = None, *, on_damage: Callable[[Path, str], None] | None = None) -> Path:
    """The checkpoint of a step, or the newest that is whole; all its files are checked against their sums.

    Newer ones that are damaged are named (`on_damage`; else in the log). Raises CheckpointError when there is none, or
    the one that was asked for is damaged.
    """
    steps = saved_steps(run_folder)
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        there = f"; there are steps {', '.join(map(str, steps))}" if steps else ""
        remedy = "name one of these" if steps else "train first, without --resume"
        raise CheckpointError(f"{run_folder} holds {wanted}{there}: {remedy}")
    if step is not None:
        check(step_folder(run_folder, step))
        return step_folder(run_folder, step)
    damaged: list[tuple[Path, str]] = []
    for newest in reversed(steps):
        folder = step_folder(run_folder, newest)
        try:
            check(folder)
        except OtherFormat:
            raise
        except CheckpointError as fault:
            damaged.append((folder, str(fault)))
        else:
            for newer, text in damaged:
                (on_damage or _log_damage)(newer, text)
            return folder
    faults = "; ".join(text for _, text in damaged)
    raise CheckpointError(f"{run_folder} holds no whole checkpoint: {faults}. Start a new run in another folder")


def _log_damage(folder: Path, fault: str) -> None:
    log.warning("%s: the checkpoint before it is used", fault)


def read_states(folder: Path) -> list[TrainState]:
    """What every trainer wrote into a checkpoint, by trainer rank."""
    first = _read_state(folder, 0)
    return [first, *(_read_state(folder, rank) for rank in range(1, first.num_trainers))]


def _read_state(folder: Path, trainer_rank: int) -> TrainState:
    path = folder / _trainer_file(trainer_rank)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        streams = {name: _stream_state(state) for name, state in data["streams"].items()}
        index = _index_state(data["index"]) if data["index"] else None
        return TrainState(**{**data, "streams": streams, "index": index})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): resume from another checkpoint") from error


def _stream_state(data: Mapping[str, Any]) -> StreamState:
    return StreamState(**{**data, "rest": tuple(Interval(**part) for part in data["rest"])})


def _index_state(data: Mapping[str, Any]) -> IndexState:
    return IndexState(
        launches=tuple(data["launches"]),
        probe_uids=tuple(map(tuple, data["probe_uids"])),
        changed_share=data["changed_share"],
    )


def _trainer_file(trainer_rank: int) -> str:
    return f"trainer-{trainer_rank:05d}.json"


def _json(data: object) -> str:
    return json.dumps(data, indent=1, sort_keys=True)
