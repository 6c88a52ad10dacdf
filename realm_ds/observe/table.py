"""A run and its ranks at a moment, and how people see that: two tables and a few lines. Where it is read from is
launch/watch.py's business."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TextIO

from realm_ds.observe.progress import clock_text, describe_step

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

RunState = Literal["starting", "running", "done", "preempted", "failed", "dead"]
_COLOURS = {
    "works": "green", "waits": "yellow", "ended": "dim", "gone": "red", "silent": "red", "running": "green",
    "done": "green", "failed": "red", "dead": "red", "preempted": "yellow", "starting": "yellow",
}  # fmt: skip
PHASES = (
    "data", "queries", "wait_for_index", "forward", "backward", "optimizer", "snapshot", "evaluate", "checkpoint",
    "other",
)  # fmt: skip
"""Those of train/timing.py, which loads torch."""


@dataclass(frozen=True, kw_only=True)
class RankView:
    """One rank."""

    world_rank: int
    role: str
    role_rank: int
    host: str
    state: str
    """works, waits, ended, gone (its process) or silent (on another host)."""
    age_s: float | None
    """Of its newest event."""
    waiting_for: str
    waited_s: float
    queries_per_s: float | None
    figures: Mapping[str, Any]
    """Of its newest event `alive`."""

    @property
    def name(self) -> str:
        return f"{self.role} {self.role_rank}"


@dataclass(frozen=True, kw_only=True)
class RunView:
    """All of them."""

    folder: str
    stage: str
    state: RunState
    why: str
    step: Mapping[str, Any]
    """The newest logged step, means over trainers."""
    ranks: tuple[RankView, ...]
    stages_done: tuple[str, ...]
    """Of a demo."""
    is_over: bool


def show(views: Iterator[RunView], *, out: TextIO | None = None) -> RunView:
    """Draw each, in place on a terminal, else a line for each that is new; the last one, returned, stays whole."""
    from rich.console import Console
    from rich.live import Live

    out = out or sys.stdout
    console, last, said = Console(file=out), next(views), ""
    views = chain([last], views)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for last in views:
                live.update(draw(last), refresh=True)
    else:
        for last in views:
            if headline(last) != said:
                said = headline(last)
                print(said, file=out, flush=True)
    print_once(last, out=out)
    return last


def print_once(view: RunView, *, out: TextIO | None = None) -> None:
    from rich.console import Console

    console = Console(file=out or sys.stdout)
    if not console.is_terminal:
        console.width = 200  # A log has no width: better long lines than words cut off.
    console.print(draw(view))


def headline(view: RunView) -> str:
    """The run in one line."""
    step = view.step
    how_far = f" step {step['step']}/{step['steps']}" if step else ""
    figures = describe_step(step) if step else ""
    return f"{view.stage or view.folder} {view.state}{how_far}" + (f": {figures}" if figures else "")


def draw(view: RunView) -> "Group":
    from rich.console import Group
    from rich.text import Text

    title = Text.assemble((view.folder, "bold"), "  ", (view.state, _COLOURS[view.state]), f"  {view.why}")
    done = [Text(f"stages done: {', '.join(view.stages_done)}")] if view.stages_done else []
    lines = [Text(line) for line in _step_lines(view.step)]
    tables = [table for table in (_trainers(view), _index(view)) if table.row_count]
    return Group(title, *done, *lines, *tables)


def _step_lines(step: Mapping[str, Any]) -> Iterator[str]:
    if not step:
        return
    yield f"{step.get('stage', '')} step {step['step']}/{step['steps']}: {describe_step(step)}"
    if "step_ms" in step:
        parts = [f"{name.replace('_', ' ')} {step[f'{name}_ms']:.1f}" for name in PHASES if step.get(f"{name}_ms")]
        yield f"a step takes {step['step_ms']:.1f} ms: {', '.join(parts)}"
    memory = [
        f"{words} {step[name]:.1f} GiB"
        for name, words in (
            ("peak_rss_gib", "memory"),
            ("peak_allocated_gib", "GPU"),
            ("peak_reserved_gib", "reserved"),
        )
        if name in step
    ]
    if "mfu" in step:
        yield f"model FLOPs utilisation {step['mfu']:.1%}; at most on any trainer: {', '.join(memory)}"


def _trainers(view: RunView) -> "Table":
    table = _table("trainer", "host", "state", "seen", "step", "memory", "waits for")
    for rank in view.ranks:
        if rank.role == "trainer":
            table.add_row(*_who(rank), _number(rank.figures.get("last_step")), _gib(rank), _wait(rank))
    return table


def _index(view: RunView) -> "Table":
    table = _table("index", "host", "state", "seen", "version", "queries/s", "parked", "rebuild", "memory", "waits for")
    for rank in view.ranks:
        if rank.role == "trainer":
            continue
        version = rank.figures.get("version")
        table.add_row(
            *_who(rank), "none" if version == -1 else _number(version),
            "" if rank.queries_per_s is None else f"{rank.queries_per_s:.1f}", _number(rank.figures.get("parked")),
            _rebuild(rank.figures), _gib(rank), _wait(rank),
        )  # fmt: skip
    return table


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "waits for")
    return table


def _who(rank: RankView) -> tuple[str, str, str, str]:
    seen = "" if rank.age_s is None else f"{clock_text(max(rank.age_s, 0.0))} ago"
    return rank.name, rank.host, f"[{_COLOURS[rank.state]}]{rank.state}[/]", seen


def _rebuild(figures: Mapping[str, Any]) -> str:
    if "rebuilt_share" not in figures:
        return ""
    text = f"v{figures['building']} {figures['rebuilt_share']:.0%}"
    if "rebuild_eta_s" in figures:
        text += f", {figures['rebuild_passages_per_s']:.0f}/s, {clock_text(figures['rebuild_eta_s'])} left"
    return text


def _wait(rank: RankView) -> str:
    from rich.markup import escape

    return f"{escape(rank.waiting_for)}, for {clock_text(rank.waited_s)}" if rank.waiting_for else ""


def _gib(rank: RankView) -> str:
    return f"{rank.figures['rss_gib']:.2f} GiB" if "rss_gib" in rank.figures else ""


def _number(value: object) -> str:
    return "" if value is None else str(value)
