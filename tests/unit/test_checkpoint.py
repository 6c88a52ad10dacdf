"""A checkpoint is whole or not there: what a killed run leaves, damage, pruning, formats. The engine is a stand-in."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.data.redeal import Interval, StreamState
from realm_ds.errors import CheckpointError
from realm_ds.train.checkpoint import (
    IndexState,
    TrainState,
    find,
    kept_steps,
    read_states,
    save,
)
from realm_ds.train.loop import seed_step
from realm_ds.train.manifest import saved_steps, step_folder
from realm_ds.train.writer import Writer


class FileEngine:
    """Writes one file where DeepSpeed writes its shards."""

    def save(self, folder: Path) -> None:
        (folder / "zero").mkdir()
        (folder / "zero" / "weights").write_text(folder.name)


STATE = TrainState(
    stage="ict",
    step=0,
    num_trainers=1,
    zero_stage=2,
    on_disk=False,
    global_batch=4,
    streams={},
    groups=[{"lr": 0.1}],
    fixed={},
)
SaveStep = Callable[..., None]


@pytest.fixture
def save_step(tmp_path: Path) -> Iterator[SaveStep]:
    writer = Writer(timeout_s=5)

    def save_step(
        step: int, *, engine: object = None, last: int = 2, every: int | None = None, **changes: object
    ) -> None:
        state = TrainState(**{**vars(STATE), "step": step, **changes})
        save(
            engine or FileEngine(), tmp_path, state=state, trainers=Trainers(singleton()), writer=writer,
            keep=partial(kept_steps, last=last, every=every), timeout_s=5,
        )  # fmt: skip
        writer.drain()

    yield save_step
    writer.close()


def test_the_newest_are_kept_and_found(tmp_path: Path, save_step: SaveStep) -> None:
    for step in (2, 4, 6):
        save_step(step)
    assert saved_steps(tmp_path) == [4, 6]
    assert find(tmp_path) == step_folder(tmp_path, 6)
    assert read_states(find(tmp_path, 4))[0].step == 4
    assert json.loads((tmp_path / "checkpoints" / "latest").read_text()) == {"step": 6}


def test_multiples_of_a_step_are_kept_for_ever(tmp_path: Path, save_step: SaveStep) -> None:
    for step in range(1, 10):
        save_step(step, last=1, every=4)
    assert saved_steps(tmp_path) == [4, 8, 9]


@given(
    steps=st.lists(st.integers(1, 60), min_size=1, unique=True),
    last=st.integers(1, 5),
    every=st.none() | st.integers(1, 9),
)
def test_what_is_kept(steps: list[int], last: int, every: int | None) -> None:
    kept = kept_steps(steps, last=last, every=every)
    assert max(steps) in kept
    for step in steps:
        is_new = sum(other > step for other in steps) < last
        assert (step in kept) == (is_new or (every is not None and step % every == 0))


def test_a_step_saved_late_is_not_pruned_by_newer_ones(tmp_path: Path, save_step: SaveStep) -> None:
    """A run that was told to go on from an older checkpoint must not lose each new one to those it left behind."""
    for step in (6, 8):
        save_step(step)
    save_step(3)
    assert saved_steps(tmp_path) == [3, 6, 8]


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path, save_step: SaveStep) -> None:
    for num_trainers in (1, 2):
        save_step(4, num_trainers=num_trainers, global_batch=num_trainers)
        assert json.loads((step_folder(tmp_path, 4) / "trainer-00000.json").read_text())["global_batch"] == num_trainers
        assert saved_steps(tmp_path) == [4]


def test_what_is_about_to_be_replaced_is_no_checkpoint(tmp_path: Path, save_step: SaveStep) -> None:
    save_step(4)
    step_folder(tmp_path, 4).rename(tmp_path / "checkpoints" / "replaced-step-00000004")
    assert saved_steps(tmp_path) == []


def test_a_converted_checkpoint_goes_once_there_is_a_new_one(tmp_path: Path, save_step: SaveStep) -> None:
    save_step(2)
    converted = tmp_path / "checkpoints" / "universal-step-00000002"
    converted.mkdir()
    save_step(4)
    assert not converted.exists()


def test_everything_of_a_trainer_is_kept(tmp_path: Path, save_step: SaveStep) -> None:
    rest = (Interval(epoch=1, start=3, stop=9), Interval(epoch=2, start=0, stop=4))
    state = {
        "streams": {"a": StreamState(epoch=1, position=4, rest=rest, rest_until=2), "b": StreamState(position=7)},
        "groups": [{"lr": 0.1, "betas": [0.9, 0.99], "fused": True}, {"lr": 0.2, "foreach": None}],
        "fixed": {"runtime.seed": "0"},
    }
    fixed = IndexState(launches=(), probe_uids=(), changed_share=None)
    auto = IndexState(launches=(0, 7), probe_uids=((2**62, -1), (3, 4)), changed_share=1 / 3)
    for step, index in enumerate((None, fixed, auto)):
        save_step(step, index=index, **state)
        assert read_states(find(tmp_path)) == [TrainState(**{**vars(STATE), "step": step, "index": index, **state})]


def test_a_run_killed_while_saving_resumes_from_the_checkpoint_before(tmp_path: Path, save_step: SaveStep) -> None:
    class Killed(FileEngine):
        def save(self, folder: Path) -> None:
            super().save(folder)
            (folder / "manifest.json").write_text("{}")  # as if it died just before the rename
            raise KeyboardInterrupt

    save_step(2)
    with pytest.raises(KeyboardInterrupt):
        save_step(4, engine=Killed())
    assert saved_steps(tmp_path) == [2]
    assert find(tmp_path) == step_folder(tmp_path, 2)
    save_step(4)
    assert saved_steps(tmp_path) == [2, 4]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, save_step: SaveStep, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (2, 4, 6):
        save_step(step, last=3)
    (step_folder(tmp_path, 6) / "zero" / "weights").write_text("other")
    (step_folder(tmp_path, 4) / "zero" / "weights").unlink()
    assert find(tmp_path) == step_folder(tmp_path, 2)
    said = [record.getMessage() for record in caplog.records]
    assert "step-00000006/zero/weights is damaged (its sha256 is not the manifest's): the checkpoint before" in said[0]
    assert "step-00000004/zero/weights is missing: the checkpoint before it is used" in said[1]
    with pytest.raises(CheckpointError, match="step-00000006/zero/weights is damaged"):
        find(tmp_path, 6)  # who asks for one gets no other
    for name in ("zero", ".hidden"):  # DeepSpeed walks through both
        more = step_folder(tmp_path, 2) / name / "more.pt"
        more.parent.mkdir(exist_ok=True)
        more.touch()
        with pytest.raises(CheckpointError, match=f"step-00000002/{name}/more.pt is no file of the manifest's"):
            find(tmp_path, 2)
        more.unlink()
    shutil.rmtree(step_folder(tmp_path, 2) / "zero")
    caplog.clear()
    with pytest.raises(
        CheckpointError,
        match=r"no whole checkpoint: .*6/zero.*; .*4/zero.*; .*2/zero.*Start a new run in another folder",
    ):
        find(tmp_path)
    assert not caplog.records  # no checkpoint before them is used


def test_faults_say_what_to_do(tmp_path: Path, save_step: SaveStep) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: train first, without --resume"):
        find(tmp_path)
    save_step(2)
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are steps 2: name one of these"):
        find(tmp_path, 3)
    folder = step_folder(tmp_path, 2)
    (folder / "trainer-00000.json").write_text('{"streams": 1}')
    with pytest.raises(CheckpointError, match=r"trainer-00000.json cannot be read .*: resume from another checkpoint"):
        read_states(folder)
    (folder / "trainer-00000.json").unlink()
    with pytest.raises(CheckpointError, match="trainer-00000.json cannot be read .*No such file"):
        read_states(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 2, "sha256": {"ze', r"manifest.json cannot be read"),
        ("\udcff", "manifest.json cannot be read .*utf-8"),
        ('{"format": 2}', "manifest.json has no sha256 of the checkpoint's files"),
        ('{"format": 2, "sha256": {}}', "has no sha256"),
        (
            '{"format": 1, "sha256": {"a": "b"}}',
            "is of format 1, but this realm-ds reads 2: use the version that wrote",
        ),
        ("[1]", "is of format None, but this realm-ds reads 2"),
    ],
)
def test_a_manifest_that_says_nothing_is_a_fault(tmp_path: Path, save_step: SaveStep, text: str, message: str) -> None:
    save_step(4)
    (step_folder(tmp_path, 4) / "manifest.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    for step in (4, None):
        with pytest.raises(CheckpointError, match=message):
            find(tmp_path, step)


def test_any_seed_will_do() -> None:
    """A date as a seed once overflowed the 64 bits that torch takes."""
    drawn = []
    for trainer_rank, step in ((0, 5), (1, 5), (0, 6), (0, 5)):
        seed_step(20250131, trainer_rank=trainer_rank, step=step)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3
