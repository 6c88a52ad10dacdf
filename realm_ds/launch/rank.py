"""What every rank does around its job: say who it is, keep to its threads, end loudly and never outlive its world.

Why a world ended is failures.py's business, what the job is node.py's.
"""

import gc
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from realm_ds.comm.code import library_versions
from realm_ds.comm.world import World, abort_under_hydra, abort_under_srun
from realm_ds.errors import REQUEUE, FolderTaken, Preempted, RealmError
from realm_ds.launch.failures import record_death, record_error, record_rank
from realm_ds.observe.logs import start_logs
from realm_ds.observe.sinks import Sinks
from realm_ds.observe.waiting import answer_sigusr2
from realm_ds.tether import die_with_parent, end_in_order, kill_own_session

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_as_rank(folder: Path, job: Callable[[], None]) -> None:
    """Run `job` as this process's part of a world. Failures are recorded, told in one line, and end the world.

    Call it before MPI and torch are loaded: it forks (see leave_a_keeper).
    """
    leave_a_keeper(folder)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                line_buffering=True, write_through=False
            )  # whole lines at once: ranks share what they print to
    code = 0
    try:
        job()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except Preempted as error:  # Every rank ends so, and trainer 0 has said why.
        _flush()
        end_in_order(error.exit_code)
    except BaseException as error:
        _tell(folder, error)
        code = 1
    if code:
        # The keeper passes the code on, at which launchers end the other ranks.
        _leave(code)
    for number in _PASSED_ON:
        # The job is done. At the interpreter's end signals have their default meaning again: a late one (launchers
        # signal keeper and rank, so each may come twice) would make a death of a success.
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def as_rank(world: World, *, folder: Path, stage: str, threads: int = 0) -> Iterator[Sinks]:
    """Logs, events, record and threads of a rank that has joined its world."""
    role_rank = world.role_rank
    leads = world.trainer_rank == 0
    limit_threads(threads_for_rank(threads, ranks_here=len(world.ranks_here)))
    log_file = start_logs(folder, role=world.role, role_rank=role_rank, leads=leads)
    stacks = answer_sigusr2(log_file)
    with stacks, Sinks(folder, role=world.role, role_rank=role_rank, stage=stage, tensorboard=leads) as sinks:
        # In this order: of a rank that is there nobody reads how an earlier world of the same run ended.
        sinks.write("joined", host=world.hostname, libraries=library_versions())
        record_rank(folder, world_rank=world.world_rank, role=world.role, role_rank=role_rank, host=world.hostname)
        try:
            yield sinks
        except Preempted:
            raise
        except Exception as error:
            # At once, before anything is closed: the earliest failure counts as the cause.
            record_error(folder, error, pid=os.getpid())
            raise


@contextmanager
def loading_libraries() -> Iterator[None]:
    """While the block imports, Python does not look for garbage, and never again among what is there at its end.

    These are 400,000 objects that live as long as the rank. To look through all of them takes about a second: several
    times while they load, once at the rank's end, and in some step of training whenever Python thinks that it is due.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave_a_keeper(folder: Path) -> None:
    """Fork: the child returns and is the rank; the parent stays, only to say how the child ended.

    A killed process cannot tell. Its launcher does not either: hydra ends all ranks at the first death and then names
    one of those it killed itself. The keeper records the death before the launcher can notice it, for the launcher sees
    the keeper's exit and the keeper's copy of the launcher's socket.
    """
    die_with_parent()
    keeper = os.getpid()
    rank = os.fork()
    if rank == 0:
        die_with_parent()
        if os.getppid() != keeper:
            os._exit(1)
        return
    pass_on_signals(rank)
    _, status = os.waitpid(rank, 0)
    code = os.waitstatus_to_exitcode(status)
    kill_own_session()  # what the rank started and left holds the launcher's pipes, and it would wait for their end
    if code < 0:
        record_death(folder, -code, pid=rank)
    if code not in (0, REQUEUE):
        abort_under_hydra(code if code >= 0 else 128 - code)
    os._exit(code if code >= 0 else 128 - code)


def pass_on_signals(rank: int) -> None:
    """From now on what asks this process to end, or to say something, goes to the process `rank`."""

    def pass_on(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):  # It has ended, and how is about to be told.
            os.kill(rank, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)


def threads_for_rank(threads: int, *, ranks_here: int, cores: int | None = None) -> int:
    """CPU threads of a rank: as set, else as OMP_NUM_THREADS says, else an equal part of the cores it may use."""
    if threads:
        return threads
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said):
        return int(said)
    return max(1, (cores or len(os.sched_getaffinity(0))) // ranks_here)


def limit_threads(threads: int) -> None:
    """Hold this process to so many threads: libraries loaded later read the environment, torch can be told."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _leave(code: int) -> NoReturn:
    """End, not through the interpreter's end: it waits for threads, and MPI's end for ranks that will never come."""
    _flush()
    abort_under_srun(code)
    os._exit(code)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _tell(folder: Path, error: BaseException) -> None:
    """One line for people; the way there, for those who mend it, goes to the log (or here, where there is none yet)."""
    if isinstance(error, FolderTaken):
        print(error, file=sys.stderr, flush=True)
        return
    record = record_error(folder, error, pid=os.getpid())
    who = f"{record['role']} {record['role_rank']}" if "role" in record else f"pid {record['pid']}"
    if not isinstance(error, RealmError) or logging.getLogger().handlers:
        try:
            logging.getLogger("rank").error("failed", exc_info=error)
        except OSError:
            print(record["traceback"], file=sys.stderr)
    print(f"[{who}] {record['error']}", file=sys.stderr, flush=True)
