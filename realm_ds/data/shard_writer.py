"""Writes folders of tar shards and, last, their manifest. What these are, and reading them, is shards.py's business.

The manifest is removed first and written last: a folder whose writing was cut short has none.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from realm_ds.data.records import Example, Passage, record_bytes
from realm_ds.data.shards import MANIFEST, Kind, Manifest, ShardEntry
from realm_ds.errors import DataError
from realm_ds.files import write_durably

OpenFile = Callable[[Path], BinaryIO]
WRITE_AGAIN = "free space there or choose another folder, and write them again"


def write_shards(
    records: Iterable[Passage | Example],
    folder: Path,
    *,
    kind: Kind,
    per_shard: int,
    tokenizer_fingerprint: str,
    source: str,
    settings: Mapping[str, Any],
    open_file: OpenFile = lambda path: path.open("wb"),
) -> Manifest:
    """Write records as tar shards of `per_shard` records; the same records give the same bytes."""
    writer = ShardWriter(folder, per_shard=per_shard, open_file=open_file)
    for record in records:
        writer.add(record_bytes(record))
    return writer.finish(kind=kind, tokenizer_fingerprint=tokenizer_fingerprint, source=source, settings=settings)


class ShardWriter:
    """Takes records one by one; a shard is on the disk, whole, as soon as it has `per_shard` of them."""

    def __init__(
        self,
        folder: Path,
        *,
        per_shard: int,
        entries: Sequence[ShardEntry] = (),
        remedy: str = WRITE_AGAIN,
        open_file: OpenFile = lambda path: path.open("wb"),
    ) -> None:
        """`entries` are shards that are there already, to go on behind; `remedy` is for a disk that is full."""
        if per_shard < 1:
            raise DataError(f"{folder}: per_shard={per_shard} records in a tar shard; give at least 1")
        self._folder = folder
        self._per_shard = per_shard
        self._remedy = remedy
        self._open_file = open_file
        self._pending: list[bytes] = []
        self.entries = list(entries)
        self.num_records = sum(entry.count for entry in entries)
        """Those still in memory counted."""
        with self._says_what_was_written():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)

    def add(self, record: bytes) -> bool:
        """Take the JSON of a record. Returns whether it filled a shard: then all records so far are on the disk."""
        self._pending.append(record)
        self.num_records += 1
        if len(self._pending) < self._per_shard:
            return False
        self._write_shard()
        return True

    def finish(
        self, *, kind: Kind, tokenizer_fingerprint: str, source: str, settings: Mapping[str, Any]
    ) -> Manifest:  # fmt: skip
        """Write the last shard and the manifest; shards of an older writing are removed."""
        if self._pending:
            self._write_shard()
        if not self.entries:
            raise DataError(f"{self._folder}: there is no record to write; check the source ({source})")
        manifest = Manifest(
            kind=kind,
            count=self.num_records,
            shards=tuple(self.entries),
            tokenizer_fingerprint=tokenizer_fingerprint,
            source=source,
            settings=dict(settings),
        )
        with self._says_what_was_written():
            for stale in set(self._folder.glob("shard-*.tar")) - {self._folder / entry.name for entry in self.entries}:
                stale.unlink()
            text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n"
            write_durably(self._folder / MANIFEST, text, open_file=self._open_file)
        return manifest

    def _write_shard(self) -> None:
        # A shard is small enough to be made in memory, so its digest is of what we meant to write.
        content = tar_of(self._pending, first=self.num_records - len(self._pending))
        entry = ShardEntry(
            name=f"shard-{len(self.entries):05d}.tar",
            count=len(self._pending),
            num_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        with self._says_what_was_written():
            write_durably(self._folder / entry.name, content, open_file=self._open_file)
        self.entries.append(entry)
        self._pending = []

    @contextmanager
    def _says_what_was_written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write tar shards to {self._folder}: {error.strerror or error}, after {len(self.entries)} "
                f"complete shards; {self._remedy}"
            ) from error


# Of a ustar header only name, size and sum differ from record to record. tarfile takes 30 us for one, as long as all
# else that the main process of a job does for a record, and there is one such process to any number of workers.
_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)  # mtime, owner and mode are constants of TarInfo
_SIZE, _SUM = slice(124, 135), slice(148, 156)
_SUM_OF_REST = (
    sum(_HEADER[: _SIZE.start]) + sum(_HEADER[_SIZE.stop : _SUM.start]) + 8 * ord(" ") + sum(_HEADER[_SUM.stop :])
)


def tar_of(records: Sequence[bytes], *, first: int) -> bytes:
    """What tarfile writes of these records as members NUMBER.json."""
    parts: list[bytes | bytearray] = []
    for number, record in enumerate(records, start=first):
        name, size = b"%09d.json" % number, b"%011o" % len(record)
        header = bytearray(_HEADER)
        header[: len(name)] = name
        header[_SIZE] = size
        header[_SUM] = b"%06o\0 " % (_SUM_OF_REST + sum(name) + sum(size))
        parts += (header, record, bytes(-len(record) % tarfile.BLOCKSIZE))
    parts.append(bytes(2 * tarfile.BLOCKSIZE))
    parts.append(bytes(-sum(map(len, parts)) % tarfile.RECORDSIZE))
    return b"".join(parts)
