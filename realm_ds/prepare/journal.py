"""How far a job came, beside the shards that it writes, so that it can go on after a kill.

    OUT/unfinished/journal.json      which job it is and how far: written anew after every shard
    OUT/unfinished/keys-00000.npy    the keys of the records of a shard, a file for each
    OUT/unfinished/lock              held by the process that writes here

The folder goes away once the manifest is written.
"""

import dataclasses
import fcntl
import io
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from realm_ds.data.shards import MANIFEST, SHARD_NAME, ShardEntry, verify_shard
from realm_ds.errors import ConfigError, DataError
from realm_ds.files import write_durably
from realm_ds.prepare.documents import Tally

logger = logging.getLogger(__name__)

UNFINISHED, JOURNAL, LOCK = "unfinished", "journal.json", "lock"
MOST_CHANGES = 5
"""That are told of a job that was begun otherwise."""
STALE = re.compile(rf"({SHARD_NAME.pattern}|{re.escape(MANIFEST)})\.tmp-\d+")
"""Names of files that a process was killed over, see files.py."""
GO_ON = "mend that, or free space there, and go on with --resume; or name another folder"
"""What to do about a folder that cannot be written any more."""
Job = Mapping[str, Any]
"""What a job is, as JSON: it can be gone on with by the same one alone."""


@dataclass(kw_only=True)
class Position:
    """How far the finished shards go."""

    entries: list[ShardEntry] = field(default_factory=list)
    num_chunks: int = 0
    """Chunks of which everything is in them."""
    num_records: int = 0
    """Records of the next chunk that are in them or were left out."""
    tally: Tally = field(default_factory=Tally)
    """Of those chunks; of the next one only what the job itself left out."""


class Journal:
    """The folder `unfinished` of an output folder."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = out / UNFINISHED

    def check(self, *, resume: bool) -> None:
        """Raise ConfigError unless the output folder can be had."""
        if not self._out.exists():
            return
        if not self._out.is_dir():
            raise ConfigError(f"{self._out} is a file; name a folder")
        there = {path.name for path in self._out.iterdir()}
        if MANIFEST in there and not resume:
            raise ConfigError(
                f"{self._out} holds a finished set of shards, which runs may be reading, and it is not overwritten: "
                "name another folder, or remove this one first"
            )
        ours = {name for name in there if SHARD_NAME.fullmatch(name) or STALE.fullmatch(name)} | {UNFINISHED, MANIFEST}
        if there and (there - ours or not there & {UNFINISHED, MANIFEST}):
            raise ConfigError(
                f"{self._out} holds files already ({min(there - ours or there)}); name an empty folder, or a new one"
            )
        if not resume and (entries := self.read_entries()):
            raise ConfigError(
                f"{self._out} holds a job that was stopped (tar shards done: {len(entries)}): go on with --resume, "
                "name another folder, or remove this one first"
            )

    @contextmanager
    def claim(self, *, resume: bool) -> Iterator[None]:
        """Have the output folder to oneself: an empty one, or with `resume` one that a stopped job left."""
        self.check(resume=resume)
        absent = [folder for folder in (self._out, *self._out.parents) if not folder.exists()]
        with self._says_what_to_do("mend that, or name another folder"):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / LOCK).open("wb")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it however we end
            except BlockingIOError as error:
                raise ConfigError(f"{self._out}: another process writes there now; wait for it or end it") from error
            except OSError as error:  # Lustre without -o flock
                logger.warning(
                    "%s: its file system has no locks (%s), so make sure that no other process writes there",
                    self._out, error.strerror,
                )  # fmt: skip
            with self._says_what_to_do("mend that, or name another folder"):
                for path in self._out.iterdir():
                    if STALE.fullmatch(path.name):
                        path.unlink()
            try:
                yield
            except BaseException:
                self._remove_unless_written(absent)
                raise

    def read(self, job: Job) -> Position:
        """Where the stopped job stands, its shards checked; the beginning where none has a shard yet."""
        position, was = self._read()
        if position.entries:
            refuse_another_job(job, was, where=self._out)
        for entry in position.entries:
            verify_shard(self._out, entry)
        return position

    def read_entries(self) -> list[ShardEntry]:
        """The shards of the stopped job, whatever job it was."""
        return self._read()[0].entries

    def read_keys(self, position: Position) -> Iterator[npt.NDArray[np.int64]]:
        """The keys of the records of each shard."""
        for number, entry in enumerate(position.entries):
            path = self._keys_path(number)
            try:
                keys = np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise self._damaged(path, error) from error
            if keys.shape != (entry.count,) or keys.dtype != np.int64:
                raise self._damaged(path, f"{keys.size} keys, but {entry.name} has {entry.count} records")
            yield keys

    def write(self, job: Job, position: Position, *, keys: Sequence[int]) -> None:
        """Take down that one more shard is finished; `keys` are those of its records."""
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(keys, dtype=np.int64), allow_pickle=False)
        data = {
            "job": job,
            "shards": [dataclasses.asdict(entry) for entry in position.entries],
            "num_chunks": position.num_chunks,
            "num_records": position.num_records,
            "tally": vars(position.tally),
        }
        with self._says_what_to_do(GO_ON):
            write_durably(self._keys_path(len(position.entries) - 1), buffer.getvalue())
            write_durably(self._folder / JOURNAL, json.dumps(data, indent=1, ensure_ascii=False))

    def remove(self) -> None:
        """The job is at its end."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_unless_written(self, made: Sequence[Path]) -> None:
        """A job that failed before its first shard leaves nothing behind, nor the folders that were `made` for it."""
        with suppress(OSError):
            if [path.name for path in self._out.iterdir()] == [UNFINISHED]:
                self.remove()
                for folder in made:
                    folder.rmdir()

    def _read(self) -> tuple[Position, Job]:
        path = self._folder / JOURNAL
        try:
            data = json.loads(path.read_bytes())
            position = Position(
                entries=[ShardEntry(**entry) for entry in data["shards"]],
                num_chunks=data["num_chunks"],
                num_records=data["num_records"],
                tally=Tally(counts=Counter(data["tally"]["counts"]), first=data["tally"]["first"]),
            )
            return position, data["job"]
        except (FileNotFoundError, NotADirectoryError):
            return Position(), {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, why: object) -> DataError:
        return DataError(f"{path}: cannot be read ({why}); remove {self._out} and begin again")

    def _keys_path(self, number: int) -> Path:
        return self._folder / f"keys-{number:05d}.npy"

    @contextmanager
    def _says_what_to_do(self, remedy: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write to {self._out}: {error.strerror or error}; {remedy}") from error


def refuse_unfinished(folder: Path) -> None:
    """Raise DataError, which says how far it is, if a job writes to the folder or was stopped there."""
    if (folder / UNFINISHED).is_dir() and not (folder / MANIFEST).exists():
        num_done = len(Journal(folder).read_entries())
        raise DataError(
            f"{folder} is not finished, tar shards done: {num_done}; wait for the job that writes there, or if it was "
            "stopped go on with it: the same command with --resume"
        )


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
