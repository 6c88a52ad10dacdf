"""How a run goes on from its newest checkpoint: with the layout that wrote it bit by bit, with another one re-dealt.

A layout is the number of trainers, the ZeRO stage, and whether states lie on a disk. Index ranks are no part of it:
index/store.py's files know nothing of their number. What is in a checkpoint is checkpoint.py's business.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from realm_ds.comm.trainers import Trainers
from realm_ds.config.base import StageName
from realm_ds.data.redeal import StreamState
from realm_ds.errors import CheckpointError
from realm_ds.files import SET_ASIDE, publish_folder, recover_folder
from realm_ds.observe.sinks import Sinks
from realm_ds.sealed import MANIFEST, check, seal, sha256
from realm_ds.train import checkpoint
from realm_ds.train.checkpoint import CONVERTED, UNFINISHED, IndexState, TrainState
from realm_ds.train.consolidate import CHECKPOINT_TAG
from realm_ds.train.engine import Engine
from realm_ds.train.manifest import DAMAGED, lost_folders, saved_steps
from realm_ds.train.stage import Stage
from realm_ds.train.universal import convert

log = logging.getLogger(__name__)

_COMPATIBLE = ({0}, {1, 2}, {3})
"""ZeRO stages whose checkpoints, but for 0 converted, the stages beside them can load too."""


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a run goes on; as it is, at its beginning."""

    step: int = 0
    streams: Mapping[str, tuple[StreamState, ...]] = field(default_factory=dict)
    """By name, where each of the trainers that wrote the checkpoint stood."""
    index: IndexState | None = None

    def stream(self, name: str) -> tuple[StreamState, ...]:
        """For RecordStream.go_on; empty for a stream that the run did not have."""
        return self.streams.get(name, ())


def go_on(engine: Engine, stage: Stage, name: StageName) -> Resumed:
    """Restore the engine from the run's newest whole checkpoint, and say where everything else goes on. Collective.

    A run that was stopped before its first checkpoint begins again. Raises CheckpointError if the checkpoint is another
    run's, or of a layout that this one cannot take over.
    """
    folder = _find(stage.folder, trainers=stage.trainers, sinks=stage.sinks)
    if folder is None:
        return Resumed()
    states = checkpoint.read_states(folder)
    _check_is_of_this_run(states[0], folder, stage=name, fixed=stage.fixed_settings(name))
    return _restore(engine, folder, states, stage)


def _find(run_folder: Path, *, trainers: Trainers, sinks: Sinks) -> Path | None:
    """The checkpoint to go on from, which trainer 0 alone looks for and checks; None before the first."""
    name = _look(run_folder, sinks) if trainers.rank == 0 else None
    name = trainers.broadcast_bytes(None if name is None else name.encode()).decode()
    return run_folder / "checkpoints" / name if name else None


def _look(run_folder: Path, sinks: Sinks) -> str:
    """The name of the newest whole checkpoint, '' before the first; what is damaged is set aside, if there is one.

    Raises CheckpointError, and leaves all as it is, where there have been checkpoints and none is whole.
    """
    folders = run_folder / "checkpoints"
    for cut_off in folders.glob(f"{UNFINISHED}*"):
        shutil.rmtree(cut_off)
    for old in folders.glob(f"{SET_ASIDE}*"):
        recover_folder(old.with_name(old.name.removeprefix(SET_ASIDE)))
    if not saved_steps(run_folder):
        lost = lost_folders(run_folder)
        if lost:
            raise CheckpointError(
                f"{run_folder} holds no whole checkpoint, only what was found damaged: {', '.join(lost)}. Start a new "
                "run in another folder"
            )
        _remark(sinks, f"{run_folder} was stopped before its first checkpoint: it begins again")
        return ""
    damaged: list[tuple[Path, str]] = []
    found = checkpoint.find(run_folder, on_damage=lambda folder, fault: damaged.append((folder, fault)))
    for folder in folders.glob("step-*"):
        if not (folder / MANIFEST).is_file():  # published whole, so somebody has removed it
            damaged.append((folder, f"{folder / MANIFEST} is missing"))
    for folder, fault in damaged:
        # Else it would count as the newest of those to keep, and the whole ones be pruned for it.
        aside = folder.with_name(DAMAGED + folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        _remark(sinks, f"{fault}; {folder.name} is set aside as {aside.name}, the checkpoint before it is used")
    return found.name


def _remark(sinks: Sinks, text: str) -> None:
    """To the log and console of trainer 0, and through its events to whoever follows the run."""
    log.warning(text)
    sinks.write("remark", text=text)


def _check_is_of_this_run(found: TrainState, folder: Path, *, stage: str, fixed: Mapping[str, str]) -> None:
    if found.stage != stage:
        raise CheckpointError(
            f"{folder} is of stage {found.stage}, and this is stage {stage}: resume that stage, or start this one in "
            "a folder of its own"
        )
    changed = [f"{name} was {found.fixed.get(name, 'not set')}, now {now}" for name, now in fixed.items()
               if found.fixed.get(name) != now]  # fmt: skip
    if changed:
        raise CheckpointError(
            f"{folder} cannot be gone on with after these changes: {'; '.join(changed)}. Undo them, or start a new run "
            "from this one's export with model.start_from"
        )


def _restore(engine: Engine, folder: Path, states: Sequence[TrainState], stage: Stage) -> Resumed:
    trainers, found = stage.trainers, states[0]
    is_same = _layout(found) == (trainers.size, engine.zero_stage, engine.is_on_disk)
    if not is_same:
        _check_can_take_over(found, folder, engine, num_trainers=trainers.size)
    _check_groups(found, folder, engine)
    # Without ZeRO every trainer holds everything, in bf16 too: there is nothing to convert.
    if is_same or engine.zero_stage == 0:
        engine.load(folder)
    else:
        converted = _converted(folder, trainers=trainers, timeout_s=stage.config.runtime.wait_timeout_s)
        engine.load_converted(converted, groups=found.groups)
    if trainers.rank == 0:
        _tell_what_changed(found, engine, stage)
    index = states[trainers.rank].index if found.num_trainers == trainers.size else found.index
    if index is not None and found.num_trainers != trainers.size:
        index = replace(index, probe_uids=())  # of sentences that other trainers now have
    names = found.streams.keys()
    return Resumed(
        step=found.step, index=index, streams={name: tuple(state.streams[name] for state in states) for name in names}
    )


def _layout(found: TrainState) -> tuple[int, int, bool]:
    return found.num_trainers, found.zero_stage, found.on_disk


def _check_can_take_over(found: TrainState, folder: Path, engine: Engine, *, num_trainers: int) -> None:
    """Whether this layout, another than the one that wrote the checkpoint, can go on from it; else CheckpointError."""
    if found.on_disk or engine.is_on_disk:
        raise CheckpointError(
            f"{folder} was written by {found.num_trainers} trainers with states {_place(found.on_disk)}, and is to be "
            f"gone on with by {num_trainers} with states {_place(engine.is_on_disk)}: what is on a disk cannot be "
            f"divided anew; go on with {found.num_trainers} trainers and the offload in runtime.deepspeed that it was "
            "written with, or start a new run from this one's export with model.start_from"
        )
    if not any({found.zero_stage, engine.zero_stage} <= stages for stages in _COMPATIBLE):
        raise CheckpointError(
            f"{folder} is of ZeRO stage {found.zero_stage}, and runtime.deepspeed now asks for stage "
            f"{engine.zero_stage}: of them only 1 and 2 can take over from each other; go on with stage "
            f"{found.zero_stage}, or start a new run from this one's export with model.start_from"
        )


def _place(on_disk: bool) -> str:
    return "on a disk (NVMe offload)" if on_disk else "in memory"


def _check_groups(found: TrainState, folder: Path, engine: Engine) -> None:
    """States belong to parameters by their places in these groups."""
    num_groups = len(engine.groups())
    if len(found.groups) != num_groups:
        raise CheckpointError(
            f"{folder} has {len(found.groups)} groups of parameters with a learning rate and weight decay of their "
            f"own, this run {num_groups}: resume with the rates of modules, and the weight decay, that the run had"
        )


def _converted(folder: Path, *, trainers: Trainers, timeout_s: float) -> Path:
    """The checkpoint as any number of trainers can load it; made by trainer 0, unless an earlier start has made it.

    It is removed once the run has a checkpoint of its own layout.
    """
    converted = folder.with_name(CONVERTED + folder.name)
    if trainers.rank == 0:
        source = sha256(folder / MANIFEST)
        if not _is_converted(converted, source=source):
            unfinished = folder.with_name(UNFINISHED + converted.name)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            log.info("converting %s for another number of trainers", folder)
            convert(folder / CHECKPOINT_TAG, unfinished / CHECKPOINT_TAG)
            seal(unfinished, source=source)
            publish_folder(unfinished, converted)
    trainers.barrier(timeout_s=timeout_s, waiting_for=f"trainer 0 to convert {folder} for another number of trainers")
    return converted


def _is_converted(converted: Path, *, source: str) -> bool:
    """Whether an earlier start has left this checkpoint converted, and whole: it will be unpickled."""
    try:
        return converted.is_dir() and check(converted).get("source") == source
    except CheckpointError as fault:
        log.warning("%s: converted again", fault)
        return False


def _tell_what_changed(found: TrainState, engine: Engine, stage: Stage) -> None:
    now = stage.trainers.size * engine.stage.micro_batch_size * engine.stage.gradient_accumulation_steps
    log.info("going on after step %d", found.step)
    if (found.num_trainers, found.zero_stage) != (stage.trainers.size, engine.zero_stage):
        _remark(
            stage.sinks,
            f"the layout has changed: {found.num_trainers} trainers with ZeRO-{found.zero_stage} wrote step "
            f"{found.step}, {stage.trainers.size} with ZeRO-{engine.zero_stage} go on from it",
        )
    if found.global_batch != now:
        _remark(
            stage.sinks,
            f"the global batch was {found.global_batch} examples up to step {found.step}, and is {now} from here",
        )
