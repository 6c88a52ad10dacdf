"""Who a rank is and why it ended, as small files in the run folder; and the one sentence that tells it to people.

RUN/ranks/<world_rank>.json says who runs where, RUN/failures/*.json what went wrong: the earliest is the cause, since a
world ends within milliseconds of its first death and the other ranks die of that.
"""

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm_ds.errors import RealmError
from realm_ds.files import is_disk_full, write_durably
from realm_ds.observe.notice import NOTICES
from realm_ds.reports.runs import read_records
from realm_ds.train.manifest import saved_steps

PREEMPTED_FILE = "preempted.json"
"""In the run folder while the last world in it ended early, because it was asked to."""


def forget_last_world(folder: Path) -> None:
    """Remove what an earlier world in this run folder said of its ranks."""
    for name in ("ranks", "failures"):
        for path in (folder / name).glob("*.json"):
            path.unlink(missing_ok=True)
    (folder / PREEMPTED_FILE).unlink(missing_ok=True)


def record_rank(folder: Path, *, world_rank: int, role: str, role_rank: int, host: str) -> None:
    """Say which process this rank is."""
    record = {"world_rank": world_rank, "role": role, "role_rank": role_rank, "host": host, "pid": os.getpid()}
    _write(folder / "ranks" / f"{world_rank}.json", record)


def record_error(folder: Path, error: BaseException, *, pid: int) -> dict[str, Any]:
    """Say that a rank failed with an exception."""
    trace = "".join(traceback.format_exception(error))
    return _record(folder, pid, error=describe_error(error), traceback=trace)


def record_death(folder: Path, signum: int, *, pid: int) -> dict[str, Any]:
    """Say that a rank was killed."""
    return _record(folder, pid, error=describe_death(signum), traceback="")


def record_preemption(folder: Path, *, step: int) -> None:
    """Say that the ranks end early, because they were asked to, with a checkpoint of `step`; none if that is 0."""
    _write(folder / PREEMPTED_FILE, {"step": step, "time": time.time()})


def explain_preemption(folder: Path) -> str:
    """What a run that was asked to end has done, and how it goes on."""
    steps = saved_steps(folder)  # It may be of an earlier world: this one may have ended before it could say anything.
    if steps:
        return f"asked to end: checkpoint of step {steps[-1]} is written in {folder}; go on with --resume"
    return f"asked to end before there was anything to keep in {folder}: start it again, with or without --resume"


def was_preempted(folder: Path, *, was_asked: bool) -> bool:
    """Whether a world ended because it was asked to, and of nothing else; `was_asked` if a signal was passed on to it.

    Ranks that have not yet got as far as to listen die of the signal.
    """
    errors = [record["error"] for record in causes(folder)]
    if (folder / PREEMPTED_FILE).is_file():
        return not errors
    return was_asked and (not errors or errors[0] in map(describe_death, NOTICES))


def causes(folder: Path) -> list[dict[str, Any]]:
    """What went wrong, the cause first."""
    return sorted(read_records(folder / "failures"), key=lambda record: record.get("time", 0.0))


def name_of(record: Mapping[str, Any]) -> str:
    if "role" not in record:
        return f"a process on {record['host']} that had no role yet (pid {record['pid']})"
    return f"{record['role']} {record['role_rank']} (world rank {record['world_rank']} on {record['host']})"


def describe_error(error: BaseException) -> str:
    """An exception as one line that says what to do, where we know it."""
    if isinstance(error, RealmError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and is_disk_full(error):
        place = error.filename or "the run folder"
        return f"the disk is full, {place} could not be written: free some space, then go on with --resume"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe_death(signum: int) -> str:
    """A signal as words, with what it usually means."""
    name = signal.Signals(signum).name
    if signum == signal.SIGKILL:
        return (
            f"killed by {name}: if nobody did that, the machine ran out of memory (`dmesg` tells); use smaller batches "
            "or fewer ranks here, then go on with --resume"
        )
    if signum in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE):
        return f"crashed with {name}: the stacks are at the end of its log"
    return f"ended by {name}"


def is_death(error: str) -> bool:
    """Whether a rank was killed, as describe_death tells it: something else is the cause of that."""
    return error.startswith(("killed by ", "ended by "))


def explain_end(folder: Path, *, code: int, log: Path) -> str:
    """Why a world ended with an exit code: rank and first cause, and where to read more."""
    records = causes(folder)
    if not records:
        last = _last_words(log)
        said = f"; it said: {last}" if last else ""
        return f"the ranks ended with exit code {code} and none told why{said} (all of it: {log})"
    first = records[0]
    others = {record["error"] for record in records[1:]} - {first["error"]}
    more = f"; {len(records) - 1} more failed after it" if others else ""
    return f"{name_of(first)}: {first['error']}{more} (logs: {log.parent})"


def _record(folder: Path, pid: int, *, error: str, traceback: str) -> dict[str, Any]:
    host = socket.gethostname()
    known = [rank for rank in read_records(folder / "ranks") if rank["pid"] == pid]
    mine = known[0] if known else {"pid": pid, "host": host}
    record = {**mine, "time": time.time(), "error": error, "traceback": traceback}
    path = folder / "failures" / f"{mine.get('world_rank', f'{host}-{pid}')}.json"
    if not path.exists():  # the first word is the cause; a death after it only follows
        try:
            _write(path, record)
        except OSError as disk:
            print(f"{name_of(record)}: {error} (and no record of it: {disk})", flush=True)
    return record


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_durably(path, json.dumps(record, indent=2) + "\n")


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    spoken = [line.strip() for line in lines if line.strip() and not is_launcher_noise(line)]
    return spoken[-1] if spoken else ""


_NOISE = ("[mpiexec@", "[proxy:", "====", "=   ", "Abort(", "YOUR APPLICATION TERMINATED", "This typically refers",
          "Please see the FAQ")  # fmt: skip


def is_launcher_noise(line: str) -> bool:
    """Is this line hydra's own? It names a rank that hydra killed, not the one that died first."""
    return line.startswith(_NOISE)
