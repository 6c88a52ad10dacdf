"""How all ranks of a run do, read from its folder alone: on any host that sees it, while it runs and afterwards.

How that looks is observe/table.py's business. What is read: ranks/ (who is where), the ends of metrics/ (what each did
last), failures/ and preempted.json (why it ended).
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from realm_ds.launch.failures import PREEMPTED_FILE, explain_end, explain_preemption
from realm_ds.observe.pulse import EVERY_S
from realm_ds.observe.sinks import metrics_path, parse_event
from realm_ds.observe.table import RankView, RunState, RunView
from realm_ds.reports.runs import DEMO_STAGES, STAGES, read_cards, run_in
from realm_ds.tether import lives as is_alive

SILENT_S = 60.0
"""A rank of another host that has written nothing for so long, where one every five seconds is due, is lost."""
LOOK_EVERY_S = 0.5
TAIL_BYTES = 65_536
"""Of the end of a file of events: more than a rank writes between two logged steps."""

Event = dict[str, Any]


def look(
    folder: Path, *, now: float | None = None, host: str | None = None, lives: Callable[[int], bool] | None = None
) -> RunView:
    """The run in `folder` as it is now; of a demo the stage that it is at. Raises ConfigError if it holds no run.

    `lives` says whether a process of this host does.
    """
    run, stages = run_in(folder)
    now = time.time() if now is None else now
    host, lives = host or socket.gethostname(), lives or is_alive
    ranks = [_rank(run, card, now=now, host=host, lives=lives) for card in read_cards(run)]
    events = _events(run, "trainer", 0)
    step = _last(events, "step") or {}
    state, why = _state(run, ranks, step=step, is_ended=_ends_with(events, "ended"))
    return RunView(
        folder=str(run), stage=str((step or (events[-1] if events else {})).get("stage", "")), state=state, why=why,
        step=step, ranks=tuple(ranks), stages_done=tuple(stages), is_over=_is_over(folder, run, state),
    )  # fmt: skip


def keep_looking(
    folder: Path, *, every_s: float, sleep: Callable[[float], None] = time.sleep,
    look: Callable[[Path], RunView] = look,
) -> Iterator[RunView]:  # fmt: skip
    """Looks again and again, until the run is over: the last look says how it ended."""
    while True:
        view = look(folder)
        yield view
        if view.is_over:
            return
        sleep(every_s)


def writes_on(
    run: Path, *, host: str | None = None, now: float | None = None, sleep: Callable[[float], None] = time.sleep
) -> RankView | None:
    """A rank on another host that goes on writing in the run's folder, if there is one. Takes seconds where some have
    written of late and not said that they ended: they may have been killed."""
    host, now = host or socket.gethostname(), time.time() if now is None else now
    if (run / PREEMPTED_FILE).is_file() or any((run / "failures").glob("*.json")):
        return None
    suspects = []
    for rank in (_rank(run, card, now=now, host=host, lives=is_alive) for card in read_cards(run)):
        path = metrics_path(run, role=rank.role, role_rank=rank.role_rank)
        wrote_lately = rank.age_s is not None and rank.age_s < 3 * EVERY_S
        if rank.host != host and rank.state in ("works", "waits") and wrote_lately:
            suspects.append((rank, path, path.stat().st_size))
    looks = int(2 * EVERY_S / LOOK_EVERY_S) if suspects else 0
    for _ in range(looks):
        sleep(LOOK_EVERY_S)
        for rank, path, size in suspects:
            if path.stat().st_size > size:
                return rank
    return None


def _rank(run: Path, card: dict[str, Any], *, now: float, host: str, lives: Callable[[int], bool]) -> RankView:
    role, role_rank = str(card["role"]), int(card["role_rank"])
    events = _since_joined(_events(run, role, role_rank))
    alive = [event for event in events if event["event"] == "alive"]
    last = alive[-1] if alive else {}
    age_s = now - events[-1]["time"] if events else None
    if _ends_with(events, "ended"):
        state = "ended"
    elif card["host"] == host:
        state = "works" if lives(int(card["pid"])) else "gone"
    else:
        state = "works" if age_s is None or age_s < SILENT_S else "silent"
    waiting_for = str(last.get("waiting_for", "")) if state in ("works", "silent") else ""
    return RankView(
        world_rank=int(card["world_rank"]), role=role, role_rank=role_rank, host=str(card["host"]),
        state="waits" if state == "works" and waiting_for else state, age_s=age_s, waiting_for=waiting_for,
        waited_s=float(last.get("waited_s", 0.0)), queries_per_s=_rate(alive, "queries"), figures=last,
    )  # fmt: skip


def _state(run: Path, ranks: Sequence[RankView], *, step: Event, is_ended: bool) -> tuple[RunState, str]:
    if any((run / "failures").glob("*.json")):
        return "failed", explain_end(run, code=1, log=run / "logs" / "world.log")
    if (run / PREEMPTED_FILE).is_file():
        return "preempted", explain_preemption(run)
    if not ranks:  # Asked before how its events end: those may be of the world before.
        return "starting", "its ranks have not met yet"
    if is_ended:
        return "done", f"all {step.get('steps', '')} steps are done"
    lost = [rank for rank in ranks if rank.state in ("gone", "silent")]
    if any(rank.state == "gone" for rank in lost):
        names = ", ".join(rank.name for rank in lost)
        return "dead", f"{names} ended without a word (Ctrl-C, or the machine went down): go on with --resume"
    if len(lost) == len(ranks):
        age_s = min(rank.age_s for rank in lost if rank.age_s is not None)
        return "dead", f"no rank has written anything for {age_s:.0f} s: look at the job and at logs/"
    if lost:
        return "running", f"{', '.join(rank.name for rank in lost)} silent for more than {SILENT_S:.0f} s"
    return "running", ""


def _is_over(folder: Path, run: Path, state: RunState) -> bool:
    if state == "done" and folder != run:  # More is to do after each stage of a demo or a pipeline.
        is_demo = (folder / DEMO_STAGES).is_file()
        return (folder / "report.json").is_file() if is_demo else run.name == STAGES[-1]
    return state not in ("starting", "running")


def _events(run: Path, role: str, role_rank: int) -> list[Event]:
    """The last events of a rank, oldest first."""
    path = metrics_path(run, role=role, role_rank=role_rank)
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    parsed = [parse_event(line) for line in lines]  # the first may be half a line, and is left out then
    return [event for event in parsed if event is not None]


def _since_joined(events: list[Event]) -> list[Event]:
    """Those of this world: a run that goes on writes on in the same files. All, if it joined long ago."""
    places = [place for place, event in enumerate(events) if event["event"] == "joined"]
    return events[places[-1] :] if places else events


def _last(events: Sequence[Event], name: str) -> Event | None:
    return next((event for event in reversed(events) if event["event"] == name), None)


def _ends_with(events: Sequence[Event], name: str) -> bool:
    """Whether that is the last thing that happened: a resumed run writes on in the same file, `joined` first."""
    return bool(events) and events[-1]["event"] == name


def _rate(alive: Sequence[Event], name: str) -> float | None:
    """Of a count that grows, a second, between the last two events."""
    if len(alive) < 2 or name not in alive[-1] or name not in alive[-2]:
        return None
    took_s = alive[-1]["time"] - alive[-2]["time"]
    more = alive[-1][name] - alive[-2][name]
    return float(more / took_s) if took_s > 0 and more >= 0 else None
