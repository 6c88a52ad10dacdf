"""What a run ran on, and what each of its ranks did and waited for, from what they wrote of themselves."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_ds.comm.roles import TRAINER
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.reports.runs import read_cards

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the run ran on, as it recorded that itself."""

    code: str
    """Version of realm-ds and commit; empty where code.txt is not there."""
    is_modified: bool
    """Whether the code was another than that commit's."""
    hosts: tuple[str, ...]
    """Of its last world, in the order of their first ranks."""
    libraries: Mapping[str, str]
    """Versions by name, of trainer 0; empty for runs of realm-ds before it recorded them."""


@dataclass(frozen=True, kw_only=True)
class RankHistory:
    """One rank of the last world, by what it wrote every few seconds."""

    world_rank: int
    role: str
    role_rank: int
    host: str
    num_looks: int
    """How often it wrote."""
    waiting_share: float
    """Of these, how often it waited for something that it names."""
    longest_wait_s: float
    longest_wait_for: str
    peak_rss_gib: float
    counted: Row
    """What an index or builder rank had done at its end: queries, seconds of search, versions built, ..."""

    @property
    def name(self) -> str:
        return f"{self.role} {self.role_rank}"


def read_ranks(run_folder: Path) -> Iterator[RankHistory]:
    """By world rank, of the last world; of a run that is starting those that have joined."""
    for card in read_cards(run_folder):
        role, role_rank = str(card["role"]), int(card["role_rank"])
        path = metrics_path(run_folder, role=role, role_rank=role_rank)
        events = _of_last_world(list(read_events(path))) if path.is_file() else []
        looks = [event for event in events if event["event"] == "alive"]
        waits = [event for event in looks if "waiting_for" in event]
        longest = max(waits, key=lambda event: number_of(event, "waited_s"), default={})
        yield RankHistory(
            world_rank=int(card["world_rank"]), role=role, role_rank=role_rank, host=str(card["host"]),
            num_looks=len(looks), waiting_share=len(waits) / len(looks) if looks else 0.0,
            longest_wait_s=number_of(longest, "waited_s"), longest_wait_for=str(longest.get("waiting_for", "")),
            peak_rss_gib=max((number_of(event, "rss_gib") for event in looks), default=0.0),
            counted=last_of(events, "done") if role != TRAINER else {},
        )  # fmt: skip


def _of_last_world(events: Sequence[Row]) -> Sequence[Row]:
    begins = [place for place, event in enumerate(events) if event["event"] == "joined"]
    return events[begins[-1] :] if begins else events


def read_environment(run_folder: Path, events: Sequence[Row]) -> Environment:
    """`events` are those of trainer 0."""
    path = run_folder / "code.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    cards = read_cards(run_folder)
    return Environment(
        code=", ".join(line for line in lines[:2] if line),
        is_modified=any(line.strip() for line in lines[2:]),
        hosts=tuple(dict.fromkeys(str(card["host"]) for card in cards)),
        libraries=last_of(events, "joined").get("libraries", {}),
    )


def number_of(row: Row, name: str) -> float:
    """0 where it was not measured, or is no finite number."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def last_of(events: Sequence[Row], name: str) -> Row:
    """The newest event of that name; an empty row where there is none."""
    return next((event for event in reversed(events) if event["event"] == name), {})
