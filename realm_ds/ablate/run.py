"""Runs the parts of a study: those that are ready, so many at a time, each as the command lines that parts.py names.

What is done is marked and not done again; a training that was stopped goes on from its checkpoint. Several processes,
also on several hosts, may work on one study: a part is locked while it is made. The locks are the kernel's, so none
outlives its process. Scores are scores.py's business.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from realm_ds.ablate.parts import EXPORT, Command, Part
from realm_ds.errors import ConfigError, Preempted
from realm_ds.files import is_locked_by_us, write_durably
from realm_ds.launch.local import without_launcher
from realm_ds.observe.notice import Notice
from realm_ds.tether import die_with_parent
from realm_ds.train.manifest import saved_steps

BESIDE = "parts"
"""Folder of what is known of each part: NAME.json once it is done, NAME.begun while data is made, NAME.log, what its
commands print, NAME.lock, in which is who holds it."""
POLL_S = 1.0
_RANKS_DIE_OF = signal.SIGTERM
"""What asks a verb to end: it has its ranks save first."""
GRACE_S = 120.0
"""So long it may take over that, then it is killed: batch jobs are asked 180 s before they are killed as a whole."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A part that could not be made."""

    part: str
    why: str


@dataclass(kw_only=True)
class _Working:
    """A part that is being made by this process."""

    part: Part
    lock: BinaryIO
    left: list[Command]
    started_at: float
    process: "subprocess.Popen[bytes] | None" = None


@dataclass(kw_only=True)
class Standing:
    """How far the study is."""

    waiting: list[Part]
    working: list[str] = field(default_factory=list)
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Parts that another process makes, and HOST:PID of that."""
    done: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    ending: bool = False
    """Asked to end: a training that is worked on saves first."""


def command_line(command: Command) -> list[str]:
    """As this Python runs it."""
    return [sys.executable, "-m", "realm_ds", *command]


def is_done(out: Path, part: Part) -> bool:
    """Its folder is there, and marked as whole: who wants it made again removes it."""
    return _beside(out, part.name, "json").is_file() and (out / part.name).is_dir()


def facts_of(out: Path, name: str) -> dict[str, float]:
    """Of a part that is done: took_s, from its last start on, kept_bytes and removed_bytes; nothing of another."""
    with suppress(OSError, ValueError):
        found = json.loads(_beside(out, name, "json").read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def run_parts(
    parts: Sequence[Part], *, out: Path, jobs: int, notice: Notice, go_on: str, on_change: Callable[[Standing], None],
    as_line: Callable[[Command], list[str]] = command_line, sleep: Callable[[float], None] = time.sleep,
) -> list[Failure]:  # fmt: skip
    """Make all parts that are not done; returns those that could not be, and those that needed them.

    `on_change` is called now and then. Raises Preempted once `notice` is given and all that runs has saved and ended,
    telling people to `go_on` by that command line.
    """
    _forget_what_is_needed_again(out, parts)
    standing = Standing(waiting=[part for part in parts if not is_done(out, part)])
    standing.done = [part.name for part in parts if is_done(out, part)]
    for part in parts:
        if is_done(out, part):
            _tidy(out, part)
    working: list[_Working] = []
    try:
        while standing.waiting or working:
            if notice.is_given:
                standing.ending = True
                on_change(standing)
                raise Preempted(f"asked to end: go on with {go_on}")
            working = [one for one in working if _goes_on(out, one, standing, as_line)]
            _drop_hopeless(standing)
            standing.elsewhere.clear()
            for part in _ready(standing):
                if len(working) < jobs and (started := _begin(out, part, standing)) is not None:
                    working.append(started)
            standing.working = [one.part.name for one in working]
            on_change(standing)
            sleep(POLL_S)
    finally:
        _end(working, _RANKS_DIE_OF)
    return standing.failures


def _forget_what_is_needed_again(out: Path, parts: Sequence[Part]) -> None:
    """Whose models were removed is made again where what starts from them is: somebody has removed that."""
    stages = {part.name: part.stage for part in parts}
    for part in parts:
        for need in () if is_done(out, part) else part.needs:
            if stages[need] is not None and not (out / need / EXPORT).is_dir():
                _forget(out, part, need)


def _forget(out: Path, part: Part, need: str) -> None:
    """Unless another process is at one of the two, or was until now: it removes the models once `part` is done."""
    with _lock_of(out, part.name) as of_part, _lock_of(out, need) as of_need:
        is_ours = is_locked_by_us(of_part, writes=out) and is_locked_by_us(of_need, writes=out)
        if is_ours and not is_done(out, part) and not (out / need / EXPORT).is_dir():
            _beside(out, need, "json").unlink(missing_ok=True)


def _ready(standing: Standing) -> list[Part]:
    return [part for part in standing.waiting if set(part.needs) <= set(standing.done)]


def _drop_hopeless(standing: Standing) -> None:
    """Leave out what needs a part that has failed."""
    failed = {failure.part for failure in standing.failures}
    for part in list(standing.waiting):
        if missing := sorted(failed & set(part.needs)):
            standing.waiting.remove(part)
            standing.failures.append(Failure(part=part.name, why=f"needs {missing[0]}, which failed"))
            failed.add(part.name)


def _begin(out: Path, part: Part, standing: Standing) -> _Working | None:
    """Start a part, unless another process is at it or has done it meanwhile."""
    lock = _lock_of(out, part.name)
    if not is_locked_by_us(lock, writes=out):
        standing.elsewhere[part.name] = lock.read().decode("utf-8", "replace") or "another process"
        lock.close()
        return None
    standing.waiting.remove(part)
    if is_done(out, part):
        lock.close()
        standing.done.append(part.name)
        return None
    lock.truncate(0)
    lock.write(f"{socket.gethostname()}:{os.getpid()}".encode())
    lock.flush()
    # Of a folder that somebody has removed. Else a kill from now on would leave half a part that counts as done.
    _beside(out, part.name, "json").unlink(missing_ok=True)
    first, *others = part.commands
    if part.stage is None:
        _remove_earlier_try(out, part)
    elif saved_steps(out / part.name):
        first = (*first, "--resume")
    return _Working(part=part, lock=lock, left=[first, *others], started_at=time.monotonic())


def _lock_of(out: Path, name: str) -> BinaryIO:
    """The file to lock, with who has it so far, if anybody."""
    path = _beside(out, name, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a+b")
    lock.seek(0)
    return lock


def _remove_earlier_try(out: Path, part: Part) -> None:
    """Its verbs would not write over that. Raises ConfigError where the folder is not ours."""
    folder, begun = out / part.name, _beside(out, part.name, "begun")
    if folder.exists() and not begun.is_file():
        raise ConfigError(
            f"{folder} is there, but this study has not made it: move it away, and name what is in it by settings, "
            "such as data.corpus=PATH"
        )
    shutil.rmtree(folder, ignore_errors=True)
    write_durably(begun, "")


def _goes_on(
    out: Path, one: _Working, standing: Standing, as_line: Callable[[Command], list[str]]
) -> bool:  # fmt: skip
    """Start its next command when one has ended; False once it is done or has failed."""
    code = 0 if one.process is None else one.process.poll()
    log = _beside(out, one.part.name, "log")
    if code is None:
        return True
    if code == 0 and one.left:
        one.process = _start(as_line(one.left.pop(0)), log)
        return True
    if code == 0:
        _finish(out, one)
        standing.done.append(one.part.name)
    else:
        standing.failures.append(Failure(part=one.part.name, why=f"exit code {code}: {_last_line(log)} ({log})"))
    one.lock.close()
    return False


def _start(line: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        # A session of its own: Ctrl-C reaches only us, and we decide how it ends.
        return subprocess.Popen(
            line, env=without_launcher(os.environ), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip


def _finish(out: Path, one: _Working) -> None:
    """Mark it as done, then remove what nobody needs any more: a kill between the two loses nothing."""
    folder = out / one.part.name
    whole = _size(folder)
    removed = sum(_size(folder / name) for name in one.part.leaves)
    took = round(time.monotonic() - one.started_at, 1)
    facts = {"took_s": took, "kept_bytes": whole - removed, "removed_bytes": removed}
    write_durably(_beside(out, one.part.name, "json"), json.dumps(facts) + "\n")
    _beside(out, one.part.name, "begun").unlink(missing_ok=True)
    _tidy(out, one.part)


def _tidy(out: Path, part: Part) -> None:
    for name in part.leaves:
        shutil.rmtree(out / part.name / name, ignore_errors=True)
    for name in part.releases:
        shutil.rmtree(out / name / EXPORT, ignore_errors=True)


def _end(working: Sequence[_Working], number: int) -> None:
    """Have all that runs save and end, and wait for it; what takes too long is killed."""
    deadline = time.monotonic() + GRACE_S
    alive = [one.process for one in working if one.process is not None and one.process.poll() is None]
    for process in alive:
        process.send_signal(number)
    for process in alive:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # its ranks die with it
            process.wait()


def _beside(out: Path, name: str, kind: str) -> Path:
    return out / BESIDE / f"{name}.{kind}"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _last_line(log: Path) -> str:
    """What the command said at its end; people are told where the rest is."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "nothing was printed"
    return next((line.removeprefix("realm-ds: ") for line in reversed(lines) if line.strip()), "nothing was printed")
