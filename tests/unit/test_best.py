"""Which models are the best, and that RUN/best holds these and no others, wherever a run is stopped."""

import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.errors import CheckpointError
from realm_ds.files import unfinished
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.sealed import check
from realm_ds.train.best import BestModels, read_best
from realm_ds.train.writer import Writer

UTILITY, LIKELIHOOD, RECALL = "held_out_retrieval_utility", "held_out_log_likelihood", "held_out_recall_at_5"


class Run:
    """Models that are nothing but a number, kept in a file."""

    def __init__(self, folder: Path, *, first_step: int = 0, measured_on: str = "9 sentences of abc") -> None:
        self.weights, self.folder = 0, folder
        self.sinks = Sinks(folder, role="trainer", role_rank=0, stage="pretrain")
        self.writer = Writer(timeout_s=5)
        self.best = BestModels(
            folder, first_step=first_step, measured_on=measured_on, corpus="c0ffee", trainers=Trainers(singleton()),
            writer=self.writer, sinks=self.sinks, copy_weights=lambda: {"w": self.weights}, write=self.write,
        )  # fmt: skip

    def write(self, weights: Mapping[str, Any], folder: Path) -> None:
        (folder / "model").write_text(str(weights["w"]))

    def offer(self, step: int, **metrics: float) -> None:
        self.weights = step
        self.best.offer(step, metrics)
        self.weights = -1  # training goes on
        self.writer.drain()

    def kept(self) -> int:
        """The step whose models are there; best.json must say the same."""
        assert sorted(path.name for path in self.folder.iterdir() if path.name.startswith("best")) == ["best"]
        step = int((self.folder / "best" / "model").read_text())
        assert json.loads((self.folder / "best" / "best.json").read_text())["step"] == step
        return step


def test_only_what_is_better_than_all_before_is_kept(tmp_path: Path) -> None:
    run, kept = Run(tmp_path), []
    for step, utility in enumerate([float("nan"), 0.1, 0.3, 0.2, 0.3, float("inf"), 0.31], start=1):
        run.offer(step, **{UTILITY: utility, LIKELIHOOD: -step})
        kept.append(run.kept() if step > 1 else None)
    assert kept == [None, 2, 3, 3, 3, 3, 7]
    found = read_best(tmp_path / "best")
    assert found is not None
    assert check(tmp_path / "best")["step"] == 7
    assert (found.step, found.measure, found.value) == (7, UTILITY, 0.31)
    assert (found.measured_on, found.corpus) == ("9 sentences of abc", "c0ffee")
    assert found.metrics == {UTILITY: 0.31, LIKELIHOOD: -7}
    rows = read_events(metrics_path(tmp_path, role="trainer", role_rank=0), event="best")
    assert [(row["step"], row["measure"], row["best_value"]) for row in rows] == [
        (2, UTILITY, 0.1), (3, UTILITY, 0.3), (7, UTILITY, 0.31),
    ]  # fmt: skip


def test_training_does_not_wait_for_the_writing(tmp_path: Path) -> None:
    run, gate = Run(tmp_path), threading.Event()
    write = run.best._write

    def slow(weights: Mapping[str, Any], folder: Path) -> None:
        assert gate.wait(5)
        write(weights, folder)

    run.best._write = slow
    run.weights = 1
    run.best.offer(1, {UTILITY: 0.1})
    run.weights = 2
    assert not (tmp_path / "best").exists()
    gate.set()
    run.writer.drain()
    assert run.kept() == 1


def test_without_a_null_passage_likelihood_decides_and_without_sentences_recall(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.offer(1, held_out_loss=1.0)
    assert not (tmp_path / "best").exists()
    run.offer(2, **{RECALL: 0.9})
    run.offer(3, **{RECALL: 0.8})
    assert run.kept() == 2
    run.offer(4, **{RECALL: 0.1, LIKELIHOOD: -5.0})  # recall cannot be compared with it
    assert run.kept() == 4
    run.offer(5, **{RECALL: 0.9, LIKELIHOOD: -6.0})
    assert run.kept() == 4


def test_the_best_survives_a_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path).offer(4, **{UTILITY: 0.5})
    run = Run(tmp_path, first_step=4)
    run.offer(6, **{UTILITY: 0.4})
    assert run.kept() == 4
    run.offer(8, **{UTILITY: 0.6})
    assert run.kept() == 8
    assert not caplog.messages


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"first_step": 3}, "this run goes on from step 3"),
        ({"first_step": 0}, "this run goes on from step 0"),
        ({"first_step": 4, "measured_on": "8 sentences of def"}, "was measured on 9 sentences of abc, now it is 8"),
    ],
)
def test_a_best_that_cannot_be_compared_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], reason: str
) -> None:
    """Of steps that are done again, of a run that was started anew, of other data."""
    Run(tmp_path).offer(4, **{UTILITY: 0.5})
    run = Run(tmp_path, **changes)
    assert f"{tmp_path}/best is of step 4 and {reason}" in caplog.text
    assert run.kept() == 4  # until there is another
    run.offer(5, **{UTILITY: 0.1})
    assert run.kept() == 5


def test_a_stop_between_two_names_is_mended(tmp_path: Path) -> None:
    Run(tmp_path).offer(4, **{UTILITY: 0.5})
    (tmp_path / "best").rename(tmp_path / "replaced-best")
    assert Run(tmp_path, first_step=4).kept() == 4
    shutil.copytree(tmp_path / "best", tmp_path / "replaced-best")
    unfinished(tmp_path / "best").mkdir()
    run = Run(tmp_path, first_step=4)
    run.offer(5, **{UTILITY: 0.6})
    assert run.kept() == 5


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_says_what_to_do_and_keeps_the_older_best(tmp_path: Path, error: Exception) -> None:
    run = Run(tmp_path)
    run.offer(1, **{UTILITY: 0.1})

    def full(weights: object, folder: Path) -> None:
        raise error

    run.best._write = full
    message = r"cannot write the best models to .*best \(.*No space left.*: free space there, or set evaluate.keep_best"
    with pytest.raises(CheckpointError, match=message):
        run.offer(2, **{UTILITY: 0.2})
    assert json.loads((tmp_path / "best" / "best.json").read_text())["step"] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 3}'])
def test_a_best_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    assert read_best(tmp_path / "best") is None
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"best.json cannot be read .*: remove .*best, then go on with --resume"):
        read_best(tmp_path / "best")
