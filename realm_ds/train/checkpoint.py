"""A checkpoint: DeepSpeed's shards, where every trainer stood in its stream, a manifest. Whole, or not there at all.

    checkpoints/step-00000100/{zero/, trainer-00000.json, ..., manifest.json}    checkpoints/latest

Which index versions belong to a step follows from the step and the launches (index/versions.py); their files are
refresh.py's business.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realm_ds.comm.trainers import Trainers
from realm_ds.data.stream import StreamState
from realm_ds.errors import CheckpointError
from realm_ds.files import sync, write_durably
from realm_ds.train.engine import Engine

FORMAT = 1


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
    stream: StreamState
    """Of the examples consumed by these steps, not of those prefetched."""
    fixed: Mapping[str, str]
    """Settings that a resumed run must share with this one, by name: positions and index versions count on them."""
    index: IndexState | None = None
    """Of stages that have an index."""


def step_folder(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"step-{step:08d}"


def saved_steps(run_folder: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending."""
    folders = (run_folder / "checkpoints").glob("step-*")
    return sorted(int(f.name.removeprefix("step-")) for f in folders if (f / "manifest.json").is_file())


def save(
    engine: Engine, run_folder: Path, *, state: TrainState, trainers: Trainers, keep: int, timeout_s: float
) -> None:
    """Write a checkpoint under another name, make it durable, rename it, move `latest`, drop the oldest. Collective."""
    final = step_folder(run_folder, state.step)
    unfinished = final.with_name(f"unfinished-{final.name}")  # a name that no search for checkpoints matches
    if trainers.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    trainers.barrier(timeout_s=timeout_s, waiting_for=f"trainer 0 to make {unfinished}")
    engine.save(unfinished)
    _write_json(unfinished / _trainer_file(trainers.rank), asdict(state))
    trainers.barrier(timeout_s=timeout_s, waiting_for=f"all trainers to write {unfinished}")
    if trainers.rank == 0:
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        sums = {str(path.relative_to(unfinished)): _sha256(path) for path in files}
        for path in files:  # DeepSpeed does not; a rename must not outlive what it names
            sync(path)
        _write_json(unfinished / "manifest.json", {"format": FORMAT, "step": state.step, "sha256": sums})
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        sync(final.parent)
        _write_json(final.parent / "latest", {"step": state.step})
        for step in saved_steps(run_folder)[:-keep]:
            shutil.rmtree(step_folder(run_folder, step))
    trainers.barrier(timeout_s=timeout_s, waiting_for=f"trainer 0 to publish {final}")


def find(run_folder: Path, step: int | None = None, *, trainers: Trainers | None = None) -> Path:
    """The checkpoint of a step, or the newest; its files are checked against their sums.

    With `trainers` a collective: trainer 0 reads all the files and tells the others what it found. Raises
    CheckpointError, on every trainer, when there is none or one of its files is damaged.
    """
    if trainers is None:
        return _find_whole(run_folder, step)
    verdict = None
    if trainers.rank == 0:
        try:
            verdict = json.dumps({"name": _find_whole(run_folder, step).name}).encode()
        except CheckpointError as error:
            verdict = json.dumps({"fault": str(error)}).encode()
    told = json.loads(trainers.broadcast_bytes(verdict))
    if "fault" in told:
        raise CheckpointError(told["fault"])
    return run_folder / "checkpoints" / str(told["name"])


def _find_whole(run_folder: Path, step: int | None) -> Path:
    steps = saved_steps(run_folder)
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        there = f"; there are steps {', '.join(map(str, steps))}" if steps else ""
        remedy = "name one of these" if steps else "train first, without --resume"
        raise CheckpointError(f"{run_folder} holds {wanted}{there}: {remedy}")
    folder = step_folder(run_folder, steps[-1] if step is None else step)
    for name, expected in _read_sums(folder).items():
        path = folder / name
        if not path.is_file() or _sha256(path) != expected:
            raise CheckpointError(
                f"{path} is {'damaged' if path.is_file() else 'missing'} (its sha256 is not the manifest's): "
                f"remove {folder} to go on from the checkpoint before it"
            )
    return folder


def _read_sums(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a checkpoint, from its manifest."""
    path = folder / "manifest.json"
    remedy = f"remove {folder} to go on from the checkpoint before it"
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {remedy}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{folder} is of format {found!r}, but this realm-ds reads {FORMAT}: "
            "use the version that wrote it (code.txt in the run folder names it)"
        )
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or not sums:
        raise CheckpointError(f"{path} has no sha256 of the checkpoint's files: {remedy}")
    return sums


def load(engine: Engine, folder: Path, *, stage: str, trainers: Trainers, fixed: Mapping[str, str]) -> TrainState:
    """Restore engine and stream position. Collective. Raises CheckpointError if the checkpoint is another run's."""
    path = folder / _trainer_file(trainers.rank)
    data: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if data.get("stage") != stage or data.get("num_trainers") != trainers.size:
        raise CheckpointError(
            f"{folder} is of stage {data.get('stage', '?')} with {data.get('num_trainers', 'fewer')} trainers; "
            f"this is stage {stage} with {trainers.size}: resume with the layout that wrote it"
        )
    changed = [f"{name} was {data['fixed'].get(name, 'not set')}, now {now}" for name, now in fixed.items()
               if data["fixed"].get(name) != now]  # fmt: skip
    if changed:
        raise CheckpointError(
            f"{folder} cannot be gone on with after these changes: {'; '.join(changed)}. Undo them, or start a new run "
            "from this one's export with model.start_from"
        )
    engine.load(folder)
    index = _index_state(data["index"]) if data.get("index") else None
    return TrainState(**{**data, "stream": StreamState(**data["stream"]), "index": index})


def _index_state(data: Mapping[str, Any]) -> IndexState:
    return IndexState(
        launches=tuple(data["launches"]),
        probe_uids=tuple(map(tuple, data["probe_uids"])),
        changed_share=data["changed_share"],
    )


def _trainer_file(trainer_rank: int) -> str:
    return f"trainer-{trainer_rank:05d}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: object) -> None:
    write_durably(path, json.dumps(data, indent=1, sort_keys=True))
