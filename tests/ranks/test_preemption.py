"""A signal in the middle of a real run: every rank ends, batch scripts see the code, and the run goes on exactly."""

import json
from pathlib import Path

import pytest

from realm_ds.config.load import dump
from realm_ds.errors import REQUEUE
from realm_ds.launch.stages import num_processes
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.train.manifest import saved_steps
from tests.support.tiny import make_data, tiny_config
from tests.support.worlds import Outcome, run_ranks

PROGRAM = """
import os, signal
from pathlib import Path
from realm_ds.config.load import load
from realm_ds.launch.stages import launch_stage

WHEN = {when!r}
ME = int(os.environ["PMI_RANK"])

def to_myself():
    os.kill(os.getpid(), signal.SIGUSR1 if WHEN == "training" else signal.SIGTERM)

if WHEN in ("training", "ict") and ME == 1:  # one trainer of two, at the end of a step
    from realm_ds.observe.sinks import Sinks
    write = Sinks.write
    def signal_at_step(self, event, *, step=None, **values):
        write(self, event, step=step, **values)
        if event == "step" and step == 4 - 2 * (WHEN == "ict"):
            to_myself()
    Sinks.write = signal_at_step
if WHEN == "waiting":
    if ME == 1:  # the other trainer hears it from this one
        from realm_ds.train.search_ahead import SearchAhead
        wait = SearchAhead.wait
        def signal_first(self, *, unless):
            to_myself()
            wait(self, unless=unless)
        SearchAhead.wait = signal_first
    if ME >= 2:  # an index that is not ready before it is given up
        from realm_ds.index.builder import Builder
        Builder._embedded = lambda self, snapshot: self._is_cancelled.wait() and None

folder = Path({folder!r})
launch_stage({stage!r}, load_config=lambda: load(folder / "config.yaml"), run_folder=folder, resume={resume})
"""
COMPARED = ("step", "loss", "retrieval_utility", "version", "retrieved_crc32")


def train(folder: Path, data: Path, *, when: str = "", stage: str = "pretrain", resume: bool = False) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(data)
    (folder / "config.yaml").write_text(dump(config))
    program = PROGRAM.format(folder=str(folder), stage=stage, resume=resume, when=when)
    return run_ranks(program, processes=num_processes(stage, config), timeout_s=240)  # type: ignore[arg-type]


def steps(folder: Path) -> list[tuple[object, ...]]:
    paths = [metrics_path(folder, role="trainer", role_rank=rank) for rank in (0, 1)]
    return [tuple(row.get(name) for name in COMPARED) for path in paths for row in read_events(path, event="step")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


def test_a_run_is_stopped_after_the_step_at_hand_and_goes_on_exactly(data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outcome = train(stopped, data, when="training")
    assert outcome.code == REQUEUE, outcome.output
    assert outcome.output.splitlines()[-1] == (
        f"asked to end: checkpoint of step 4 is written in {stopped}; go on with --resume"
    )
    assert json.loads((stopped / "preempted.json").read_text())["step"] == 4
    assert not (stopped / "failures").exists()
    ended = list((stopped / "metrics").glob("*.jsonl"))
    assert [list(read_events(path))[-1]["event"] for path in ended] == ["ended"] * 4
    outcome = train(stopped, data, resume=True)
    assert outcome.code == 0, outcome.output
    assert not (stopped / "preempted.json").exists()
    assert train(whole, data).code == 0
    assert sorted(steps(stopped)) == sorted(steps(whole))
    row = list(read_events(metrics_path(whole, role="trainer", role_rank=0), event="step"))[-1]
    parts = sum(value for name, value in row.items() if name.endswith("_ms") and name not in ("step_ms", "search_ms"))
    assert parts == pytest.approx(row["step_ms"])
    assert row["tokens_per_s"] > 0
    assert 0 < row["mfu"] < 1


@pytest.mark.slow
def test_nobody_waits_for_an_index_that_is_given_up(data: Path, tmp_path: Path) -> None:
    """Before the first step: --resume starts from the beginning."""
    outcome = train(tmp_path, data, when="waiting")
    assert outcome.code == REQUEUE, outcome.output
    assert "asked to end before there was anything to keep" in outcome.output.splitlines()[-1]
    assert not saved_steps(tmp_path)
    alive = list(read_events(metrics_path(tmp_path, role="index", role_rank=0), event="done"))
    assert [row["versions_built"] for row in alive] == [0]
    outcome = train(tmp_path, data, resume=True)
    assert outcome.code == 0, outcome.output
    assert "was stopped before its first checkpoint: it begins again" in outcome.output
    assert [row[0] for row in steps(tmp_path)] == 2 * list(range(1, 10))


def test_a_warm_start_is_stopped_too(data: Path, tmp_path: Path) -> None:
    outcome = train(tmp_path, data, when="ict", stage="ict")
    assert outcome.code == REQUEUE, outcome.output
    assert (tmp_path / "checkpoints" / "step-00000002" / "manifest.json").is_file()
