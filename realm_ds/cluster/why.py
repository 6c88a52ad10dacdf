"""Why a run failed, in one answer: from what its ranks left in the run folder and what Slurm wrote into the job's log.

Reads files alone, whole or not, on any host; where Slurm is at hand it is asked for the job's state as well.
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from realm_ds.cluster.pipeline import FOLDERS
from realm_ds.cluster.scripts import NAMES, STAGES
from realm_ds.cluster.slurm import JobState, state_of
from realm_ds.cluster.slurm_log import Attempt, Cause, Kind, cause_in, cause_of, last_attempt, last_words
from realm_ds.cluster.submit import JOB_FOLDER, jobs_of
from realm_ds.config.load import RUN_CONFIG
from realm_ds.errors import ConfigError
from realm_ds.launch.failures import PREEMPTED_FILE, causes, is_death, name_of
from realm_ds.launch.watch import look
from realm_ds.observe.logs import log_path
from realm_ds.observe.table import RunState, RunView
from realm_ds.reports.runs import read_records, run_in
from realm_ds.train.manifest import saved_steps

RESTARTS_FILE = "restarts"
"""Written by slurm/site.sh: how often in a row a job was started again without getting any further, first of all."""
_REMEDIES: dict[Kind, str] = {
    "node": "submit it again; a node that fails again can be left out by sbatch's --exclude",
    "memory": "ask for more memory (--mem), start fewer ranks on a node, or lower the stage's micro_batch_size",
    "time": "submit it again, or raise --time. If it could not save in time, let the script's --signal come earlier",
    "preempted": "submit it again; with #SBATCH --requeue Slurm does that by itself",
    "cancelled": "submit it again",
    "start": "mend site.sh (modules, environment, MPI plugin); realm-ds doctor looks at them, started as the job is",
    "rank": "the log of that rank has its last words",
}
_CLOCKS_AGREE_S = 5.0
"""Of hosts and file servers. Whoever starts a job again, Slurm included, takes longer."""
_ASK_EVERY_S = 30.0
"""Slurm's controller, by whoever only watches."""
_LOG_NAME = re.compile(rf"(?:({'|'.join(NAMES)})-)?(\d+)")
_ENDED_BADLY = {"FAILED", "BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a run's last job ended, and if it failed, of what."""

    folder: str
    state: RunState
    what: str
    who: str = ""
    """Which rank, where one is to be named."""
    host: str = ""
    world_rank: int | None = None
    time: float | None = None
    remedy: str = ""
    again: str = ""
    """What submits the job once more, where that is known; the script goes on from the newest checkpoint."""
    also: str = ""
    """What followed from it, or was seen before."""
    job: str = ""
    restarts: int = 0
    last_step: int = 0
    """Of the newest whole checkpoint."""
    logs: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        return self.state in ("failed", "dead")


def explain(
    folder: Path, *, log: Path | None = None, code: int | None = None,
    ask: Callable[[str], JobState | None] = state_of,
) -> Answer:  # fmt: skip
    """The answer for a run folder, or the stage of a demo or pipeline that came last.

    `log` is the job's, where it is not in RUN/job; `code` what a step of it has ended with, if its script asks. Raises
    ConfigError if there is no run.
    """
    run = _run(folder)
    if log is not None and not log.is_file():
        raise ConfigError(
            f"--log {log} is no file: name the job's, or leave it out for the newest in {run}/{JOB_FOLDER}"
        )
    jobs = jobs_of(run)
    log = log or _newest_log(run)
    record = _record_of(log, jobs) if log is not None else _of_silent_jobs(jobs)
    attempt = last_attempt(log) if log is not None else Attempt()
    if code:
        attempt = replace(attempt, given_up=True)
    job = str(record.get("job", ""))
    state = ask(job) if job else None
    answer = Answer(
        folder=str(run), state="starting", what="", job=job, restarts=_restarts(run),
        last_step=max(saved_steps(run), default=0), logs=_logs(run, log), again=_again(record),
    )  # fmt: skip
    if record.get("name", "pretrain") not in STAGES:
        return _of_other_job(answer, record, attempt, state)
    cause = cause_in(attempt.lines) or cause_of(state)
    is_of_before = _world_is_older(run, attempt.started_at or float(record.get("time", 0.0)))
    failures = [] if is_of_before else causes(run)
    if failures:
        return _of_records(answer, failures, cause)
    if (run / RUN_CONFIG).is_file():
        view = look(run)
        answer = replace(answer, state=view.state, what=view.why)
        if is_of_before and view.state != "done":
            answer = replace(answer, state="starting", what="its ranks have not met yet")
    # Of a rank that kept what it did, srun says only that its code was not 0.
    if attempt.given_up and (cause is None or (cause.kind == "rank" and answer.state == "preempted")):
        return _of_words(answer, attempt, state)
    if answer.state in ("done", "preempted"):
        return answer
    is_over = attempt.given_up or state is None or not state.is_live
    if cause is not None and cause.kind == "start" and not (is_over and answer.state == "starting"):
        cause = None  # a line that looks like it: the ranks are there, or may still come
    if _waits(state):
        before = f"before that: {cause.what}" if cause else ""
        return replace(answer, state="starting", what=_of_silent_job(job, state), also=before)
    has_ended_badly = state is not None and state.state in _ENDED_BADLY
    if job and log is None and answer.state == "starting" and not has_ended_badly:
        return replace(answer, what=_of_silent_job(job, state))
    if cause is not None:
        return _of_cause(answer, cause, run, log)
    return _of_words(answer, attempt, state) if has_ended_badly else answer


def describe(answer: Answer, *, now: float | None = None) -> str:
    """The answer for people: a headline, then a line for each thing known. How long ago it was, if told what is now."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(answer.time)) if answer.time is not None else ""
    if answer.time is not None and now is not None:
        at = f"{at}, {_length(max(0, round(now - answer.time)))} ago"
    restarts = f", queued again {answer.restarts} times without getting any further" if answer.restarts else ""
    rows = {
        "who": answer.who, "host": "" if answer.host in answer.who else answer.host, "when": at, "also": answer.also,
        "job": f"{answer.job}{restarts}" if answer.job else restarts.removeprefix(", "),
        "to do": answer.remedy, "again": answer.again if answer.has_failed else "",
        "kept": f"checkpoint of step {answer.last_step}" if answer.last_step else "",
        "logs": "\n         ".join(answer.logs) if answer.has_failed else "",
    }  # fmt: skip
    what = f": {answer.what}" if answer.what else ""
    return "\n".join([f"{answer.folder} {_STATE_WORDS[answer.state]}{what}"]
                     + [f"  {name:<6} {text}" for name, text in rows.items() if text])  # fmt: skip


def looking_at_jobs(
    *, ask: Callable[[str], JobState | None] = state_of, clock: Callable[[], float] = time.monotonic
) -> Callable[[Path], RunView]:
    """`look`, which tells of a run that has not started how its job is: one that is gone will not start."""
    asked_at, told = -math.inf, Answer(folder="", state="starting", what="")

    def look_at_job(folder: Path) -> RunView:
        nonlocal asked_at, told
        view = look(folder)
        if view.state != "starting":
            return view
        if clock() - asked_at >= _ASK_EVERY_S:
            asked_at, told = clock(), explain(Path(view.folder), ask=ask)
        if told.has_failed:
            return replace(view, state=told.state, why=told.what, is_over=True)
        return replace(view, why=told.what or view.why)

    return look_at_job


def as_json(answer: Answer) -> str:
    """The same for programs."""
    return json.dumps({"has_failed": answer.has_failed, **asdict(answer)})


_STATE_WORDS: dict[RunState, str] = {
    "starting": "has not started", "running": "has not failed, it runs", "done": "has not failed",
    "preempted": "has not failed", "failed": "FAILED", "dead": "is DEAD",
}  # fmt: skip


def _run(folder: Path) -> Path:
    """Also one that failed before it had a config."""
    if any((folder / name).exists() for name in (RUN_CONFIG, "failures", JOB_FOLDER)):
        return folder
    parts = [folder / name for name in FOLDERS]
    logs = [(log.stat().st_mtime, part) for part in parts if (log := _newest_log(part)) is not None]
    if logs:
        return max(logs)[1]
    submitted = [part for part in parts if jobs_of(part)]
    if submitted:  # and none has begun: the first is what all others wait for
        return submitted[0]
    try:
        return run_in(folder)[0]
    except ConfigError:
        if (folder / "logs").is_dir():
            return folder
        raise


def _record_of(log: Path, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is known of the job that has written a log. Of one that was not submitted by us its name tells, as the
    scripts choose it, or the file that it is a link to."""
    recorded = [record for record in jobs if Path(str(record.get("log", ""))).name == log.name]
    if recorded:
        return recorded[-1]
    own, target = _LOG_NAME.fullmatch(log.stem), _LOG_NAME.search(log.resolve().stem)
    if own is None:
        return {}
    name = own[1] or (target and target[1]) or "pretrain"
    like = [record for record in jobs if record["name"] == name]
    return {**(like[-1] if like else {}), "job": own[2], "name": name}


def _of_silent_jobs(jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The newest that trains: an export waits for it."""
    trained = [record for record in jobs if record["name"] in STAGES]
    return (trained or jobs or [{}])[-1]


def _again(record: Mapping[str, Any]) -> str:
    line = str(record.get("line", ""))
    return "the same line of realm-ds submit pipeline" if record.get("in_pipeline") else line


def _world_is_older(run: Path, started_at: float) -> bool:
    """Whether what ranks have left is of a world before this start: they clear it away as they come."""
    written_at = 0.0
    for path in (*(run / "ranks").glob("*.json"), *(run / "failures").glob("*.json"), run / PREEMPTED_FILE):
        with suppress(OSError):
            written_at = max(written_at, path.stat().st_mtime)
    return 0.0 < written_at < started_at - _CLOCKS_AGREE_S


def _newest_log(run: Path) -> Path | None:
    logs = [path for path in (run / JOB_FOLDER).glob("*.log") if path.is_file()]  # a link's file may be gone
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def _of_records(answer: Answer, failures: list[dict[str, Any]], cause: Cause | None) -> Answer:
    """Ranks have said why. Where the first was only killed, or a node failed under it, Slurm knows more."""
    first, error = failures[0], str(failures[0].get("error", "no reason given"))
    who = name_of(first) if _is_complete(first) else f"a process on {first['host']}"
    others = sum(str(record.get("error")) != error for record in failures[1:])
    told = replace(
        answer, state="failed", what=error, who=who, host=str(first["host"]), world_rank=first.get("world_rank"),
        time=first.get("time"), also=f"{others} more failed after it" if others else "",
        logs=_with_own_log(answer, first),
    )  # fmt: skip
    if cause is None or not (is_death(error) or cause.kind == "node"):
        return told
    if cause.kind == "rank":  # "Killed": the record says that better
        return told
    host = cause.host or (told.host if cause.kind == "memory" else "")
    follows = f"{who}: {error}"
    return replace(
        told, what=cause.what, remedy=_REMEDIES[cause.kind], host=host, also=follows,
        who=who if cause.kind == "memory" and host == told.host else "",
        world_rank=told.world_rank if host == told.host else cause.world_rank,
    )  # fmt: skip


def _of_cause(answer: Answer, cause: Cause, run: Path, log: Path | None) -> Answer:
    """Only Slurm has said anything."""
    card: Mapping[str, Any] = next(
        (card for card in read_records(run / "ranks") if card.get("world_rank") == cause.world_rank), {}
    )
    who = name_of(card) if card and _is_complete(card) else ""
    if not who and cause.world_rank is not None:
        who = f"world rank {cause.world_rank} on {cause.host}"
    return replace(
        answer, state="failed", what=cause.what, who=who, host=cause.host, world_rank=cause.world_rank,
        time=_instant(cause.at, log), remedy=_REMEDIES[cause.kind],
    )  # fmt: skip


def _of_words(answer: Answer, attempt: Attempt, state: JobState | None) -> Answer:
    """Nobody has given a cause: the script's reason, or else the last words of the log, are the best there is."""
    is_ours = attempt.reason.startswith(answer.folder)  # this verb's own answer, when the script asked it
    said = "" if is_ours else attempt.reason
    said = said or last_words(attempt.lines).removeprefix("realm-ds: ")
    ended = f"the job ended as {state.state}" if state is not None and not state.is_live else ""
    return replace(answer, state="failed", what=said or ended or "the job failed and said nothing", also=ended)


def _of_other_job(answer: Answer, record: Mapping[str, Any], attempt: Attempt, state: JobState | None) -> Answer:
    """An export or the like trains nothing and leaves no records: its log and Slurm are all there is."""
    name, cause = str(record["name"]), cause_in(attempt.lines) or cause_of(state)
    said = last_words(attempt.lines)
    if cause is not None and cause.kind != "rank":
        told = _of_cause(answer, cause, Path(answer.folder), None)
        return replace(told, also=f"while it did {name}")
    ended_badly = attempt.given_up or (state is not None and state.state in _ENDED_BADLY)
    if cause is not None or ended_badly or said.startswith("realm-ds: "):
        return replace(_of_words(answer, attempt, state), also=f"while it did {name}")
    if (state is None and not attempt.lines) or (state is not None and state.is_live):
        says = f"{name} says: {said}" if said else _of_silent_job(answer.job, state)
        return replace(answer, state="starting" if state is None or _waits(state) else "running", what=says)
    return replace(answer, state="done", what=f"{name} has said: {said}" if said else "")


def _waits(state: JobState | None) -> bool:
    return state is not None and state.is_live and state.state != "RUNNING"


def _of_silent_job(job: str, state: JobState | None) -> str:
    if state is not None and _waits(state):
        return f"job {job} waits ({state.reason or state.state})"
    runs = " and runs" if state is not None and state.is_live else ""
    return f"job {job} was submitted{runs}, and has said nothing yet"


def _is_complete(record: Mapping[str, Any]) -> bool:
    return {"role", "role_rank", "world_rank"} <= record.keys() or ("role" not in record and "pid" in record)


def _restarts(run: Path) -> int:
    """The number at the start of the file; the batch scripts' business."""
    try:
        words = (run / RESTARTS_FILE).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return 0
    return int(words[0]) if words and words[0].isdigit() else 0


def _with_own_log(answer: Answer, record: Mapping[str, Any]) -> tuple[str, ...]:
    """The log of the rank in place of the folder of all."""
    if not _is_complete(record) or "role" not in record:
        return answer.logs
    path = log_path(Path(answer.folder), role=str(record["role"]), role_rank=int(record["role_rank"]))
    return (*(log for log in answer.logs if log != str(path.parent)), str(path)) if path.is_file() else answer.logs


def _logs(run: Path, log: Path | None) -> tuple[str, ...]:
    found = [log] if log is not None and log.is_file() else []
    found += [path for path in (run / "logs" / "world.log", run / "logs") if path.exists()][:1]
    return tuple(map(str, found))


def _instant(at: str, log: Path | None) -> float | None:
    """As Slurm writes it, in this host's time zone; else when the log was last written."""
    try:
        return time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return log.stat().st_mtime if log is not None and log.is_file() else None


def _length(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
