"""How far a job that writes tar shards came, so that it can go on after a kill.

    OUT/unfinished/journal.json      which job it is and how far: written anew after every shard
    OUT/unfinished/keys-00000.npy    the keys of the records of a shard, a file for each

The folder, and who may write there, is unfinished.py's.
"""

import dataclasses
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from realm_ds.data.shards import MANIFEST, SHARD_NAME, ShardEntry, verify_shard
from realm_ds.errors import ConfigError, DataError
from realm_ds.files import LEFT_OVER, write_durably
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.unfinished import GO_ON, MEND, UNFINISHED, Job, Unfinished, refuse_another_job

STALE = re.compile(rf"({SHARD_NAME.pattern}|{re.escape(MANIFEST)}){LEFT_OVER}")
"""Names of files that a process was killed over."""


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
    """Of one output folder."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._unfinished = Unfinished(out, stale=STALE, owns_out=True)

    def check(self, *, resume: bool) -> None:
        """Raise ConfigError unless the output folder can be had."""
        with self._unfinished.says_what_to_do(MEND):
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
        with self._unfinished.claim():
            yield

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
                raise self._unfinished.damaged(path, error) from error
            if keys.shape != (entry.count,) or keys.dtype != np.int64:
                raise self._unfinished.damaged(path, f"{keys.size} keys, but {entry.name} has {entry.count} records")
            yield keys

    def write(self, job: Job, position: Position, *, keys: Sequence[int]) -> None:
        """Take down that one more shard is finished; `keys` are those of its records."""
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(keys, dtype=np.int64), allow_pickle=False)
        with self._unfinished.says_what_to_do(GO_ON):
            write_durably(self._keys_path(len(position.entries) - 1), buffer.getvalue())
        self._unfinished.write(
            {
                "job": job,
                "shards": [dataclasses.asdict(entry) for entry in position.entries],
                "num_chunks": position.num_chunks,
                "num_records": position.num_records,
                "tally": vars(position.tally),
            }
        )

    def remove(self) -> None:
        """The job is at its end."""
        self._unfinished.remove()

    def _read(self) -> tuple[Position, Job]:
        data = self._unfinished.read()
        if data is None:
            return Position(), {}
        if "shards" not in data:
            raise ConfigError(
                f"{self._out} holds a job that was stopped and writes no tar shards, such as `prepare qa`; "
                "name another folder"
            )
        try:
            position = Position(
                entries=[ShardEntry(**entry) for entry in data["shards"]],
                num_chunks=data["num_chunks"],
                num_records=data["num_records"],
                tally=Tally(counts=Counter(data["tally"]["counts"]), first=data["tally"]["first"]),
            )
        except (KeyError, TypeError) as error:
            raise self._unfinished.damaged(self._unfinished.journal, error) from error
        return position, data["job"]

    def _keys_path(self, number: int) -> Path:
        return self._unfinished.folder / f"keys-{number:05d}.npy"


def refuse_unfinished(folder: Path) -> None:
    """Raise DataError, which says how far it is, if a job writes to the folder or was stopped there."""
    if (folder / UNFINISHED).is_dir() and not (folder / MANIFEST).exists():
        num_done = len(Journal(folder).read_entries())
        raise DataError(
            f"{folder} is not finished, tar shards done: {num_done}; wait for the job that writes there, or if it was "
            "stopped go on with it: the same command with --resume"
        )
