"""That a rank lives, what it waits for, and its stacks when that takes too long; and where else metrics go."""

import logging
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from realm_ds.errors import ConfigError
from realm_ds.observe.pulse import Pulse
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.observe.trackers import check_tracker, open_tracker
from realm_ds.observe.waiting import waiting_for


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sinks(tmp_path: Path):
    with Sinks(tmp_path, role="trainer", role_rank=0, stage="ict") as sinks:
        yield sinks


def alive(folder: Path) -> list[dict[str, object]]:
    return list(read_events(metrics_path(folder, role="trainer", role_rank=0), event="alive"))


def test_a_rank_says_now_and_then_what_it_does(tmp_path: Path, sinks: Sinks) -> None:
    clock = Clock()
    pulse = Pulse(sinks, tmp_path / "log", stacks_after_s=100.0, every_s=5.0, clock=clock)
    pulse.tell(version=3)
    pulse.beat()
    pulse.beat()  # not due
    clock.now = 5.0
    pulse.step_done(7)
    with waiting_for("the answer of shard 0", clock=clock):
        clock.now = 12.0
        pulse.beat()
    first, second = alive(tmp_path)
    assert (first["version"], "waiting_for" in first) == (3, False)
    assert (second["last_step"], second["waiting_for"], second["waited_s"]) == (7, "the answer of shard 0", 7.0)
    assert 0.01 < float(second["rss_gib"]) < 100  # type: ignore[arg-type]


def test_the_stacks_of_a_stuck_wait_are_written_once(
    tmp_path: Path, sinks: Sinks, caplog: pytest.LogCaptureFixture
) -> None:
    clock, log = Clock(), tmp_path / "trainer-0.log"
    pulse = Pulse(sinks, log, stacks_after_s=100.0, clock=clock)
    with waiting_for("the other trainers' part in a sum", clock=clock):
        for clock.now in (99.0, 101.0, 150.0):
            pulse.beat()
    assert log.read_text().count("test_the_stacks_of_a_stuck_wait") == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"waits for the other trainers' part in a sum, for 101 s; the stacks of its threads are in {log}"
    ]
    with waiting_for("something else", clock=clock):
        clock.now = 300.0
        pulse.beat()
    assert log.read_text().count("test_the_stacks_of_a_stuck_wait") == 2


def test_a_step_that_hangs_without_a_word_is_noticed(
    tmp_path: Path, sinks: Sinks, caplog: pytest.LogCaptureFixture
) -> None:
    clock, log = Clock(), tmp_path / "trainer-0.log"
    pulse = Pulse(sinks, log, stacks_after_s=100.0, clock=clock)
    clock.now = 500.0
    pulse.beat()  # before the first step: models are read, passages embedded
    assert not log.exists()
    pulse.step_done(1)
    for clock.now in (601.0, 700.0):
        pulse.beat()
    assert log.read_text().count("test_a_step_that_hangs") == 1
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "has ended no step for 101 s, and names no wait"
    ]
    pulse.step_done(2)
    pulse.steps_over()
    clock.now = 2000.0
    pulse.beat()
    assert log.read_text().count("test_a_step_that_hangs") == 1


def test_the_thread_beats_and_ends(tmp_path: Path, sinks: Sinks) -> None:
    beaten: list[int] = []
    pulse = Pulse(sinks, tmp_path / "log", stacks_after_s=0.004)
    pulse.beat = lambda: beaten.append(1) or (len(beaten) > 2 and pulse._is_over.set())  # type: ignore[method-assign,func-returns-value]
    with pulse:
        pulse._is_over.wait(30)
    assert len(beaten) == 3
    assert not pulse._thread.is_alive()


class Wandb(types.ModuleType):
    """A stand-in that writes down how it was called."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.said: list[object] = []

    def init(self, **settings: object) -> "Wandb":
        self.said.append(settings)
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        if step > 8:
            raise OSError("connection lost")
        self.said.append((step, values))

    def finish(self) -> None:
        self.said.append("finished")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return module


def test_steps_go_to_a_tracker_too(tmp_path: Path, wandb: Wandb) -> None:
    for step in (1, 2):
        with Sinks(tmp_path, role="trainer", role_rank=0, stage="ict") as sinks:
            sinks.also_to(open_tracker("wandb", tmp_path, stage="ict", settings={"seed": 1}))
            sinks.write("step", step=step, steps=9, loss=0.5, note="x", worst=float("nan"))
            sinks.write("saved", step=step)
    first, one, over, again, two, over_again = wandb.said
    assert (first["project"], first["mode"], first["resume"], first["config"]) == (  # type: ignore[index]
        "realm-ds", "offline", "allow", {"seed": 1},
    )  # fmt: skip
    assert first["id"] == again["id"]  # type: ignore[index]
    assert (one, two) == ((1, {"ict/loss": 0.5}), (2, {"ict/loss": 0.5}))
    assert over == over_again == "finished"


def test_an_account_is_used_where_there_is_one(tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x")
    open_tracker("wandb", tmp_path, stage="ict", settings={})
    monkeypatch.setenv("WANDB_MODE", "disabled")
    open_tracker("wandb", tmp_path, stage="ict", settings={})
    assert [settings["mode"] for settings in wandb.said] == ["online", "disabled"]  # type: ignore[index]


def test_a_tracker_that_fails_is_let_go(
    tmp_path: Path, wandb: Wandb, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker("wandb", tmp_path, stage="ict", settings={})
    assert tracker is not None
    for step in (8, 9, 10):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "wandb does not take the metrics (OSError: connection lost): the run goes on without; they are in metrics/ and "
        "events/ as well"
    ]
    monkeypatch.setattr(wandb, "init", lambda **settings: 1 / 0)
    assert open_tracker("wandb", tmp_path, stage="ict", settings={}) is None
    assert caplog.records[-1].levelno == logging.WARNING


def test_a_library_that_is_missing_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tracker("none")
    monkeypatch.setattr("realm_ds.observe.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="runtime.tracker=mlflow needs that library, .*: pip install mlflow-skinny"):
        check_tracker("mlflow")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_real_libraries_work_without_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'realm-ds[tracking]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = open_tracker(name, tmp_path, stage="ict", settings={"seed": 1})  # type: ignore[arg-type]
    assert tracker is not None
    tracker.log(1, {"ict/loss": 0.5})
    tracker.close()
    assert any((tmp_path / ("wandb" if name == "wandb" else "mlruns")).iterdir())
