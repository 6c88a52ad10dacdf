"""Starts a real MPI world for a test, and leaves nothing of it behind. What the ranks do is the test's business."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
import uuid
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MARKER = "REALM_TEST_WORLD"
"""In the environment of every process of a test's world, so that one that outlives it is found."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a world ended."""

    code: int
    stdout: str
    stderr: str
    took_s: float
    orphans: tuple[str, ...]
    """Command lines of processes that lived on and had to be killed."""

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run_ranks(
    program: str | types.ModuleType, *, processes: int, env: dict[str, str] | None = None, timeout_s: float = 60.0
) -> Outcome:
    """Runs `program`, Python text or a module, on every rank of a new MPI world; fails if a process of it is left."""
    marker = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="realm-ranks-") as folder:
        if isinstance(program, str):
            path = Path(folder) / "program.py"
            path.write_text(textwrap.dedent(program))
            what = [str(path)]
        else:
            what = ["-m", program.__name__]
        command = [mpiexec(), "-n", str(processes), sys.executable, "-m", "mpi4py", *what]
        outcome = _run(command, world_environment(marker, env or {}), Path(folder), marker, timeout_s)
    assert not outcome.orphans, f"left behind: {outcome.orphans}\n{outcome.output}"
    return outcome


def mpiexec() -> str:
    """The one beside this Python (a wheel's), or else the one on PATH."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    assert found, f"no mpiexec beside {sys.executable} or on PATH: install the mpich wheel"
    return found


def marked(marker: str) -> dict[int, str]:
    """Live processes, zombies aside, with this marker in their environment: command line by pid."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if f"{MARKER}={marker}".encode() not in (process / "environ").read_bytes().split(b"\0"):
                continue
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # It ended while we looked, or is not ours.
            continue
    return found


def world_environment(marker: str, extra: dict[str, str]) -> dict[str, str]:
    # A launcher around the tests must not be taken for the one of this world.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PMI", "OMPI_", "SLURM_", "REALM_", "MASTER_"))
        and name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    }
    path = os.pathsep.join(filter(None, (str(REPOSITORY), inherited.get("PYTHONPATH", ""))))
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, MARKER: marker} | extra


def _run(command: list[str], env: dict[str, str], folder: Path, marker: str, timeout_s: float) -> Outcome:
    started_at = time.monotonic()
    # Files, not pipes: an orphan that holds a pipe open would keep us reading for ever.
    with (folder / "stdout").open("w+") as stdout, (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            command, env=env, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = -signal.SIGALRM
        finally:
            took_s = time.monotonic() - started_at
            late = process.poll() is None
            orphans = sweep(marker, patience_s=0.0 if late else 5.0)
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        outputs = stdout.read(), stderr.read()
    if late:
        raise AssertionError(f"the world was still running after {timeout_s:g} s\n{outputs[0]}{outputs[1]}")
    return Outcome(code=code, stdout=outputs[0], stderr=outputs[1], took_s=took_s, orphans=tuple(orphans.values()))


def sweep(marker: str, *, patience_s: float) -> dict[int, str]:
    """Kills what is left of a world; ranks are sessions of their own under hydra, so no group holds them all."""
    deadline = time.monotonic() + patience_s
    while (left := marked(marker)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(100):
        remaining = marked(marker)
        if not remaining:
            break
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return left
