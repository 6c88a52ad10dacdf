"""Folders of tar shards with their manifest: check and read them. shard_writer.py writes them, stream.py orders them,
places.py knows where they may be.

A folder holds `shard-00000.tar`, `shard-00001.tar`, ... and `manifest.json`. A shard is an ordinary tar file with one
`NUMBER.json` member a record, numbered through the whole folder, so `wds.WebDataset` opens it and `tar tf` shows it.
The manifest is removed first and written last: a folder whose writing was cut short has none.
"""

import hashlib
import itertools
import json
import os
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from realm_ds.data.elsewhere import TIMEOUT_S
from realm_ds.data.places import BUFFER_BYTES, MANIFEST, SHARD_NAME, Place
from realm_ds.data.records import Example, Passage, example_from_json, parse, passage_from_json
from realm_ds.data.tar_reader import TarReader
from realm_ds.errors import ConfigError, DataError

Kind = Literal["corpus", "pretrain"]
FORMAT = 3
"""Of manifest and records; a reader refuses another number."""
AT_PLACES_BYTES = 4096
"""Read at once where single records are wanted: of a usual passage, most."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar shard as the manifest knows it."""

    name: str
    count: int
    """Records in it."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of tar shards holds and what it was made with."""

    kind: Kind
    count: int
    shards: tuple[ShardEntry, ...]
    tokenizer_fingerprint: str
    source: str
    """Where the text came from, for people."""
    settings: Mapping[str, Any]
    """What the records were made with, for people."""
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """sha256 of the manifest, and so of every record: equal for equal contents, wherever the folder is."""
        return hashlib.sha256(_json_bytes(asdict(self))).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Shards:
    """A folder of tar shards, here or elsewhere, with what its manifest says."""

    place: Place
    manifest: Manifest

    def __str__(self) -> str:
        return str(self.place)

    @property
    def count(self) -> int:
        """Records in all."""
        return self.manifest.count

    @property
    def digest(self) -> str:
        """Of the manifest, and so of every record."""
        return self.manifest.digest

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The number of the first record of each tar shard."""
        return tuple(itertools.accumulate((entry.count for entry in self.manifest.shards[:-1]), initial=0))

    @cached_property
    def _files(self) -> tuple[str, ...]:
        """What people call each tar shard."""
        return tuple(self.place.where(entry.name) for entry in self.manifest.shards)

    def where(self, record: int) -> str:
        """What people call a record."""
        return f"{self._files[bisect_right(self.firsts, record) - 1]}, record {record:09d}"

    @cached_property
    def _offsets(self) -> dict[int, "array[int]"]:
        """Where the records of a tar shard lie in it: of those that are here and were asked for by place."""
        return {}

    def open(self, shard: int, *, verify: bool = True, buffer_bytes: int = BUFFER_BYTES) -> TarReader:
        """A tar shard, to be read from its first record on.

        With `verify` the bytes of one that is here are held against the manifest before any is used. Those of one that
        is elsewhere always are, as they come: what is wrong with them shows at its end.
        """
        entry = self.manifest.shards[shard]
        if verify and self.place.folder is not None:
            verify_shard(self.place.folder, entry)
        return TarReader(
            self.place.open(entry.name, buffer_bytes=buffer_bytes),
            where=self._files[shard],
            first=self.firsts[shard],
            count=entry.count,
            num_bytes=entry.num_bytes,
            sha256=None if self.place.folder is not None else entry.sha256,
        )

    def records(self, start: int, stop: int, *, verify: bool = True) -> Iterator[bytes]:
        """Records start..stop-1 of all in manifest order, as JSON; reads only the tar shards that hold them."""
        if not 0 <= start <= stop <= self.count:
            raise DataError(f"{self}: records {start} to {stop} of {self.count}; write the shards again")
        for shard, (first, entry) in enumerate(zip(self.firsts, self.manifest.shards, strict=True)):
            low, high = max(start - first, 0), min(stop - first, entry.count)
            if low >= high:
                continue
            with self.open(shard, verify=verify) as reader:
                reader.skip(low)
                for _ in range(low, high):
                    yield reader.next()
                if verify and self.place.folder is None:
                    reader.skip(entry.count - high)  # to its end, where it is held against the manifest

    def passages(
        self, start: int = 0, stop: int | None = None, *, max_tokens: int | None = None, verify: bool = True
    ) -> Iterator[Passage]:
        """Passages start..stop-1 of a corpus, all from `start` on if `stop` is None, in manifest order."""
        stop = self.count if stop is None else stop
        for number, data in enumerate(self.records(start, stop, verify=verify), start):
            where = self.where(number)
            yield passage_from_json(parse(data, where=where), where=where, max_tokens=max_tokens)

    def passages_at(self, places: Iterable[int]) -> dict[int, Passage]:
        """The passages at some places of a corpus.

        Of a tar shard that is here the headers are read once, whoever asks how often; from then on, of what was asked
        for, nothing else. One that is elsewhere is read from its begin each time.
        """
        found = {}
        by_shard = itertools.groupby(sorted(set(places)), key=lambda place: bisect_right(self.firsts, place) - 1)
        for shard, inside in by_shard:
            for place, data in self._records_at(shard, inside):
                where = self.where(place)
                found[place] = passage_from_json(parse(data, where=where), where=where)
        return found

    def examples(self, start: int = 0, stop: int | None = None, *, verify: bool = True) -> Iterator[Example]:
        """Likewise of pre-training shards."""
        stop = self.count if stop is None else stop
        for number, data in enumerate(self.records(start, stop, verify=verify), start):
            where = self.where(number)
            yield example_from_json(parse(data, where=where), where=where)

    def _records_at(self, shard: int, places: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Records of a tar shard at ascending places of the corpus."""
        first, is_here = self.firsts[shard], self.place.folder is not None
        with self.open(shard, verify=False, buffer_bytes=AT_PLACES_BYTES if is_here else BUFFER_BYTES) as reader:
            if is_here and shard not in self._offsets:
                self._offsets[shard] = reader.offsets()
            for place in places:
                if is_here:
                    reader.go_to(place - first, offset=self._offsets[shard][place - first])
                else:
                    reader.skip(place - first - reader.position)
                yield place, reader.next()

    def copy_to(self, folder: Path) -> None:
        """The same folder of shards here, checked; by hard links where it can be. Raises DataError or OSError."""
        folder.mkdir(parents=True)
        for name in (MANIFEST, *(entry.name for entry in self.manifest.shards)):
            _link_or_copy(self.place, name, folder / name)
        for entry in self.manifest.shards:
            verify_shard(folder, entry)


def open_shards(place: Path | str, *, kind: Kind, fingerprint: str | None, timeout_s: float = TIMEOUT_S) -> Shards:
    """The shards of a place, their manifest checked: kind, tokenizer (unless None), and, of a folder on this machine,
    that every shard is there in full size. One elsewhere is given up after `timeout_s` without a byte."""
    there = Place(place, timeout_s=timeout_s)
    shards = Shards(place=there, manifest=read_manifest(there, what=f"{kind} tar shards"))
    manifest, where = shards.manifest, shards.place.where(MANIFEST)
    if manifest.kind != kind:
        raise DataError(f"{where}: holds {manifest.kind} shards, not {kind} shards; name a folder of {kind} shards")
    if manifest.count == 0 or not manifest.shards:
        raise DataError(f"{where}: the {kind} is empty (0 records); write it again from a source that has text")
    if fingerprint is not None and manifest.tokenizer_fingerprint != fingerprint:
        raise DataError(
            f"{where}: made with tokenizer {manifest.tokenizer_fingerprint[:12]}, but the one "
            f"given (data.tokenizer, --tokenizer) is {fingerprint[:12]}; use the tokenizer it was made with, or write "
            "the shards again"
        )
    if shards.place.folder is not None:
        for entry in manifest.shards:
            _check_size(shards.place.folder / entry.name, entry)
    return shards


def read_manifest(place: Place, *, what: str) -> Manifest:
    """What the manifest says, whatever kind it is of; whether the shards are there is not looked at. `what` people
    wanted to find there."""
    path = place.where(MANIFEST)
    if place.folder is not None and not place.folder.is_dir():
        raise DataError(f"no folder {place} of {what}: run realm-ds prepare, or mend the path")
    if place.folder is not None and not (place.folder / MANIFEST).exists():
        if not any(SHARD_NAME.fullmatch(inside.name) for inside in place.folder.iterdir()):
            raise DataError(f"{place} has no {MANIFEST} and no tar shards: name a folder that realm-ds prepare wrote")
        raise DataError(f"no {path}: the folder was not written to its end; run realm-ds prepare again")
    try:
        data = json.loads(place.read(MANIFEST))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write the shards again") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise DataError(f"{path}: format {found!r}, but this realm-ds reads {FORMAT}; write the shards again")
    try:
        entries = tuple(ShardEntry(**entry) for entry in data.pop("shards"))
        manifest = Manifest(shards=entries, **data)
        total = sum(entry.count for entry in entries)
        # The names become paths: only those that write_shards gives.
        strange = [entry.name for entry in entries if not SHARD_NAME.fullmatch(entry.name)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a member is missing or wrong ({error}); write the shards again") from error
    if strange:
        raise DataError(f"{path}: {strange[0]!r} is no name of a tar shard; write the shards again")
    if total != manifest.count:
        raise DataError(f"{path}: count is {manifest.count}, but its shards hold {total}; write the shards again")
    return manifest


def verify_shard(folder: Path, entry: ShardEntry) -> None:
    """Raise DataError unless the bytes of the shard are those that the manifest was written for."""
    path = folder / entry.name
    _check_size(path, entry)
    try:
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found != entry.sha256:
        raise DataError(
            f"{path}: sha256 is {found[:12]}, but {MANIFEST} says {entry.sha256[:12]}: the file is damaged; "
            "copy it again or write the shards again"
        )


def refuse_long_passages(corpus: Shards, *, max_tokens: int) -> None:
    """Raise ConfigError where the corpus was cut into longer passages than a run takes: else a rank finds the first."""
    cut_to = corpus.manifest.settings.get("passage_tokens")
    if isinstance(cut_to, int) and cut_to > max_tokens:
        raise ConfigError(
            f"{corpus}: its passages have up to {cut_to} wordpieces, more than data.passage_tokens={max_tokens}: set "
            f"data.passage_tokens={cut_to}, or prepare the corpus with --passage-tokens {max_tokens}"
        )


def passage_range(total: int, shard: int, num_shards: int, *, setting: str = "index.num_shards") -> tuple[int, int]:
    """Start and stop of the passages of one of `num_shards` index ranks: contiguous, sizes at most 1 apart.

    Or of one of so many builder ranks; `setting` is where their number is set.
    """
    if num_shards > total:
        raise ConfigError(
            f"{setting}={num_shards} is more than the {total} passages of the corpus; set {setting} to at most {total}"
        )
    return total * shard // num_shards, total * (shard + 1) // num_shards


def _link_or_copy(place: Place, name: str, target: Path) -> None:
    """Tar shards are never rewritten in place, so a hard link is a copy that costs nothing."""
    if place.folder is not None:
        with suppress(OSError):
            os.link(place.folder / name, target)
            return
    with place.open(name) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _check_size(path: Path, entry: ShardEntry) -> None:
    if not path.is_file():
        raise DataError(f"no {path}, though {MANIFEST} lists it; copy it there or write the shards again")
    if path.stat().st_size != entry.num_bytes:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes, but {MANIFEST} says {entry.num_bytes}: the file is damaged; "
            "copy it again or write the shards again"
        )


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
