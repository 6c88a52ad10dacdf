"""The folder `unfinished` of an output folder: a job has it to itself, goes on there after a kill, removes it last.

    OUT/unfinished/lock           held by the process that writes to OUT
    OUT/unfinished/journal.json   which job it is, and how far

What else a job keeps there, and what its output is, is journal.py's and answers_journal.py's.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from realm_ds.errors import ConfigError, DataError
from realm_ds.files import is_locked_by_us, write_durably

UNFINISHED, JOURNAL, LOCK = "unfinished", "journal.json", "lock"
MOST_CHANGES = 5
"""That are told of a job that was begun otherwise."""
MEND = "mend that, or name another folder"
"""What to do about a folder that cannot be written to."""
GO_ON = "mend that, or free space there, and go on with --resume; or name another folder"
"""And about one that cannot be written to any more."""
Job = Mapping[str, Any]
"""What a job is, as JSON: it can be gone on with by the same one alone."""


class Unfinished:
    """That folder of one output folder."""

    def __init__(self, out: Path, *, stale: re.Pattern[str], owns_out: bool = False) -> None:
        """`stale` are the names of files in `out` that a process was killed over, see files.py. With `owns_out`
        nothing but this job is in `out`: to begin again all of it is removed, else only what is unfinished."""
        self.out, self.folder = out, out / UNFINISHED
        self._stale = stale
        self._to_remove = out if owns_out else self.folder

    @contextmanager
    def claim(self, *, kept: Set[str] = frozenset()) -> Iterator[None]:
        """Have the output folder to oneself. A job that fails before it has written anything leaves nothing behind but
        the files that are `kept`, those of other jobs."""
        with self.says_what_to_do(MEND):
            absent = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        with self._locked():
            with self.says_what_to_do(MEND):
                for path in self.out.iterdir():
                    if self._stale.fullmatch(path.name):
                        path.unlink()
            try:
                yield
            except BaseException:
                self._remove_unless_written(absent, kept)
                raise

    @property
    def is_begun(self) -> bool:
        """Whether a job was stopped here, whatever job it was."""
        return self.read() is not None

    def read(self) -> dict[str, Any] | None:
        """What the journal says, None where there is none."""
        try:
            data = json.loads(self.journal.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # nothing is wrong with what it says
            raise DataError(f"cannot read {self.journal}: {error.strerror or error}; {MEND}") from error
        except (ValueError, RecursionError) as error:
            raise self.damaged(self.journal, error) from error
        if not isinstance(data, dict) or not isinstance(data.get("job"), dict):
            raise self.damaged(self.journal, "it names no job")
        return data

    def write(self, data: Mapping[str, Any]) -> None:
        """Write the journal, of which `job` is a member."""
        with self.says_what_to_do(GO_ON):
            write_durably(self.journal, json.dumps(data, indent=1, ensure_ascii=False))

    def remove(self) -> None:
        """The job is at its end."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def damaged(self, path: Path, why: object) -> DataError:
        """The error for a file here that is not as it was written."""
        return DataError(f"{path}: cannot be read ({why}); remove {self._to_remove} and begin again")

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    @contextmanager
    def says_what_to_do(self, remedy: str) -> Iterator[None]:
        """An OSError becomes a DataError that ends with the remedy."""
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write to {self.out}: {error.strerror or error}; {remedy}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        while True:
            with self.says_what_to_do(MEND):
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = (self.folder / LOCK).open("wb")
            with lock:
                self._take(lock)
                # Else a job that came to its end removed it after we had opened it: others would lock a new one.
                if self._is_there(lock):
                    yield
                    return

    def _take(self, lock: BinaryIO) -> None:
        if not is_locked_by_us(lock, writes=self.out):
            raise ConfigError(f"{self.out}: another process writes there now; wait for it or end it")

    def _is_there(self, lock: BinaryIO) -> bool:
        with self.says_what_to_do(MEND):
            try:
                return os.path.samestat(os.fstat(lock.fileno()), (self.folder / LOCK).stat())
            except FileNotFoundError:
                return False

    def _remove_unless_written(self, absent: Sequence[Path], kept: Set[str]) -> None:
        with suppress(OSError):
            others = {path.name for path in self.out.iterdir()} - {UNFINISHED}
            if others <= kept and [path.name for path in self.folder.iterdir()] == [LOCK]:
                self.remove()
                for folder in absent:
                    folder.rmdir()


def refuse_another_job(job: Job, was: Job, *, where: Path) -> None:
    """Raise ConfigError unless what is there was begun as this very job."""
    # As JSON gives it back: tuples are lists then.
    now, then = _flat(json.loads(json.dumps(job))), _flat(was)
    if changed := [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]:
        told = ", ".join(
            f"{name} was {then.get(name)!r} and is now {now.get(name)!r}" for name in changed[:MOST_CHANGES]
        )
        told += f", and {len(changed) - MOST_CHANGES} more" if len(changed) > MOST_CHANGES else ""
        raise ConfigError(f"{where} was begun otherwise: {told}; give what it was begun with, or name another folder")


def _flat(job: Job, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in job.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
