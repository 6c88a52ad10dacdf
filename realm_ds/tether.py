"""So that no process outlives the one that wants it: death with the parent, and finding all of a world by its tag."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

TAG_VARIABLE = "REALM_WORLD_TAG"
"""In the environment of every process of a world that we start: hydra puts each rank into a session of its own, so a
process group holds only mpiexec itself."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec little else is safe


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies, however that dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_in_order(code: int) -> NoReturn:
    """End this process as a C program would: MPI's library says goodbye to the launcher, which else takes this for a
    crash and kills the other ranks; Python, which would wait for its threads, is not asked."""
    ctypes.PyDLL(None).exit(code)  # PyDLL: no other thread of Python runs meanwhile
    raise AssertionError("exit returned")


def tagged(tag: str) -> list[int]:
    """Processes of a world that still live, zombies aside."""
    needle = f"{TAG_VARIABLE}={tag}".encode()
    return [pid for pid in _all_pids() if needle in _environment(pid) and lives(pid)]


def lives(pid: int) -> bool:
    """Whether there is such a process here, zombies aside; it may be somebody else's."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except PermissionError:
        return True
    except OSError:
        return False


def is_realm_ds(pid: int) -> bool:
    """Whether that process is one of ours: pids are given again."""
    try:
        return lives(pid) and b"realm_ds" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill_tagged(tag: str, *, patience_s: float = 5.0) -> list[int]:
    """Kill what is left of a world, again until nothing is found; returns what would not go."""
    deadline = time.monotonic() + patience_s
    while left := tagged(tag):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


def kill_own_session() -> None:
    """Kill all others of the session that this process leads; if it leads none (tasks of srun share one), nothing."""
    mine = os.getpid()
    if os.getsid(0) != mine:
        return
    for pid in _all_pids():
        try:
            if os.getsid(pid) == mine:
                os.kill(pid, signal.SIGKILL)
        except OSError:  # gone meanwhile, or somebody else's
            continue


def _all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []
