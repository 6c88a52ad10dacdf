"""What a job's log tells of its end, of Slurm's own words in it: node lost, out of memory, limit reached, cancelled.

Pure: text in, cause out. Which of several causes counts is why.py's business.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from realm_ds.cluster.slurm import JobState
from realm_ds.launch.failures import is_launcher_noise

TAIL_BYTES = 1 << 20
Kind = Literal["node", "memory", "time", "preempted", "cancelled", "start", "rank"]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why Slurm ended a job, or could not start it."""

    kind: Kind
    what: str
    host: str = ""
    world_rank: int | None = None
    at: str = ""
    """As Slurm writes it; often nothing."""


_ENDED = r"\*\*\* (?:JOB|STEP) \S+ ON (?P<on>\S+) CANCELLED AT (?P<at>\S+) DUE TO "
_TASK = r"^srun: error: (?P<host>\S+): tasks? (?P<task>\d+)[^:]*: "
_PATTERNS: tuple[tuple[Kind, str, str], ...] = (
    ("node", r"error: Node failure on (?P<host>\S+)", "node {host} failed"),
    ("node", _ENDED + "NODE FAILURE", "a node failed"),
    ("memory", _TASK + "Out Of Memory", "out of memory on {host}"),
    ("memory", r"[Dd]etected \d+ oom[-_ ]kill event", "out of memory"),
    ("memory", r"Exceeded (?:job|step) memory limit", "out of memory"),
    ("time", _ENDED + "TIME LIMIT", "the time limit of the job was reached"),
    ("preempted", _ENDED + "PREEMPTION", "a job of higher priority took the nodes"),
    ("start", r"^srun: error: (?P<line>(?:Couldn't find|Invalid|Unable to|Unrecognized|cannot find).*)",
     "srun started nothing: {line}"),
    ("start", r"(?P<line>.*unsupported PMI version.*)", "MPI and srun's --mpi do not go together: {line}"),
    ("start", r"(?P<line>.*(?:command not found|execve\(\): .*: No such file or directory|No module named .*))",
     "the ranks could not be started: {line}"),
    ("cancelled", r"\*\*\* JOB \S+ ON \S+ CANCELLED AT (?P<at>\S+) \*\*\*", "somebody cancelled the job"),
    ("rank", _TASK + r"(?P<line>(?:Killed|Terminated|Segmentation fault|Bus error|Aborted|Illegal instruction|"
     r"Floating point exception|Exited with exit code \d+).*)", "a rank ended: {line}"),
)  # fmt: skip
"""In the order in which they count: a node that fails takes its ranks with it, and these are said to be killed."""
_START = re.compile(r"^realm: job \S+, start \d+,(?: at (?P<at>\S+),)?")
_GIVEN_UP = re.compile(r"^realm: job \S+ failed with exit code \d+ ")
"""What slurm/site.sh says first and last of each start of a job; all starts write on in one log."""
_NOT_THE_RUNS = re.compile(r"^realm: |^(srun|sbatch|scancel|slurmstepd|slurmd|\S+: slurmstepd)(\[\d+\])?: ")
_STATES: dict[str, tuple[Kind, str]] = {
    "NODE_FAIL": ("node", "a node failed"),
    "OUT_OF_MEMORY": ("memory", "out of memory"),
    "TIMEOUT": ("time", "the time limit of the job was reached"),
    "DEADLINE": ("time", "the job's deadline was reached"),
    "PREEMPTED": ("preempted", "a job of higher priority took the nodes"),
    "CANCELLED": ("cancelled", "somebody cancelled the job"),
    "BOOT_FAIL": ("node", "a node did not start"),
}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A job's last start, as its log has it."""

    lines: tuple[str, ...] = ()
    given_up: bool = False
    """Whether its script has called it a failure."""
    reason: str = ""
    """That the script gives for it, in one line."""
    started_at: float | None = None
    """None where the log does not say."""


def last_attempt(log: Path) -> Attempt:
    """Of the end of the log; empty if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return Attempt()
    starts = [(place, found["at"]) for place, line in enumerate(lines) if (found := _START.search(line))]
    started_at = _instant(starts[-1][1]) if starts else None
    lines = lines[starts[-1][0] + 1 :] if starts else lines
    ends = [place for place, line in enumerate(lines) if _GIVEN_UP.search(line)]
    if not ends:
        return Attempt(lines=tuple(lines), started_at=started_at)
    reason = lines[ends[0] + 1].strip() if ends[0] + 1 < len(lines) else ""
    return Attempt(lines=tuple(lines[: ends[0]]), given_up=True, reason=reason, started_at=started_at)


def cause_in(lines: Sequence[str]) -> Cause | None:
    """The weightiest of what Slurm says in them."""
    for kind, pattern, what in _PATTERNS:
        for line in lines:
            match = re.search(pattern, line)
            if match is None:
                continue
            found = {name: value for name, value in match.groupdict().items() if value is not None}
            task = found.get("task")
            return Cause(
                kind=kind, what=what.format(**found).strip(), host=found.get("host", ""),
                world_rank=int(task) if task is not None else None, at=found.get("at", ""),
            )  # fmt: skip
    return None


def cause_of(state: JobState | None) -> Cause | None:
    """The same from a job's state, where Slurm still knows it."""
    if state is None or state.state not in _STATES:
        return None
    kind, what = _STATES[state.state]
    if state.reason == "DependencyNeverSatisfied":
        what = "a job that this one waited for did not succeed"
    elif kind == "cancelled" and not state.nodes:
        what = f"job {state.job} was cancelled before it started"
    return Cause(kind=kind, what=what, host=state.nodes if kind == "node" else "")


def last_words(lines: Sequence[str]) -> str:
    """The last line that is neither Slurm's nor a launcher's."""
    spoken = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(spoken) if not (_NOT_THE_RUNS.match(line) or is_launcher_noise(line))), "")


def _instant(at: str | None) -> float | None:
    """As `date -Iseconds` writes it."""
    try:
        return datetime.fromisoformat(at or "").timestamp()
    except ValueError:
        return None
