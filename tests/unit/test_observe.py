"""Meters, events, logs, waits and what is drawn of them."""

import contextlib
import io
import json
import logging
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

from realm_ds.observe import logs
from realm_ds.observe.meters import Meters
from realm_ds.observe.progress import (
    Progress,
    about,
    clock_text,
    describe_evaluation,
    describe_step,
    follow_run,
    number_of,
)
from realm_ds.observe.sinks import Sinks, last_of_each_step, metrics_path, read_events
from realm_ds.observe.waiting import answer_sigusr2, current_waits, waiting_for


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def _restored_logging():
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


def test_meters_are_weighted_means_over_all_ranks() -> None:
    ranks = [Meters(["loss", "hits", "never"]) for _ in range(3)]
    pairs = [(0, 2.0, 3), (1, 5.0, 1), (1, 1.0, 2), (2, 0.5, 4)]
    for rank, value, weight in pairs:
        ranks[rank].add("loss", value, weight)
    ranks[0].add("hits", np.float32(1.0))
    others: list[list[float]] = []
    for meter in ranks[1:]:
        meter.drain(lambda sums: others.append(list(sums)) or sums)
    means = ranks[0].drain(lambda sums: [sum(parts) for parts in zip(sums, *others, strict=True)])
    expected = sum(value * weight for _, value, weight in pairs) / sum(weight for *_, weight in pairs)
    assert means == {"loss": pytest.approx(expected), "hits": 1.0}
    assert ranks[0].drain() == {}


def test_a_meter_must_be_declared() -> None:
    with pytest.raises(KeyError, match="no meter 'los'; declared are"):
        Meters(["loss"]).add("los", 1.0)
    with pytest.raises(ValueError, match="twice"):
        Meters(["a", "a"])


def test_events_are_whole_lines_readable_at_once(tmp_path: Path) -> None:
    sinks = Sinks(tmp_path, role="trainer", role_rank=0, stage="ict", clock=lambda: 12.34567)
    path = metrics_path(tmp_path, role="trainer", role_rank=0)
    sinks.write("step", step=3, loss=np.float32(0.5), steps=10, note="x", worst=float("nan"))
    line = json.loads(path.read_text())
    expected = {"event": "step", "time": 12.346, "stage": "ict", "step": 3, "loss": 0.5, "steps": 10, "note": "x"}
    assert line == {**expected, "worst": "nan"}
    sinks.write("result", accuracy=1)
    assert [record["event"] for record in read_events(path)] == ["step", "result"]
    assert list(read_events(path, event="step", stage="qa")) == []
    sinks.close()


def test_half_a_line_of_a_killed_writer_costs_that_line_alone(tmp_path: Path) -> None:
    path = metrics_path(tmp_path, role="index", role_rank=1)
    path.parent.mkdir()
    path.write_text('{"event": "step", "step": 1}\n{"event": "st')
    with Sinks(tmp_path, role="index", role_rank=1, stage="ict") as sinks:
        sinks.write("step", step=2)
    assert [record["step"] for record in read_events(path)] == [1, 2]


def test_a_resumed_run_counts_each_step_once() -> None:
    records = [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}, {"step": 1, "loss": 3}]
    assert last_of_each_step(iter(records)) == [{"step": 1, "loss": 3}, {"step": 2, "loss": 2}]


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    with Sinks(tmp_path, role="trainer", role_rank=0, stage="pretrain", tensorboard=True, clock=lambda: 5.0) as sinks:
        sinks.write("saved", step=6, stall_ms=3.0)
        sinks.write("step", step=7, steps=9, loss=1.5, note="no curve")
    (file,) = (tmp_path / "events" / "pretrain").iterdir()
    values = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    assert [(step, value.tag, value.tensor.float_val[0]) for step, value in values] == [(7, "pretrain/loss", 1.5)]


@pytest.mark.usefixtures("_restored_logging")
def test_the_leading_rank_talks_and_the_others_warn(tmp_path: Path) -> None:
    for leads, expected in ((True, "step 1\nlow\n"), (False, "[index 2] low\n")):
        console = io.StringIO()
        path = logs.start_logs(tmp_path, role="index", role_rank=2, leads=leads, console=console)
        logger = logging.getLogger("realm_ds.train.loop")
        logger.info("step 1")
        logger.warning("low")
        logger.debug("detail")
        logging.getLogger("somelibrary").warning("deprecated")
        assert console.getvalue() == expected
        text = path.read_text()
        assert path == tmp_path / "logs" / "index-2.log"
        assert "INFO realm_ds.train.loop: step 1" in text
        assert "WARNING somelibrary: deprecated" in text
        assert "detail" not in text


@pytest.mark.usefixtures("_restored_logging")
def test_library_chatter_and_python_warnings_go_to_the_file(tmp_path: Path) -> None:
    console, chatter = io.StringIO(), io.StringIO()
    logging.getLogger("DeepSpeed").addHandler(logging.StreamHandler(chatter))
    path = logs.start_logs(tmp_path, role="trainer", role_rank=0, leads=True, console=console)
    logging.getLogger("DeepSpeed").warning("untested optimizer")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", FutureWarning, stacklevel=1)
    assert chatter.getvalue() == console.getvalue() == ""
    assert "untested optimizer" in path.read_text()
    assert "old call" in path.read_text()


def test_waits_are_named_while_they_last() -> None:
    clock = Clock()
    with waiting_for("shard 1, index version 3, step 40", clock=clock), waiting_for("a lock", clock=clock):
        clock.now += 2
        first, second = current_waits(clock=clock)
        assert first == "shard 1, index version 3, step 40, for 2.0 s (thread MainThread)"
        assert second.startswith("a lock")
    assert current_waits() == []


def test_a_long_wait_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO, logger="realm_ds"), waiting_for("the index", clock=clock):
        clock.now += 7.25
    assert caplog.messages == ["waited 7.2 s for the index"]


def test_a_rank_can_be_asked_what_it_waits_for(tmp_path: Path) -> None:
    import faulthandler

    before = signal.getsignal(signal.SIGUSR2)
    was_enabled = faulthandler.is_enabled()
    out = answer_sigusr2(tmp_path / "rank.log")
    try:
        with waiting_for("the answer of shard 0"):
            os.kill(os.getpid(), signal.SIGUSR2)
            text = (tmp_path / "rank.log").read_text()
        assert "waiting for the answer of shard 0" in text
        assert "test_a_rank_can_be_asked" in text
    finally:
        faulthandler.unregister(signal.SIGUSR2)
        faulthandler.enable() if was_enabled else faulthandler.disable()
        signal.signal(signal.SIGUSR2, before)
        out.close()


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress(out=out, every_s=5, clock=clock) as progress:
        bar = progress.stage("Pre-training", total=10, unit="steps")
        for step in range(1, 9):
            clock.now += 2
            bar.update(step, now=f"loss {step}")
        bar.finish("loss 3.0")
    assert out.getvalue().splitlines() == [
        "Pre-training ...",
        "Pre-training 3/10 steps (30%), 14s left: loss 3",
        "Pre-training 6/10 steps (60%), 8s left: loss 6",
        "Pre-training: loss 3.0 (16s)",
    ]


def test_nothing_known_is_no_line() -> None:
    clock, out = Clock(), io.StringIO()
    bar = Progress(out=out, clock=clock).stage("Data")
    clock.now += 9
    bar.update()
    bar.update(now="cutting passages")
    assert out.getvalue().splitlines() == ["Data ...", "Data: cutting passages"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_one_line_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    out = Terminal()
    with Progress(out=out) as progress:
        bar = progress.stage("ICT", total=4, unit="laps")
        bar.update(2, now="loss [1/2]")
        progress._draw._rich.refresh()
        bar.finish("accuracy 93%")
    assert "2/4" in out.getvalue()
    assert "laps" in out.getvalue()
    assert "loss [1/2]" in out.getvalue()
    assert "ICT: accuracy 93% (0s)" in out.getvalue()


def test_a_run_of_others_is_followed(tmp_path: Path) -> None:
    clock, out = Clock(), io.StringIO()
    trainer = Sinks(tmp_path, role="trainer", role_rank=0, stage="pretrain")
    index = Sinks(tmp_path, role="index", role_rank=0, stage="pretrain")
    trainer.write("step", step=99, steps=100, loss=0.0)
    with Progress(out=out, clock=clock) as progress:
        bar = progress.stage("Pre-training")
        poll = follow_run(tmp_path, stage="pretrain", bar=bar)
        poll()
        assert (bar.done, bar.now) == (0, "")
        trainer.write("step", step=5, steps=20, loss=2.0, retrieval_utility=0.25, other=1)
        index.write("step", step=700)
        with metrics_path(tmp_path, role="trainer", role_rank=0).open("a") as half:
            half.write('{"event": "step", "stage": "pretrain", "step": 6')
            half.flush()
            poll()
            assert (bar.done, bar.total) == (5, 20)
            assert bar.now == "loss 2.000, retrieval utility +0.250"
            half.write(', "steps": 20}\n')
        poll()
        assert bar.done == 6
    trainer.close()
    index.close()


def test_until_the_first_step_the_ranks_say_what_they_do(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        trainer, *index = (
            stack.enter_context(Sinks(tmp_path, role=role, role_rank=number, stage="pretrain"))
            for role, number in (("trainer", 0), ("index", 0), ("index", 1))
        )
        bar = stack.enter_context(Progress(out=io.StringIO(), clock=Clock())).stage("Pre-training")
        poll = follow_run(tmp_path, stage="pretrain", bar=bar)

        def now(writer: Sinks, event: str, **words: object) -> str:
            writer.write(event, **words)
            poll()
            return bar.now

        assert now(index[0], "joined") == "1 rank up"
        assert now(trainer, "joined") == "2 ranks up"
        assert now(trainer, "doing", text="loading torch") == "2 ranks up, loading torch"
        assert now(index[1], "alive", rebuilt_share=0.5) == "embedding passages, 50%"
        assert now(index[0], "alive", rebuilt_share=0.25) == "embedding passages, 25%"
        assert now(index[0], "alive", queries=0) == "embedding passages, 25%"
        assert now(trainer, "step", step=1, steps=9, loss=2.0) == "loss 2.000"
        assert now(index[0], "alive", rebuilt_share=0.75) == "loss 2.000"  # of the next index: steps tell of that


def test_after_the_last_step_it_says_how_many_questions_are_answered_and_what_that_scored(tmp_path: Path) -> None:
    out, words = io.StringIO(), "exact match 45.0% (no retrieval 5.0%, majority 10.0%), F1 50.0%"
    trainer = Sinks(tmp_path, role="trainer", role_rank=0, stage="qa")
    with Progress(out=out, clock=Clock()) as progress:
        bar = progress.stage("qa")
        poll = follow_run(tmp_path, stage="qa", bar=bar)
        trainer.write("step", step=9, steps=9)
        trainer.write("doing", text="answering dev questions, 12 of 20")
        poll()
        assert bar.now == "answering dev questions, 12 of 20"
        trainer.write("result", split="dev", questions=20, em=0.45, f1=0.5, em_no_retrieval=0.05, em_majority=0.1)
        poll()
    trainer.close()
    assert bar.now == f"dev: {words}"
    assert out.getvalue().splitlines()[1:] == [f"qa: dev: {words}"]


def test_what_was_held_out_is_a_line_that_stays(tmp_path: Path) -> None:
    out = io.StringIO()
    trainer = Sinks(tmp_path, role="trainer", role_rank=0, stage="pretrain")
    with Progress(out=out, clock=Clock()) as progress:
        poll = follow_run(tmp_path, stage="pretrain", bar=progress.stage("Pre-training"))
        words = {"log_likelihood": -2.5, "retrieval_utility": 0.25, "null_share": 0.125, "recall_at_5": 0.345}
        trainer.write("evaluated", step=50, **{f"held_out_{name}": value for name, value in words.items()}, version=3)
        poll()
    trainer.close()
    line = "log likelihood -2.500 a token, retrieval utility +0.250, null share 12%, recall@5 34.5%"
    assert out.getvalue().splitlines()[1:] == [f"Pre-training: held out, after step 50: {line}"]
    assert describe_evaluation({"held_out_null_share": 0.5, "held_out_recall_at_5": "nan"}) == "null share 50%"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (187, "3m07s"), (7500, "2h05m")])
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_the_line_of_a_step_tells_how_the_index_is() -> None:
    row = {"loss": 2.0, "version": 3, "staleness_steps": 40, "wait_for_index_ms": 0.31}
    assert describe_step(row) == "loss 2.000, index v3 (age 40), wait 0.3 ms"
    building = {"rebuilt_share": 0.62, "rebuild_passages_per_s": 900.0, "rebuild_eta_s": 70.2}
    assert describe_step(row | building) == "loss 2.000, index v3 (age 40), next 62% 1m10s left at 900/s, wait 0.3 ms"
    assert describe_step(row | {"rebuilt_share": 0.0}).endswith("index v3 (age 40), next 0%, wait 0.3 ms")
    assert describe_step(row | {"rebuilt_share": 1.0}) == describe_step(row)
    assert describe_step({"loss": "nan", "null_share": 0.5}) == "null share 50%"


def test_one_of_a_thing_and_more() -> None:
    told = [number_of(count, "fault") for count in (0, 1, 2, 1234)]
    assert told == ["0 faults", "1 fault", "2 faults", "1,234 faults"]
    assert [about(count, "fault") for count in (1, 2, 1234)] == ["1 fault", "2 faults", "1.2k faults"]
