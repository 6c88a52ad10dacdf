"""Files and stdin as blocks or lines of bytes, whatever they are compressed with; what is cut off is never taken for
whole. What the bytes mean is not known here."""

import bz2
import hashlib
import itertools
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from realm_ds.errors import DataError

KB, MB = 1_000, 1_000_000
STDIN = Path("-")
BLOCK_BYTES = 1 << 16
"""What is read, and what is decompressed, at a time: no more, so that `bytes_read` is little ahead of what was used."""
MAX_RECORD_BYTES = 256 << 20
"""A line, row or page that is longer is left out, so that memory stays bounded whatever a file holds."""
ENDINGS = (".gz", ".bz2", ".xz", ".zst")

_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_BOM = b"\xef\xbb\xbf"


class Damaged(DataError):
    """The rest of an input cannot be read; what came before it was good."""


class InputFile:
    """One input, read once from front to back."""

    def __init__(self, path: Path, *, name: str) -> None:
        self.path = path
        self.name = printable(name)
        """What people know it by, without the folders of this machine."""
        self.bytes_read = 0
        """As it is stored: compressed."""

    @property
    def num_bytes(self) -> int | None:
        """As it is stored; None for stdin and pipes, of which nobody knows."""
        return self.path.stat().st_size if self.path != STDIN and self.path.is_file() else None

    def digest(self) -> str | None:
        """Of its first and last MB as they are stored, which tells files of one name and size apart; None of stdin and
        of what cannot be read."""
        if not self.num_bytes:
            return None
        try:
            with self.path.open("rb") as raw:
                digest = hashlib.sha256(raw.read(MB))
                raw.seek(max(MB, self.num_bytes - MB))
                digest.update(raw.read(MB))
        except OSError:  # reading it will say so
            return None
        return digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """All of it, decompressed, without a byte order mark. Raises Damaged where it cannot be read further."""
        blocks = self._decompressed()
        first = next(blocks, b"")
        if first.startswith(_UTF16):
            raise Damaged(f"{self.name} is UTF-16 text; save it as UTF-8")
        yield first.removeprefix(_UTF8_BOM)
        yield from blocks

    def lines(self) -> Iterator[bytes | None]:
        """Its lines without their ends, None for one of more than MAX_RECORD_BYTES."""
        begun: list[bytes] = []  # of a line that goes on in the next block: joined once, so time stays linear
        num_begun = 0
        for block in self.blocks():
            first, *others = block.split(b"\n")
            num_begun += len(first)
            if num_begun <= MAX_RECORD_BYTES:
                begun.append(first)
            else:
                begun.clear()
            if others:
                yield b"".join(begun) if num_begun <= MAX_RECORD_BYTES else None
                begun = [others.pop()]
                num_begun = len(begun[0])
                yield from others
        if num_begun:
            yield b"".join(begun) if num_begun <= MAX_RECORD_BYTES else None

    def _decompressed(self) -> Iterator[bytes]:
        try:
            with sys.stdin.buffer if self.path == STDIN else self.path.open("rb") as raw:
                yield from filter(None, self._decoded(raw))
        except OSError as error:
            raise Damaged(f"{self.name} cannot be read ({error.strerror or error})") from error

    def _decoded(self, raw: BinaryIO) -> Iterator[bytes]:
        stored = self._stored(raw)
        first = next(stored, b"")
        ending = self.path.suffix if self.path.suffix in ENDINGS else _ending_by_magic(first)
        stored = itertools.chain((first,), stored)
        match ending:
            case ".zst":
                yield from self._zstd(stored)
            case ".gz":
                yield from self._streams(stored, _Gunzip)
            case ".bz2":
                yield from self._streams(stored, bz2.BZ2Decompressor)
            case ".xz":
                yield from self._streams(stored, lzma.LZMADecompressor)
            case _:
                yield from stored

    def _stored(self, raw: BinaryIO) -> Iterator[bytes]:
        while block := raw.read(BLOCK_BYTES):
            self.bytes_read += len(block)
            yield block

    def _streams(self, stored: Iterator[bytes], new_decoder: Callable[[], Any]) -> Iterator[bytes]:
        """Compressed streams one behind the other: what pbzip2 and multistream dumps write."""
        num_streams = 0
        decoder = None
        for data in stored:
            while data:
                if decoder is None:
                    data = data.lstrip(b"\0") if num_streams else data  # padding is no stream
                    decoder = new_decoder() if data else None
                    continue
                yield self._step(decoder, data)
                while not decoder.eof and not decoder.needs_input:
                    yield self._step(decoder, b"")
                data = decoder.unused_data
                if decoder.eof:
                    decoder = None
                    num_streams += 1
        if decoder is not None or not num_streams:
            raise self._cut_off()

    def _step(self, decoder: Any, data: bytes) -> bytes:
        try:
            block: bytes = decoder.decompress(data, BLOCK_BYTES)
        except (OSError, lzma.LZMAError, zlib.error) as error:
            raise self._broken(error) from error
        return block

    def _zstd(self, stored: Iterator[bytes]) -> Iterator[bytes]:
        # Arrow's, because it says when a stream is cut off: the zstandard package takes that for the end.
        import pyarrow

        pulled = pyarrow.PythonFile(_Pull(stored), mode="r")
        try:
            with pyarrow.CompressedInputStream(pulled, "zstd") as stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except OSError as error:
            raise (self._cut_off() if "Truncated" in str(error) else self._broken(error)) from error
        if not self.bytes_read:
            raise self._cut_off()

    def _cut_off(self) -> Damaged:
        return Damaged(f"{self.name} is cut off: its compressed data ends too early, at byte {self.bytes_read:,}")

    def _broken(self, error: Exception) -> Damaged:
        return Damaged(f"{self.name} is damaged within its first {self.bytes_read:,} compressed bytes ({error})")


def printable(name: str) -> str:
    """A file's name as text: its bytes may be no UTF-8, which neither JSON nor a terminal takes."""
    return os.fsencode(name).decode(errors="replace")


def _ending_by_magic(first: bytes) -> str:
    """The ending that a file with these first bytes should have: no text begins so."""
    return next((ending for magic, ending in _MAGIC.items() if first.startswith(magic)), "")


class _Gunzip:
    """zlib's decoder with the manners of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


class _Pull:
    """An iterator of blocks as a file that Arrow reads."""

    closed = False

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, size: int) -> bytes:
        self._rest = self._rest or next(self._blocks, b"")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def close(self) -> None:
        """Arrow closes what it reads; the file is closed where it was opened."""
