"""Starts what a benchmark runs in, an MPI world or one process of its own; tells how far it is, brings its result back.

What the processes do is ranks.py's and alone.py's business.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realm_ds.errors import LaunchError
from realm_ds.files import unfinished
from realm_ds.launch.local import run_world
from realm_ds.observe.progress import Bar
from realm_ds.tether import die_with_parent

WORK_FILE, PROGRESS_FILE, LOG_FILE = "work.json", "progress.json", "log.txt"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
POLL_S = 0.1
Result = dict[str, Any]


def run_in_world(
    job: str, options: Mapping[str, Any], *, clients: int, shards: int, bar: Bar, part: int = 0, parts: int = 1,
    module: str = "realm_ds.bench.ranks",
) -> list[Result]:  # fmt: skip
    """What each client of a world of so many clients and index ranks found in the job of that name, of `module`.

    `part` of `parts` is this world's place in what the bar shows.
    """
    work = {"job": job, "shards": shards, "options": dict(options)}
    with _folder(work) as folder:
        run_world(
            [str(folder)], processes=clients + shards, run_folder=folder, env=ONE_THREAD,
            on_poll=_follower(folder, bar, part, parts), module=module,
        )  # fmt: skip
        return [read_result(folder, client) for client in range(clients)]


def run_alone(job: str, options: Mapping[str, Any], *, threads: int, bar: Bar) -> Result:
    """What a fresh process with so many threads found in the job of that name (alone.py)."""
    with _folder({"job": job, "shards": 0, "options": dict(options)}) as folder:
        env = {**os.environ, **{name: str(threads) for name in ONE_THREAD}}
        command = [sys.executable, "-m", "realm_ds.bench.alone", str(folder)]
        follow = _follower(folder, bar)
        with (folder / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
            try:
                while not _has_ended(process):
                    follow()
            finally:
                process.kill()
                process.wait()
        if process.returncode:
            words = (folder / LOG_FILE).read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise LaunchError(
                f"{job} ended with exit code {process.returncode}: {words[-1]} (all: {folder / LOG_FILE})"
            )
        return read_result(folder, 0)


def read_work(folder: Path) -> dict[str, Any]:
    """What the process was started for."""
    work: dict[str, Any] = json.loads((folder / WORK_FILE).read_text(encoding="utf-8"))
    return work


def write_progress(folder: Path, *, done: int, total: int, now: str = "") -> None:
    """For the one who started us."""
    _replace(folder / PROGRESS_FILE, {"done": done, "total": total, "now": now})


def write_result(folder: Path, client: int, result: Mapping[str, Any]) -> None:
    """What a client, numbered among those of its world, has found."""
    _replace(folder / f"result-{client}.json", result)


def read_result(folder: Path, client: int) -> Result:
    """Once it has ended well."""
    result: Result = json.loads((folder / f"result-{client}.json").read_text(encoding="utf-8"))
    return result


@contextmanager
def _folder(work: Mapping[str, Any]) -> Iterator[Path]:
    """Removed unless the work fails: then its logs are all that tells why."""
    folder = Path(tempfile.mkdtemp(prefix="realm-bench-"))
    _replace(folder / WORK_FILE, work)
    yield folder
    shutil.rmtree(folder)


def _follower(folder: Path, bar: Bar, part: int = 0, parts: int = 1) -> Callable[[], None]:
    def follow() -> None:
        try:
            said = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        # Blocks of several worlds cost differently, so each world counts as much: as a hundred.
        done, total = said["done"], said["total"]
        if parts > 1:
            done, total = 100 * part + 100 * done // max(1, total), 100 * parts
        bar.update(done, total=total, now=said["now"])

    return follow


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or as before, for a reader at any moment; nobody needs it after a power cut."""
    temporary = unfinished(path)
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
