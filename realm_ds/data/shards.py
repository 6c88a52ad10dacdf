"""Folders of tar shards with their manifest: check and read them. shard_writer.py writes them, stream.py orders them.

A folder holds `shard-00000.tar`, `shard-00001.tar`, ... and `manifest.json`. A shard is an ordinary tar file with one
`NUMBER.json` member a record, numbered through the whole folder, so `wds.WebDataset` opens it and `tar tf` shows it.
The manifest is removed first and written last: a folder whose writing was cut short has none.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from realm_ds.data.records import Passage, passage_from_json
from realm_ds.errors import ConfigError, DataError

Kind = Literal["corpus", "pretrain"]
MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"shard-\d{5,}\.tar")
FORMAT = 3
"""Of manifest and records; a reader refuses another number."""


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


def open_manifest(folder: Path, *, kind: Kind, fingerprint: str | None) -> Manifest:
    """The manifest of the folder, checked: kind, tokenizer (unless None), and every shard is there in full size."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise DataError(f"no folder {folder} of {kind} tar shards: run realm-ds prepare, or mend the path")
    manifest = _read_manifest(path)
    if manifest.kind != kind:
        raise DataError(f"{path}: holds {manifest.kind} shards, not {kind} shards; name a folder of {kind} shards")
    if manifest.count == 0 or not manifest.shards:
        raise DataError(f"{path}: the {kind} is empty (0 records); write it again from a source that has text")
    if fingerprint is not None and manifest.tokenizer_fingerprint != fingerprint:
        raise DataError(
            f"{path}: made with tokenizer {manifest.tokenizer_fingerprint[:12]}, but data.tokenizer is "
            f"{fingerprint[:12]}; use the tokenizer it was made with, or write the shards again"
        )
    for entry in manifest.shards:
        _check_size(folder / entry.name, entry)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """What the manifest says, whatever it is of; whether the shards are there is not looked at."""
    return _read_manifest(folder / MANIFEST)


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


def read_shard(path: Path, *, count: int | None = None) -> Iterator[tuple[str, Any]]:
    """(key, JSON value) of every record of a tar shard; `count`, when given, is how many there must be."""
    # Here because webdataset imports torch, which writing shards and reading manifests can do without. Its own shard
    # lists and gopen are not used: they split by RANK and run "pipe:" commands.
    from webdataset.tariterators import group_by_keys, tar_file_expander

    remedy = "copy the file again or write the shards again"
    num_read = 0
    try:
        with path.open("rb") as handle:
            for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": handle}])):
                key = sample["__key__"]
                if "json" not in sample:
                    raise DataError(f"{path}: member {key} is not a .json record; write the shards again")
                yield key, json.loads(sample["json"])
                num_read += 1
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; {remedy}") from error
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a whole tar file ({error.args[0]}) after {num_read} records; {remedy}") from error
    except ValueError as error:  # of JSON, of UTF-8, and of group_by_keys when a member comes twice
        reason = getattr(error, "reason", error.args[0])
        raise DataError(f"{path}: record {num_read} cannot be read ({reason}); {remedy}") from error
    # tarfile takes a damaged header for the end of the archive, without a word.
    if count is not None and num_read != count:
        raise DataError(f"{path}: ends after {num_read} of {count} records; {remedy}")


def read_passages(
    folder: Path,
    manifest: Manifest,
    start: int,
    stop: int,
    *,
    max_tokens: int | None = None,
    verify: bool = True,
) -> Iterator[Passage]:
    """Passages start..stop-1 of the whole corpus, in manifest order; reads only the shards that hold them."""
    if not 0 <= start <= stop <= manifest.count:
        raise DataError(f"{folder}: passages {start} to {stop} of a corpus of {manifest.count}; write the shards again")
    first = 0
    for entry in manifest.shards:
        low, high = max(start - first, 0), min(stop - first, entry.count)
        first += entry.count
        if low >= high:
            continue
        if verify:
            verify_shard(folder, entry)
        path = folder / entry.name
        for number, (key, data) in enumerate(read_shard(path, count=entry.count)):
            if low <= number < high:
                yield passage_from_json(data, where=f"{path}, record {key}", max_tokens=max_tokens)


def passage_range(total: int, shard: int, num_shards: int, *, setting: str = "index.num_shards") -> tuple[int, int]:
    """Start and stop of the passages of one of `num_shards` index ranks: contiguous, sizes at most 1 apart.

    Or of one of so many builder ranks; `setting` is where their number is set.
    """
    if num_shards > total:
        raise ConfigError(
            f"{setting}={num_shards} is more than the {total} passages of the corpus; set {setting} to at most {total}"
        )
    return total * shard // num_shards, total * (shard + 1) // num_shards


def _read_manifest(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"no {path}: the folder was not written to its end; run realm-ds prepare again") from error
    except (OSError, ValueError) as error:
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
