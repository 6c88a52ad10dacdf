"""A checkpoint is whole or not there: what a killed run leaves, damage, other formats. The engine is a stand-in."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.data.redeal import StreamState
from realm_ds.errors import CheckpointError
from realm_ds.train.checkpoint import IndexState, TrainState, find, load, save, saved_steps, step_folder
from realm_ds.train.loop import seed_step


class FileEngine:
    """Writes one file where DeepSpeed writes its shards."""

    def save(self, folder: Path) -> None:
        (folder / "zero").mkdir()
        (folder / "zero" / "weights").write_text(folder.name)

    def load(self, folder: Path) -> None:
        assert (folder / "zero" / "weights").is_file()


FIXED = {"runtime.seed": "0", "data.corpus": "abc"}


def load_step(folder: Path, *, stage: str = "ict", fixed: dict[str, str] = FIXED) -> TrainState:
    return load(FileEngine(), folder, stage=stage, trainers=Trainers(singleton()), fixed=fixed)


def save_step(run: Path, step: int, *, engine: object = None, keep: int = 2) -> None:
    stream = StreamState(epoch=1, position=step)
    state = TrainState(stage="ict", step=step, num_trainers=1, stream=stream, fixed=FIXED)
    save(engine or FileEngine(), run, state=state, trainers=Trainers(singleton()), keep=keep, timeout_s=5)


def test_the_newest_are_kept_and_found(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save_step(tmp_path, step)
    assert saved_steps(tmp_path) == [4, 6]
    assert find(tmp_path) == step_folder(tmp_path, 6)
    restored = load_step(find(tmp_path, 4))
    assert (restored.step, restored.stream) == (4, StreamState(epoch=1, position=4))


def test_what_the_next_launches_hang_on_is_kept(tmp_path: Path) -> None:
    fixed = IndexState(launches=(), probe_uids=(), changed_share=None)
    auto = IndexState(launches=(0, 7), probe_uids=((2**62, -1), (3, 4)), changed_share=1 / 3)
    for step, index in enumerate((fixed, auto)):
        state = TrainState(stage="ict", step=step, num_trainers=1, stream=StreamState(), fixed=FIXED, index=index)
        save(FileEngine(), tmp_path, state=state, trainers=Trainers(singleton()), keep=2, timeout_s=5)
        assert load_step(find(tmp_path)) == state


def test_a_run_killed_while_saving_resumes_from_the_checkpoint_before(tmp_path: Path) -> None:
    class Killed(FileEngine):
        def save(self, folder: Path) -> None:
            super().save(folder)
            (folder / "manifest.json").write_text("{}")  # as if it died just before the rename
            raise KeyboardInterrupt

    save_step(tmp_path, 2)
    with pytest.raises(KeyboardInterrupt):
        save_step(tmp_path, 4, engine=Killed())
    assert saved_steps(tmp_path) == [2]
    assert find(tmp_path) == step_folder(tmp_path, 2)
    save_step(tmp_path, 4)
    assert saved_steps(tmp_path) == [2, 4]


def test_faults_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: train first, without --resume"):
        find(tmp_path)
    save_step(tmp_path, 2)
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are steps 2: name one of these"):
        find(tmp_path, 3)
    with pytest.raises(CheckpointError, match="is of stage ict with 1 trainers; this is stage qa with 1"):
        load_step(find(tmp_path), stage="qa")
    with pytest.raises(CheckpointError, match=r"data.corpus was abc, now xyz\. Undo them, or start a new run"):
        load_step(find(tmp_path), fixed={**FIXED, "data.corpus": "xyz"})
    folder = step_folder(tmp_path, 2)
    (folder / "zero" / "weights").write_text("other")
    with pytest.raises(CheckpointError, match=r"weights is damaged .* remove .*step-00000002 to go on"):
        find(tmp_path)
    shutil.rmtree(folder / "zero")
    with pytest.raises(CheckpointError, match="weights is missing"):
        find(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 7}))
    with pytest.raises(CheckpointError, match="is of format 7, but this realm-ds reads 1"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "sha256": {"ze', r"manifest.json cannot be read .*: remove .*step-00000004 to go on"),
        ("\udcff", "manifest.json cannot be read .*utf-8"),
        ('{"format": 1}', "manifest.json has no sha256 of the checkpoint's files: remove .*step-00000004 to go on"),
        ('{"format": 1, "sha256": {}}', "has no sha256"),
        ("[1]", "is of format None, but this realm-ds reads 1"),
    ],
)
def test_a_manifest_that_says_nothing_is_a_fault(tmp_path: Path, text: str, message: str) -> None:
    save_step(tmp_path, 4)
    (step_folder(tmp_path, 4) / "manifest.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match=message):
        find(tmp_path)


class Told(Trainers):
    """One of two trainers, for whom trainer 0's broadcast is already there."""

    def __init__(self, rank: int, told: bytes = b"") -> None:
        super().__init__(singleton())
        self._rank, self.told = rank, told

    @property
    def rank(self) -> int:
        return self._rank

    def broadcast_bytes(self, data: bytes | None, *, source: int = 0) -> bytes:
        assert (data is None) == (self._rank != source)
        self.told = data if data is not None else self.told
        return self.told


def test_trainer_0_reads_all_files_and_tells_the_others(tmp_path: Path) -> None:
    save_step(tmp_path, 2)
    save_step(tmp_path, 4)
    first = Told(0)
    assert find(tmp_path, trainers=first) == step_folder(tmp_path, 4)
    (step_folder(tmp_path, 4) / "zero" / "weights").write_text("other")
    assert find(tmp_path, trainers=Told(1, first.told)) == step_folder(tmp_path, 4)  # it has not looked
    with pytest.raises(CheckpointError, match="weights is damaged"):
        find(tmp_path, trainers=first)
    with pytest.raises(CheckpointError, match=r"weights is damaged .* remove .*step-00000004 to go on"):
        find(tmp_path, trainers=Told(1, first.told))


def test_any_seed_will_do() -> None:
    """A date as a seed once overflowed the 64 bits that torch takes."""
    drawn = []
    for trainer_rank, step in ((0, 5), (1, 5), (0, 6), (0, 5)):
        seed_step(20250131, trainer_rank=trainer_rank, step=step)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3
