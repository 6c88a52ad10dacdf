"""Starts an MPI world on this machine, waits for it, leaves nothing of it. What ranks do is rank.py's business."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from realm_ds.errors import LaunchError, Preempted
from realm_ds.launch.failures import explain_end, explain_preemption, forget_last_world, was_preempted
from realm_ds.observe.notice import NOTICES
from realm_ds.tether import TAG_VARIABLE, die_with_parent, kill_tagged

POLL_S = 0.1
GRACE_S = 5.0
"""After Ctrl-C the ranks have this long to end by themselves."""
_OTHER_LAUNCHERS = ("PMI", "PMIX", "OMPI_", "HYDI_", "MPI_LOCAL", "SLURM_")
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def world_command(arguments: Sequence[str], *, processes: int, module: str = "realm_ds") -> list[str]:
    """The command line that starts a world here; `realm-ds ... --dry-run` prints it."""
    return [find_mpiexec(), "-n", str(processes), sys.executable, "-m", "mpi4py", "-m", module, *arguments]


def find_mpiexec() -> str:
    """The launcher beside this Python (a wheel's), or else the one on PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        raise LaunchError(
            f"no mpiexec beside {sys.executable} or on PATH: pip install mpich, or load the site's MPI module"
        )
    return found


def run_world(
    arguments: Sequence[str],
    *,
    processes: int,
    run_folder: Path,
    env: Mapping[str, str] | None = None,
    on_poll: Callable[[], None] | None = None,
    module: str = "realm_ds",
    grace_s: float = GRACE_S,
) -> None:
    """Run `python -m MODULE ARGUMENTS` as a world of so many processes and wait for its end.

    What the ranks print goes to RUN/logs/world.log. Raises LaunchError with the rank and the first cause. SIGTERM and
    SIGUSR1 are passed on to the ranks, which end when they have saved what they do: Preempted. Ctrl-C ends them at
    once. However this ends, none is left.
    """
    log = run_folder / "logs" / "world.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    forget_last_world(run_folder)
    tag = uuid.uuid4().hex
    command = world_command(arguments, processes=processes, module=module)
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches only us, and we decide how the ranks end.
        world = subprocess.Popen(
            command, env=_environment(tag, processes, env or {}), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        with _passing_on(world) as was_asked:
            code = _wait(world, on_poll or _nothing)
    except KeyboardInterrupt:
        world.send_signal(signal.SIGINT)
        _wait_at_most(world, grace_s)
        raise
    finally:
        stubborn = kill_tagged(tag)
        if not stubborn:
            world.wait()
    if stubborn:
        raise LaunchError(
            f"processes {stubborn} of the world in {run_folder} cannot be killed: they wait for a device or disk"
        )
    if code and was_preempted(run_folder, was_asked=was_asked.is_set()):
        raise Preempted(explain_preemption(run_folder))
    if code:
        raise LaunchError(explain_end(run_folder, code=code, log=log))


@contextmanager
def leaving_when_asked(run_folder: Path) -> Iterator[None]:
    """While in the block, and while no world runs in it, SIGTERM and SIGUSR1 raise Preempted."""

    def leave(number: int, frame: object) -> None:
        raise Preempted(explain_preemption(run_folder))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in NOTICES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(world: "subprocess.Popen[bytes]", on_poll: Callable[[], None]) -> int:
    while True:
        try:
            return world.wait(POLL_S)
        except subprocess.TimeoutExpired:
            on_poll()


def _wait_at_most(world: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        world.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _nothing() -> None:
    pass


@contextmanager
def _passing_on(world: "subprocess.Popen[bytes]") -> Iterator[threading.Event]:
    """While in the block, SIGTERM and SIGUSR1 go to the ranks (through mpiexec); whether one has is what is yielded.

    Training saves its last step and ends; what does not listen dies. A second SIGTERM is impatience: it ends the ranks
    as Ctrl-C does.
    """
    was_asked, was_told_to_end = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield was_asked
        return

    def pass_on(number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            if was_told_to_end.is_set():
                raise KeyboardInterrupt
            was_told_to_end.set()
        was_asked.set()
        world.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in NOTICES}
    try:
        yield was_asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of a launcher around us: a world of our own must not take it for its launcher."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_OTHER_LAUNCHERS) and name not in _RANK_VARIABLES
    }


def _environment(tag: str, processes: int, extra: Mapping[str, str]) -> dict[str, str]:
    kept = without_launcher(os.environ)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {"OMP_NUM_THREADS": str(threads), **kept, **extra, TAG_VARIABLE: tag}
