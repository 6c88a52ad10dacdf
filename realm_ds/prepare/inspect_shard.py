"""One tar shard, read to its end whatever is wrong with it: lengths of its records, its faults, hashes of its texts.

All shards of a folder are inspect.py's.
"""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from realm_ds.data.answers import normalise
from realm_ds.data.places import MANIFEST, Place
from realm_ds.data.records import NUM_SPECIAL, Example, Passage, example_from_json, passage_from_json
from realm_ds.data.shards import Kind, ShardEntry
from realm_ds.data.tar_reader import REMEDY
from realm_ds.errors import DataError
from realm_ds.observe.progress import number_of

MOST_FAULTS = 20
"""Told of one shard; the others are counted."""
KINDS: tuple[Kind, ...] = ("corpus", "pretrain")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TarShard:
    """A tar shard, and what is known of it."""

    place: Place
    """The folder that it is in."""
    name: str
    kind: Kind
    entry: ShardEntry | None
    """Of a manifest, if there is one."""
    first: int = 0
    """The number of its first record in the folder."""

    @property
    def where(self) -> str:
        """What people call it."""
        return self.place.where(self.name)

    def open(self) -> IO[bytes]:
        """Its bytes, to be read forward. Raises DataError."""
        folder = self.place.folder
        return self.place.open(self.name) if folder is None else open_file(folder / self.name)


@dataclass(kw_only=True)
class ShardFindings:
    """What was found in a shard."""

    num_records: int = 0
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    text_hashes: list[int] = field(default_factory=list)
    """63 bits of each text as it is."""
    normal_hashes: list[int] = field(default_factory=list)
    """And of its normalised form."""


def inspect_shard(shard: TarShard, *, verify: bool, hashes: bool) -> ShardFindings:
    """Read a shard. `verify` compares it with the manifest; faults of records are found in any case."""
    findings = ShardFindings()
    try:
        with shard.open() as opened:
            file = _Digesting(opened, where=shard.where)
            _read_records(findings, file, shard, hashes=hashes)
            if verify and shard.entry is not None and (difference := file.difference(shard.entry)):
                findings.faults.insert(0, f"{shard.where}: {difference}: it is damaged; {REMEDY}")
    except DataError as error:
        findings.faults.append(str(error))
    if (more := len(findings.faults) - MOST_FAULTS) > 0:
        findings.faults[MOST_FAULTS:] = [f"{shard.where}: and {more:,} faults more"]
    return findings


def members(file: Any, *, where: str) -> Iterator[tuple[str, bytes, int]]:
    """Of each member of a tar file, in order: its name, its bytes, and the byte of the file at which these end.

    Of `file` only `read` is used. Raises DataError where it cannot be read further.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                # A sparse member may claim more than any memory holds; no writer of records makes one.
                content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
                yield member.name, content.read() if content is not None else b"", member.offset_data + member.size
    except OSError as error:
        raise _unreadable(where, error) from error
    except tarfile.TarError as error:
        raise DataError(f"{where}: not a whole tar file ({error})") from error


def open_file(path: Path) -> IO[bytes]:
    """A file on this machine. Raises DataError."""
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: is not there, though the manifest lists it") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def record_of(data: bytes, *, kind: Kind, where: str) -> Passage | Example:
    """A record of a shard, checked."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no JSON ({error})") from error
    return passage_from_json(value, where=where) if kind == "corpus" else example_from_json(value, where=where)


def lengths_of(record: Passage | Example) -> Iterator[tuple[str, int]]:
    """What is measured of a record, each with its name."""
    if isinstance(record, Passage):
        yield "wordpieces of a passage", NUM_SPECIAL + len(record.title_ids) + len(record.body_ids)
        yield "sentences of a passage", len(record.sentences)
    else:
        yield "wordpieces of an example", len(record.ids)
        yield "sentences of an example", len(record.sentences)
        yield "salient spans of an example", len(record.spans)
    yield from (("wordpieces of a sentence", end - start) for start, end in record.sentences)
    if isinstance(record, Example):
        yield from (("wordpieces of a span", end - start) for start, end in record.spans)


def kind_of(path: Path) -> Kind:
    """What a shard without a manifest holds, by its first record."""
    with open_file(path) as file:
        for name, data, _ in members(file, where=str(path)):
            for kind in KINDS:
                try:
                    record_of(data, kind=kind, where=name)
                except DataError:
                    continue
                return kind
            break
    raise DataError(f"{path}: its first record is neither a passage nor an example of this version; name a tar shard")


class _Digesting:
    """A file that is read forward, and the digest of what was read."""

    def __init__(self, file: IO[bytes], *, where: str) -> None:
        self._file, self._where = file, where
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        self._has_failed = False

    def read(self, num_bytes: int) -> bytes:
        try:
            data = self._file.read(num_bytes)
        except (DataError, OSError) as error:
            self._has_failed = True
            raise error if isinstance(error, DataError) else _unreadable(self._where, error) from error
        self._digest.update(data)
        self._num_bytes += len(data)
        return data

    def difference(self, entry: ShardEntry) -> str | None:
        """Read the rest; in what the whole differs from what its manifest says. None where reading has failed."""
        while not self._has_failed and self.read(_BLOCK_BYTES):
            pass
        if self._has_failed:
            return None
        if self._num_bytes != entry.num_bytes:
            return f"{self._num_bytes} bytes, but {MANIFEST} says {entry.num_bytes}"
        found = self._digest.hexdigest()
        return None if found == entry.sha256 else f"sha256 is {found[:12]}, but {MANIFEST} says {entry.sha256[:12]}"


def _read_records(findings: ShardFindings, file: _Digesting, shard: TarShard, *, hashes: bool) -> None:
    number, behind = 0, ""
    try:
        for number, (name, data, end) in enumerate(members(file, where=shard.where), start=1):
            behind = f"; reading stopped behind record {name}, at byte {end:,}"
            where = f"{shard.where}, record {name}"
            expected = f"{shard.first + number - 1:09d}.json"
            if shard.entry is not None and name != expected:
                findings.faults.append(f"{where}: should be named {expected}")
            _take(findings, data, kind=shard.kind, where=where, hashes=hashes)
    except DataError as error:
        findings.faults.append(str(error))
    if shard.entry is not None and number != shard.entry.count:
        stopped = behind if number < shard.entry.count else ""
        findings.faults.append(
            f"{shard.where}: holds {number_of(number, 'record')}, but its manifest says {shard.entry.count:,}{stopped}"
        )


def _take(findings: ShardFindings, data: bytes, *, kind: Kind, where: str, hashes: bool) -> None:
    try:
        record = record_of(data, kind=kind, where=where)
    except DataError as error:
        findings.faults.append(str(error))
        return
    findings.num_records += 1
    for name, length in lengths_of(record):
        findings.lengths.setdefault(name, Counter())[length] += 1
    if hashes:
        findings.text_hashes.append(_hash(record.text))
        findings.normal_hashes.append(_hash(normalise(record.text)))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _unreadable(where: Path | str, error: OSError) -> DataError:
    return DataError(f"{where}: cannot be read: {error.strerror or error}")
