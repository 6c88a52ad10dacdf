"""What people point at (files, folders, globs, stdin) as a stream of documents. How each format is read is known to
the modules named after it.

    source = open_source([Path("dump.jsonl.gz")])
    for document in source.documents():
        ...
    print(*source.tally.lines(), sep="\\n")
"""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from realm_ds.data.places import MANIFEST
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare.arrow_files import dataset_files, is_dataset, read_dataset_file, read_parquet
from realm_ds.prepare.compressed import ENDINGS, KB, MB, STDIN, Damaged, InputFile, printable
from realm_ds.prepare.csv_files import read_csv, read_tsv
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.json_lines import read_json_lines
from realm_ds.prepare.rows import Fields, Rows
from realm_ds.prepare.text_files import read_text
from realm_ds.prepare.wikipedia import read_dump

Reader = Callable[[InputFile, Rows], Iterator[Document]]
OnDamage = Literal["stop", "skip"]

READERS: dict[str, Reader] = {
    "wikipedia": read_dump,
    "jsonl": read_json_lines,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "text": read_text,
    "hf": read_dataset_file,
}
FORMAT_OF_ENDING = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".xml": "wikipedia",
}
AUTO = "auto"
ALMOST = 0.9999
"""The share of a source of which not all documents were taken is never more."""
NOT_FROM_STDIN = ("parquet", "hf")
WITHOUT_FIELDS = frozenset({"wikipedia", "text"})
"""Formats whose documents have no names for their parts."""
TEXT_BESIDE = "text files left out (their folder has files of another format)"
TWICE = "files that were named more than once, read once"
DAMAGED = "files that are damaged, read as far as that went"


@dataclass(frozen=True)
class _SourceFile:
    """A file of a source, and how it is read."""

    path: Path
    format: str


class _Pace:
    """How many bytes the documents so far took. Readers read ahead of these, by blocks: what was read before a block
    gave the documents before it, and so tells what a character takes."""

    def __init__(self) -> None:
        self._bytes_read = 0
        self._num_characters = 0
        self._known = (0, 0)  # so many bytes gave so many characters

    def add(self, num_characters: int, *, bytes_read: int) -> None:
        """Of a document; `bytes_read` is what was read when it came."""
        if bytes_read != self._bytes_read:
            self._known = (self._bytes_read, self._num_characters)
            self._bytes_read = bytes_read
        self._num_characters += num_characters

    @property
    def bytes_used(self) -> float | None:
        """None as long as nothing but a first block was read."""
        num_bytes, num_characters = self._known
        return num_bytes * self._num_characters / num_characters if num_characters else None


class Source:
    """Documents of one or more files, in order; open_source makes it."""

    def __init__(self, files: Sequence[_SourceFile], *, fields: Fields, tally: Tally, on_damage: OnDamage) -> None:
        self.tally = tally
        self._fields = fields
        self._on_damage = on_damage
        self._is_at_end = False
        self._pace = _Pace()
        self._files = [
            (InputFile(file.path, name=name), file.format)
            for file, name in zip(files, _names([file.path for file in files]), strict=True)
        ]

    @property
    def formats(self) -> frozenset[str]:
        """Of its files."""
        return frozenset(format for _, format in self._files)

    @property
    def name(self) -> str:
        """What people call it: the names of its files, without their folders."""
        first, last = self._files[0][0].name, self._files[-1][0].name
        return first if len(self._files) == 1 else f"{first} to {last} ({len(self._files)} files)"

    def identity(self) -> dict[str, Any] | None:
        """What must be the same for work on it to be resumed, as JSON holds it; None where nobody can tell, as of
        stdin. What is done about damage need not be the same: documents before it are whole either way."""
        if self.total_bytes is None:
            return None
        files = {
            file.name: {"place": place, "bytes": file.num_bytes, "digest": file.digest(), "format": format}
            for place, (file, format) in enumerate(self._files)
        }
        return {"files": files, "fields": asdict(self._fields)}

    @property
    def total_bytes(self) -> int | None:
        """Of all files, as they are stored; None where stdin or a pipe is one of them."""
        sizes = [file.num_bytes for file, _ in self._files]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def bytes_read(self) -> int:
        """Of `total_bytes`, so far."""
        return sum(file.bytes_read for file, _ in self._files)

    @property
    def measure(self) -> str:
        """What `total` and `done` are counted in."""
        return "kB" if self._unit_bytes == KB else "MB"

    @property
    def total(self) -> int | None:
        """`total_bytes` as people read it, begun units counted."""
        return None if self.total_bytes is None else -(-self.total_bytes // self._unit_bytes)

    @property
    def done(self) -> int:
        """`bytes_read` likewise."""
        return self.bytes_read // self._unit_bytes

    @property
    def _unit_bytes(self) -> int:
        return KB if self.total_bytes is not None and self.total_bytes < 100 * MB else MB

    @property
    def share(self) -> float | None:
        """Which the documents so far are of the whole; None where the size of that is not known."""
        if self._is_at_end:
            return 1.0
        if not self.total_bytes:
            return None
        return min(self._pace.bytes_used or self.bytes_read, ALMOST * self.total_bytes) / self.total_bytes

    def documents(self) -> Iterator[Document]:
        """All documents, once. What is left out or mended is counted; what is not whole raises DataError behind the
        documents that were (or is counted, with `on_damage="skip"`)."""
        rows = Rows(tally=self.tally, fields=self._fields)
        num_bytes = 0  # of the files before
        for file, format in self._files:
            num_before = rows.num_documents
            try:
                for document in READERS[format](file, rows):
                    self._pace.add(document.num_characters, bytes_read=num_bytes + file.bytes_read)
                    yield document
            except Damaged as damage:
                num_whole = rows.num_documents - num_before
                if self._on_damage == "stop":
                    also = "" if file.num_bytes is None else ", also with --resume"
                    raise DataError(
                        f"{damage}. The {num_whole:,} documents before that are whole: go on behind it with "
                        f"--on-damage skip{also}; or get the file again, and begin anew"
                    ) from damage
                self.tally.add(DAMAGED, where=f"{damage}, {num_whole:,} documents before that")
            num_bytes += file.bytes_read
        self._is_at_end = True


def open_source(
    paths: Sequence[Path | str],
    *,
    format: str = AUTO,
    fields: Fields | None = None,
    tally: Tally | None = None,
    on_damage: OnDamage = "stop",
) -> Source:
    """The source at these paths: files, folders (all files in them), globs, `-` for stdin; in the order given, folders
    and globs in that of names. The format of each goes by its name unless it is said."""
    if format != AUTO and format not in READERS:
        raise ConfigError(f"no format is called {format!r}; choose one of {', '.join((AUTO, *READERS))}")
    if not paths:
        raise ConfigError("no source is named: give files, folders, or - for stdin")
    tally = tally or Tally()
    files: dict[_SourceFile, None] = {}
    for file in (file for path in paths for file in _expanded(str(path), format, tally)):
        if file in files:
            tally.add(TWICE, where=file.path.name)
        files[file] = None
    source = Source(list(files), fields=fields or Fields(), tally=tally, on_damage=on_damage)
    if fields is not None and fields.unusual and source.formats <= WITHOUT_FIELDS:
        named = ", ".join(f"--{name}-field {field}" for name, field in fields.unusual.items())
        raise ConfigError(
            f"{named} would be ignored: {source.name} is read as {' and '.join(sorted(source.formats))}, which have no "
            "fields; leave that out, or say another --format"
        )
    return source


def _expanded(path: str, format: str, tally: Tally) -> Iterator[_SourceFile]:
    if path == str(STDIN):
        if format in (AUTO, *NOT_FROM_STDIN):
            choice = ", ".join(name for name in READERS if name not in NOT_FROM_STDIN)
            why = "stdin has no name to tell its format by" if format == AUTO else f"{format} cannot be read from stdin"
            raise ConfigError(f"{why}; give --format, one of {choice}")
        yield _SourceFile(STDIN, format)
        return
    found = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
    if not found:
        raise DataError(f"{path} is not there, as a file, a folder or a pattern; name what is to be read")
    for each in map(Path, found):
        if each.is_dir() and (format == "hf" or (format == AUTO and is_dataset(each))):
            yield from (_SourceFile(file, "hf") for file in dataset_files(each))
        elif (each / MANIFEST).is_file():
            raise DataError(
                f"{each} holds tar shards, no documents: prepare pretrain reads those of a corpus by --corpus"
            )
        elif each.is_dir():
            yield from _in_folder(each, format, tally)
        else:
            yield _SourceFile(each, _format_of(each) if format == AUTO else format)


def _in_folder(folder: Path, format: str, tally: Tally) -> Iterator[_SourceFile]:
    """All files below it of the format, or of the one format that it has files of; text beside these is no data."""
    formats = {
        path: _by_ending(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    counts = Counter(filter(None, formats.values()))
    if format == AUTO and len(counts) > 1 and "text" in counts:
        tally.add(TEXT_BESIDE, number=counts.pop("text"), where=printable(folder.name))
    if format == AUTO and len(counts) > 1:
        there = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        raise ConfigError(f"{folder} has files of several formats ({there}); give --format, one of these")
    wanted = next(iter(counts), AUTO) if format == AUTO else format
    if wanted not in counts:
        endings = " ".join(ending for ending, name in FORMAT_OF_ENDING.items() if format in (AUTO, name))
        raise DataError(f"{folder} has no file whose name ends in {endings} (or in that and {' '.join(ENDINGS)})")
    yield from (_SourceFile(path, wanted) for path, found in formats.items() if found == wanted)


def _format_of(path: Path) -> str:
    format = _by_ending(path)
    if format is None:
        raise ConfigError(
            f"{path}: its name does not say its format; give --format, one of {', '.join(READERS)}, or give it an "
            f"ending of {' '.join(FORMAT_OF_ENDING)}"
        )
    return format


def _by_ending(path: Path) -> str | None:
    name = path.with_suffix("") if path.suffix in ENDINGS else path
    # Wikimedia names the parts of a dump enwiki-20181220-pages-articles1.xml-p10p30302.bz2.
    return FORMAT_OF_ENDING.get(name.suffix.lower().partition("-")[0])


def _names(paths: Sequence[Path]) -> list[str]:
    """Their names; with the folders in which they differ, where names alone do not tell them apart."""
    names = ["stdin" if path == STDIN else path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    top = os.path.commonpath([Path(os.path.abspath(path)).parent for path in paths])
    return [name if path == STDIN else os.path.relpath(path, top) for path, name in zip(paths, names, strict=True)]
