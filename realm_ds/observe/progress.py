"""What goes on now, for people: a bar per stage on a terminal, a line every few seconds elsewhere.

follow_run() draws a run that other processes make, from the events they write; sinks.py says what those are.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from realm_ds.observe.sinks import parse_event

EVERY_S = 5.0
"""Seconds between lines where there is no terminal to draw a bar on."""

HELD_OUT = "held_out_"
"""In front of the name of every measure of held-out data, so that it is not taken for that of training."""

_STEP_WORDS: Mapping[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.3f}",
    "in_batch_accuracy": lambda value: f"in-batch accuracy {value:.0%}",
    "retrieval_utility": lambda value: f"retrieval utility {value:+.3f}",
    "null_share": lambda value: f"null share {value:.0%}",
    "tokens_per_s": lambda value: f"{count_text(value)} tokens/s",
}


_HELD_OUT_WORDS: Mapping[str, Callable[[float], str]] = {
    "log_likelihood": lambda value: f"log likelihood {value:.3f} a token",
    "retrieval_utility": _STEP_WORDS["retrieval_utility"],
    "null_share": _STEP_WORDS["null_share"],
    "recall_at_5": lambda value: f"recall@5 {value:.1%}",
}


class Bar:
    """One stage: how far it is and what it does now. finish() leaves one line of result."""

    def __init__(
        self, title: str, *, total: int | None, unit: str, draw: "_Lines | _Bars", clock: Callable[[], float]
    ) -> None:
        self.title, self.total, self.unit, self.done, self.now = title, total, unit, 0, ""
        self.started_at = clock()
        self._clock = clock
        self._draw = draw
        self._first: tuple[int, float] | None = None
        draw.begin(self)

    def update(self, done: int | None = None, *, total: int | None = None, now: str | None = None) -> None:
        """Say what is known by now; what is left out stays as it was."""
        self.total = self.total if total is None else total
        self.now = self.now if now is None else now
        if done is not None:
            self._first = self._first or (done, self._clock())
            self.done = done
        self._draw.changed(self)

    def say(self, text: str) -> None:
        """A line of this stage that stays, above the bar."""
        self._draw.say(f"{self.title}: {text}")

    def finish(self, result: str) -> None:
        """The stage is over: one line stays."""
        self._draw.finished(self, f"{self.title}: {result} ({clock_text(self._clock() - self.started_at)})")

    def left_s(self) -> float | None:
        """Seconds to go at the pace since the first known count: starting up does not count as slowness."""
        if self.total is None or self._first is None or self.done <= self._first[0]:
            return None
        first_done, first_at = self._first
        return (self._clock() - first_at) / (self.done - first_done) * max(self.total - self.done, 0)


class Progress:
    """The display of a program that goes through stages, one after the other."""

    def __init__(
        self, *, out: TextIO | None = None, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        out = out or sys.stderr
        self._clock = clock
        self._draw: _Lines | _Bars = _Bars(out) if out.isatty() else _Lines(out, every_s=every_s, clock=clock)

    def stage(self, title: str, *, total: int | None = None, unit: str = "") -> Bar:
        """Begin a stage; `unit` is what it is counted in."""
        return Bar(title, total=total, unit=unit, draw=self._draw, clock=self._clock)

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        self._draw.say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw.close()


class _Lines:
    """A line now and then: for logs, pipes and batch jobs."""

    def __init__(self, out: TextIO, *, every_s: float, clock: Callable[[], float]) -> None:
        self._out, self._every_s, self._clock = out, every_s, clock
        self._said_at = float("-inf")

    def begin(self, bar: Bar) -> None:
        self.say(f"{bar.title} ...")
        self._said_at = self._clock()

    def changed(self, bar: Bar) -> None:
        text = _how_far(bar)
        if text and self._clock() - self._said_at >= self._every_s:
            self._said_at = self._clock()
            self.say(f"{bar.title}{text}")

    def finished(self, bar: Bar, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def close(self) -> None:
        pass


class _Bars:
    """rich's bars on a terminal."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[now]}", markup=True),
        )
        self._rich = RichProgress(*columns, console=Console(file=out), transient=True, refresh_per_second=8)
        self._tasks: dict[int, Any] = {}
        self._rich.start()

    def begin(self, bar: Bar) -> None:
        self._tasks[id(bar)] = self._rich.add_task(bar.title, total=bar.total, unit=bar.unit, now=bar.now, left="")

    def changed(self, bar: Bar) -> None:
        from rich.markup import escape

        left_s = bar.left_s()
        left = "" if left_s is None else f"{clock_text(left_s)} left"
        self._rich.update(
            self._tasks[id(bar)], completed=bar.done, total=bar.total, now=escape(bar.now), left=left
        )  # fmt: skip

    def finished(self, bar: Bar, text: str) -> None:
        self._rich.remove_task(self._tasks.pop(id(bar)))
        self.say(text)

    def say(self, text: str) -> None:
        self._rich.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._rich.stop()


class RunFollower:
    """Moves a bar by the events that a live run appends to RUN/metrics; only what is written from now on counts."""

    def __init__(self, run_folder: Path, *, stage: str, bar: Bar) -> None:
        self._folder = run_folder / "metrics"
        self._stage = stage
        self._bar = bar
        self._up: set[str] = set()
        self._rebuilt: dict[str, float] = {}
        self._read_to = {path: path.stat().st_size for path in self._folder.glob("*.jsonl")}

    def poll(self) -> None:
        """Take what is new; cheap, and never waits."""
        for path in sorted(self._folder.glob("*.jsonl")):
            for record in self._new_records(path):
                self._take(path.stem, record)

    def _new_records(self, path: Path) -> list[dict[str, Any]]:
        start = self._read_to.get(path, 0)
        if path.stat().st_size <= start:
            return []
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # a line still being written waits for the next poll
        self._read_to[path] = start + len(whole)
        parsed = (parse_event(line) for line in whole.decode("utf-8", "replace").splitlines())
        return [record for record in parsed if record is not None and record.get("stage") == self._stage]

    def _take(self, writer: str, record: Mapping[str, Any]) -> None:
        if record["event"] == "step" and writer == "trainer-0":
            self._bar.update(int(record["step"]), total=record.get("steps"), now=describe_step(record))
        elif record["event"] == "evaluated" and writer == "trainer-0":
            self._bar.say(f"held out, after step {record['step']}: {describe_evaluation(record)}")
        elif record["event"] == "result":
            self._bar.now = f"{record['split']}: {describe_result(record)}"  # what the stage ends with
            self._bar.say(self._bar.now)
        elif record["event"] == "remark":
            self._bar.say(str(record["text"]))
        elif record["event"] == "doing" and writer == "trainer-0" and self._bar.done:
            self._bar.update(now=record["text"])
        elif not self._bar.done:
            self._take_start(writer, record)

    def _take_start(self, writer: str, record: Mapping[str, Any]) -> None:
        """What goes on before the first step: ranks come up, trainers load and set up, the first index is embedded."""
        if record["event"] == "joined":
            self._up.add(writer)
            self._bar.update(now=f"{number_of(len(self._up), 'rank')} up")
        elif record["event"] == "doing" and writer == "trainer-0":
            self._bar.update(now=f"{number_of(len(self._up), 'rank')} up, {record['text']}")
        elif record["event"] == "alive" and "rebuilt_share" in record:
            self._rebuilt[writer] = record["rebuilt_share"]
            self._bar.update(now=f"embedding passages, {min(self._rebuilt.values()):.0%}")


def follow_run(run_folder: Path, *, stage: str, bar: Bar) -> Callable[[], None]:
    """A function that brings the bar up to date with the run: launch.local.run_world calls it while it waits."""
    return RunFollower(run_folder, stage=stage, bar=bar).poll


def describe_step(record: Mapping[str, Any]) -> str:
    """The numbers of a step that people watch."""
    known = [(record[name], words) for name, words in _STEP_WORDS.items() if name in record]
    said = [words(value) for value, words in known if isinstance(value, int | float)]
    return ", ".join([*said, *_index_words(record)])


def describe_evaluation(record: Mapping[str, Any]) -> str:
    """What came out for held-out sentences and questions."""
    known = [(record.get(f"{HELD_OUT}{name}"), words) for name, words in _HELD_OUT_WORDS.items()]
    return ", ".join(words(value) for value, words in known if isinstance(value, int | float))


def describe_result(record: Mapping[str, Any]) -> str:
    """What the answers to a split's questions scored, and what is reached without passages or without a model."""
    return (
        f"exact match {record['em']:.1%} (no retrieval {record['em_no_retrieval']:.1%}, majority "
        f"{record['em_majority']:.1%}), F1 {record['f1']:.1%}"
    )


def _index_words(record: Mapping[str, Any]) -> Iterator[str]:
    """Of the index: which version answers and how old it is, how far the next one is, how long answers took."""
    if "version" in record:
        age = f" (age {record['staleness_steps']})" if "staleness_steps" in record else ""
        yield f"index v{record['version']}{age}"
    if record.get("rebuilt_share", 1.0) < 1.0:
        left = ""
        if "rebuild_eta_s" in record:
            left = f" {clock_text(record['rebuild_eta_s'])} left at {record['rebuild_passages_per_s']:.0f}/s"
        yield f"next {record['rebuilt_share']:.0%}{left}"
    if record.get("wait_for_index_ms"):  # other stages have no index to wait for
        wait_ms, step_ms = record["wait_for_index_ms"], record.get("step_ms", 0.0)
        yield f"wait {wait_ms:.1f} ms" + (f" ({wait_ms / step_ms:.0%})" if step_ms else "")


def number_of(count: int, thing: str) -> str:
    """1 question, 2 questions, 12,345 questions."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def count_text(count: float) -> str:
    """Counts as people say them: 870, 12.3k, 4.1M."""
    if count < 1000:
        return f"{count:.0f}"
    return f"{count / 1000:.1f}k" if count < 1e6 else f"{count / 1e6:.1f}M"


def about(count: float, thing: str) -> str:
    """number_of with the count as people say it: 1 document, 12.3k documents."""
    text = count_text(count)
    return f"{text} {thing}" if text == "1" else f"{text} {thing}s"


def size_text(num_bytes: int) -> str:
    """Bytes as people say them: 3.1 MB, 12 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"


def clock_text(seconds: float) -> str:
    """Durations as people say them: 41s, 3m07s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _how_far(bar: Bar) -> str:
    """What follows a title: " 3/10 (30%), 14s left: loss 2.1"; '' when nothing is known."""
    left_s = bar.left_s()
    unit = f" {bar.unit}" if bar.unit else ""
    counted = f"{bar.done}/{bar.total}{unit} ({bar.done / bar.total:.0%})" if bar.total else ""
    counted = counted or (f"{bar.done}{unit}" if bar.done else "")
    left = "" if left_s is None else f"{clock_text(left_s)} left"
    known = ", ".join(filter(None, (counted, left)))
    return (f" {known}" if known else "") + (f": {bar.now}" if bar.now else "")
