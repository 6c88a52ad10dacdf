"""A checkpoint is whole or not there: what a killed run leaves, damage, other formats. The engine is a stand-in."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.data.stream import StreamState
from realm_ds.errors import CheckpointError
from realm_ds.train.checkpoint import TrainState, find, load, save, saved_steps, step_folder
from realm_ds.train.loop import seed_step


class FileEngine:
    """Writes one file where DeepSpeed writes its shards."""

    def save(self, folder: Path) -> None:
        (folder / "zero").mkdir()
        (folder / "zero" / "weights").write_text(folder.name)

    def load(self, folder: Path) -> None:
        assert (folder / "zero" / "weights").is_file()


def save_step(run: Path, step: int, *, engine: object = None, keep: int = 2) -> None:
    state = TrainState(stage="ict", step=step, num_trainers=1, stream=StreamState(epoch=1, position=step))
    save(engine or FileEngine(), run, state=state, trainers=Trainers(singleton()), keep=keep, timeout_s=5)


def test_the_newest_are_kept_and_found(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save_step(tmp_path, step)
    assert saved_steps(tmp_path) == [4, 6]
    assert find(tmp_path) == step_folder(tmp_path, 6)
    restored = load(FileEngine(), find(tmp_path, 4), stage="ict", trainers=Trainers(singleton()))
    assert (restored.step, restored.stream) == (4, StreamState(epoch=1, position=4))


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
        load(FileEngine(), find(tmp_path), stage="qa", trainers=Trainers(singleton()))
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


def test_any_seed_will_do() -> None:
    """A date as a seed once overflowed the 64 bits that torch takes."""
    drawn = []
    for trainer_rank, step in ((0, 5), (1, 5), (0, 6), (0, 5)):
        seed_step(20250131, trainer_rank=trainer_rank, step=step)
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3
