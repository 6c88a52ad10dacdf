"""Going on: what is looked for, what is set aside, what another layout needs. Engine and conversion are stand-ins."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.data.redeal import StreamState
from realm_ds.errors import CheckpointError
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.sealed import seal
from realm_ds.train import checkpoint, resume
from realm_ds.train.checkpoint import IndexState, TrainState
from realm_ds.train.manifest import saved_steps, step_folder
from realm_ds.train.resume import Resumed, go_on
from tests.support.tiny import tiny_config

FIXED = {"runtime.seed": "0", "data.corpus": "abc"}


class Engine:
    """Knows what it was told to load."""

    def __init__(
        self, zero_stage: int = 2, *, micro_batch_size: int = 2, is_on_disk: bool = False, num_groups: int = 1
    ) -> None:  # fmt: skip
        self.zero_stage, self.is_on_disk = zero_stage, is_on_disk
        self.num_groups = num_groups
        self.stage = SimpleNamespace(micro_batch_size=micro_batch_size, gradient_accumulation_steps=1)
        self.loaded: list[str] = []
        self.mended: Sequence[Mapping[str, Any]] = ()

    def groups(self) -> list[dict[str, Any]]:
        return [{}] * self.num_groups

    def load(self, folder: Path) -> None:
        self.loaded.append(folder.name)

    def load_converted(self, folder: Path, *, groups: Sequence[Mapping[str, Any]]) -> None:
        assert (folder / "zero" / "converted").is_file()
        self.loaded.append(folder.name)
        self.mended = groups


class Told(Trainers):
    """One of several trainers, for whom what others say is already there."""

    def __init__(self, rank: int, size: int, told: bytes = b"") -> None:
        super().__init__(singleton())
        self._rank, self._size, self.told = rank, size, told

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    def broadcast_bytes(self, data: bytes | None, *, source: int = 0) -> bytes:
        assert (data is None) == (self._rank != source)
        self.told = data if data is not None else self.told
        return self.told


def state_of(step: int, *, num_trainers: int, trainer_rank: int = 0, **changes: Any) -> TrainState:
    return replace(
        TrainState(
            stage="pretrain", step=step, num_trainers=num_trainers, zero_stage=2, on_disk=False,
            global_batch=2 * num_trainers,
            streams={"examples": StreamState(position=trainer_rank + 1)}, groups=[{"weight_decay": 0.1}], fixed=FIXED,
            index=IndexState(launches=(0, 3), probe_uids=((trainer_rank,),), changed_share=0.5),
        ),
        **changes,
    )  # fmt: skip


def write(run: Path, step: int, *, num_trainers: int = 2, **changes: Any) -> Path:
    folder = step_folder(run, step)
    (folder / "zero").mkdir(parents=True)
    (folder / "zero" / "weights").write_text(str(step))
    for rank in range(num_trainers):
        state = state_of(step, num_trainers=num_trainers, trainer_rank=rank, **changes)
        (folder / checkpoint._trainer_file(rank)).write_text(checkpoint._json(asdict(state)))
    seal(folder, step=step)
    return folder


def resumed(
    run: Path, engine: Engine, *, trainers: Trainers | None = None, name: Any = "pretrain",
    fixed: Mapping[str, str] = FIXED,
) -> Resumed:  # fmt: skip
    with Sinks(run, role="trainer", role_rank=0, stage=name) as sinks:
        stage: Any = SimpleNamespace(
            folder=run, trainers=trainers or Told(0, 2), sinks=sinks, config=tiny_config(run),
            fixed_settings=lambda name: fixed,
        )  # fmt: skip
        return go_on(engine, stage, name)  # type: ignore[arg-type]


def remarks(run: Path) -> list[str]:
    path = metrics_path(run, role="trainer", role_rank=0)
    return [event["text"] for event in read_events(path, event="remark")]


@pytest.fixture(autouse=True)
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def convert(shards: Path, converted: Path) -> None:
        done.append(shards.parent.name)
        converted.mkdir()
        (converted / "converted").write_text("all")

    monkeypatch.setattr(resume, "convert", convert)
    return done


def test_the_same_layout_goes_on_where_it_was(tmp_path: Path, conversions: list[str]) -> None:
    write(tmp_path, 4)
    engine = Engine()
    found = resumed(tmp_path, engine, trainers=Told(1, 2, b"step-00000004"))
    assert (found.step, found.stream("examples")) == (4, (StreamState(position=1), StreamState(position=2)))
    assert found.index is not None
    assert found.index.probe_uids == ((1,),)
    assert found.stream("warmup") == ()
    assert (engine.loaded, conversions, remarks(tmp_path)) == (["step-00000004"], [], [])


def test_trainer_0_reads_all_files_and_tells_the_others(tmp_path: Path) -> None:
    for step in (2, 4):
        write(tmp_path, step)
    (step_folder(tmp_path, 4) / "zero" / "weights").write_text("other")
    first = Told(0, 2)
    assert resumed(tmp_path, Engine(), trainers=first).step == 2
    assert resumed(tmp_path, Engine(), trainers=Told(1, 2, first.told)).step == 2
    (remark,) = remarks(tmp_path)
    assert remark.endswith(
        "step-00000004/zero/weights is damaged (its sha256 is not the manifest's); step-00000004 is set aside as "
        "damaged-step-00000004, the checkpoint before it is used"
    )
    assert saved_steps(tmp_path) == [2]  # so that keep_last does not count it


def test_where_nothing_is_whole_nothing_is_moved(tmp_path: Path) -> None:
    """Neither now nor by the next --resume, which must not begin again as if there had been no run."""
    for step in (2, 4):
        (write(tmp_path, step) / "zero" / "weights").write_text("other")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no whole checkpoint: .*4/zero.*; .*2/zero.* in another folder"):
            resumed(tmp_path, Engine())
        assert saved_steps(tmp_path) == [2, 4]
    for step in (2, 4):
        folder = step_folder(tmp_path, step)
        folder.rename(folder.with_name(f"damaged-{folder.name}"))
    with pytest.raises(
        CheckpointError,
        match=r"only what was found damaged: damaged-step-00000002, damaged-step-00000004\. Start a new run in another",
    ):
        resumed(tmp_path, Engine())


def test_a_checkpoint_without_its_manifest_is_named(tmp_path: Path) -> None:
    for step in (2, 4):
        folder = write(tmp_path, step)
    (folder / "manifest.json").unlink()
    assert resumed(tmp_path, Engine()).step == 2
    assert remarks(tmp_path)[0] == (
        f"{folder / 'manifest.json'} is missing; {folder.name} is set aside as damaged-{folder.name}, the checkpoint "
        "before it is used"
    )


def test_a_checkpoint_whose_replacing_was_cut_short_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path, 4)
    folder.rename(folder.with_name(f"replaced-{folder.name}"))
    assert resumed(tmp_path, Engine()).step == 4


def test_a_checkpoint_of_another_version_is_not_damaged(tmp_path: Path) -> None:
    for step in (2, 4):
        folder = write(tmp_path, step)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    with pytest.raises(CheckpointError, match="is of format 1, but this realm-ds reads 2"):
        resumed(tmp_path, Engine())
    assert saved_steps(tmp_path) == [2, 4]


def test_a_run_that_was_cut_off_in_its_first_save_begins_again(tmp_path: Path) -> None:
    unfinished = tmp_path / "checkpoints" / "unfinished-step-00000002"
    unfinished.mkdir(parents=True)
    engine = Engine()
    assert resumed(tmp_path, engine) == Resumed()
    assert engine.loaded == []
    assert not unfinished.exists()
    assert remarks(tmp_path) == [f"{tmp_path} was stopped before its first checkpoint: it begins again"]


@pytest.mark.parametrize(("size", "zero_stage"), [(3, 2), (2, 1), (1, 2)])
def test_another_layout_is_converted_once(tmp_path: Path, conversions: list[str], size: int, zero_stage: int) -> None:
    write(tmp_path, 4)
    for _ in range(2):
        engine = Engine(zero_stage)
        found = resumed(tmp_path, engine, trainers=Told(0, size))
        assert engine.loaded == ["universal-step-00000004"]
        assert engine.mended == [{"weight_decay": 0.1}]
        assert found.stream("examples") == (StreamState(position=1), StreamState(position=2))
        assert found.index is not None
        assert found.index.launches == (0, 3)
        assert found.index.probe_uids == (((0,),) if size == 2 else ())
    assert conversions == ["step-00000004"]
    assert remarks(tmp_path)[0] == (
        f"the layout has changed: 2 trainers with ZeRO-2 wrote step 4, {size} with ZeRO-{zero_stage} go on from it"
    )
    assert (f"the global batch was 4 examples up to step 4, and is {2 * size} from here" in remarks(tmp_path)) == (
        size != 2
    )


def test_what_was_converted_is_used_only_if_whole_and_of_this_checkpoint(
    tmp_path: Path, conversions: list[str]
) -> None:
    folder = write(tmp_path, 4)
    converted = folder.with_name("universal-step-00000004")
    resumed(tmp_path, Engine(), trainers=Told(0, 3))
    (converted / "zero" / "converted").write_text("not all")
    resumed(tmp_path, Engine(), trainers=Told(0, 3))
    assert (converted / "zero" / "converted").read_text() == "all"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "note": "of another run"}))
    resumed(tmp_path, Engine(), trainers=Told(0, 3))
    assert conversions == ["step-00000004"] * 3


def test_without_zero_there_is_nothing_to_convert(tmp_path: Path, conversions: list[str]) -> None:
    write(tmp_path, 4, zero_stage=0)
    engine = Engine(0)
    resumed(tmp_path, engine, trainers=Told(0, 3))
    assert (engine.loaded, conversions) == (["step-00000004"], [])


@pytest.mark.parametrize(
    ("old", "new", "size", "told"),
    [
        (True, False, 2, r"on a disk \(NVMe offload\), and is to be gone on with by 2 with states in memory"),
        (False, True, 2, r"in memory, and is to be gone on with by 2 with states on a disk \(NVMe offload\)"),
        (True, True, 3, r"on a disk \(NVMe offload\), and is to be gone on with by 3 with states on a disk"),
    ],
)
def test_states_on_a_disk_are_a_layout_of_their_own(tmp_path: Path, old: bool, new: bool, size: int, told: str) -> None:
    write(tmp_path, 4, zero_stage=3, on_disk=old)
    with pytest.raises(CheckpointError, match=rf"by 2 trainers with states {told}.*; go on with 2 trainers and the"):
        resumed(tmp_path, Engine(3, is_on_disk=new), trainers=Told(0, size))
    engine = Engine(3, is_on_disk=old)
    resumed(tmp_path, engine)
    assert engine.loaded == ["step-00000004"]


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_other_groups_of_parameters_are_refused(tmp_path: Path, zero_stage: int) -> None:
    """Also in the layout that wrote the checkpoint."""
    write(tmp_path, 4)
    engine = Engine(zero_stage, num_groups=3)
    with pytest.raises(
        CheckpointError,
        match=r"step-00000004 has 1 groups of parameters .*, this run 3: resume with the rates of modules, and",
    ):
        resumed(tmp_path, engine)
    assert engine.loaded == []


@pytest.mark.parametrize(("old", "new"), [(2, 3), (3, 1), (0, 2), (1, 0)])
def test_zero_stages_that_cannot_take_over(tmp_path: Path, old: int, new: int) -> None:
    write(tmp_path, 4, zero_stage=old)
    with pytest.raises(
        CheckpointError,
        match=rf"is of ZeRO stage {old}, and runtime.deepspeed now asks for stage {new}: .*go on with stage {old}, or",
    ):
        resumed(tmp_path, Engine(new))


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 4)
    with pytest.raises(
        CheckpointError, match="is of stage pretrain, and this is stage qa: resume that stage, or start"
    ):
        resumed(tmp_path, Engine(), name="qa")
    with pytest.raises(CheckpointError, match=r"data.corpus was abc, now xyz\. Undo them, or start a new run"):
        resumed(tmp_path, Engine(), fixed={**FIXED, "data.corpus": "xyz"})
