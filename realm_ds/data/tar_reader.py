"""One tar shard: its members as bytes, every header checked. What the bytes mean is records.py's business.

A shard is a plain ustar archive of files `NUMBER.json`, numbered without gaps through the whole folder, and that is all
that is read here: no other name, no link, no sparse file, no pax header. tarfile reads anything, takes a damaged header
for the end of the archive without a word, and spends three quarters of its time on what such an archive does not have.
"""

import hashlib
import os
from array import array
from typing import BinaryIO, Self
from zlib import adler32

from realm_ds.errors import DataError

BLOCK = 512
REMEDY = "copy the file again or write the shards again"
_NAME, _SIZE, _CHECKSUM, _TYPE, _MAGIC, _PREFIX = (
    slice(0, 100), slice(124, 135), slice(148, 154), slice(156, 157), slice(257, 265), slice(345, 500)
)  # fmt: skip
_NO_PREFIX = bytes(155)
_SPACES = b" " * 8
_TYPES = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe",
    b"x": "a pax header", b"g": "a pax header", b"L": "a GNU long name", b"K": "a GNU long name",
    b"S": "a sparse file",
}  # fmt: skip


class TarReader:
    """The records of a tar shard, one after the other or from where one is known to lie; closes `file` with itself."""

    def __init__(
        self, file: BinaryIO, *, where: str, first: int, count: int, num_bytes: int, sha256: str | None = None
    ) -> None:
        """`first` is the number of its first record in the folder. With `sha256`, what is read is held against it."""
        self._file, self._where = file, where
        self._first, self._count, self._num_bytes = first, count, num_bytes
        self._wanted, self._digest = sha256, hashlib.sha256() if sha256 is not None else None
        self._can_seek = self._digest is None and file.seekable()
        self._at = 0
        """Bytes read or passed over so far."""
        self.position = 0
        """Likewise records."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def skip(self, count: int) -> None:
        """Pass over the next records: where the file can be sought in, no more than their headers are read."""
        for _ in range(count):
            if self._can_seek:
                self._pass_over(_padded(self._next_size()))
                self._count_record()
            else:
                self.next()

    def next(self) -> bytes:
        """The next record. After the last one all that follows is read too, and the whole is checked."""
        size = self._next_size()
        body = self._read(_padded(size))
        if len(body) < size:
            raise self._cut_short()
        self._count_record()
        return body[:size]

    def offsets(self) -> "array[int]":
        """Where each record lies, from the next one on, for `go_to`; passes over all of them."""
        found = array("Q")
        while self.position < self._count:
            found.append(self._at)
            self.skip(1)
        return found

    def go_to(self, position: int, *, offset: int) -> None:
        """Make the record at a position, forth or back, the next one. Only of a file that can be sought in.

        That it does lie at `offset` is seen when it is read: its header names it.
        """
        assert self._can_seek, self._where
        self._file.seek(offset)
        self.position, self._at = position, offset

    def _next_size(self) -> int:
        header = self._read(BLOCK)
        if len(header) < BLOCK:
            raise self._cut_short()
        return self._checked_size(header)

    def _count_record(self) -> None:
        self.position += 1
        if self.position == self._count:
            self._check_end()

    def _pass_over(self, num_bytes: int) -> None:
        """All but the last of them, which is read: whether the file goes so far is told by nothing else."""
        if num_bytes:
            self._file.seek(num_bytes - 1, os.SEEK_CUR)
            if not self._read(1):
                raise self._cut_short()
            self._at += num_bytes - 1

    def _read(self, num_bytes: int) -> bytes:
        try:
            data = self._file.read(num_bytes)
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror or error}") from error
        self._at += len(data)
        if self._digest is not None:
            self._digest.update(data)
        return data

    def _checked_size(self, header: bytes) -> int:
        """Of the member that this is the header of; raises unless that is the record which must come next."""
        # The checksum is the sum of the bytes, with spaces in its own place. The lower half of adler32 is one more
        # than the sum of the bytes (modulo 65521, more than ASCII makes), at a tenth of the time of sum().
        total = (adler32(header[:148] + _SPACES + header[156:]) & 0xFFFF) - 1
        try:
            is_whole, size = int(header[_CHECKSUM], 8) == total, int(header[_SIZE], 8)
        except ValueError:
            is_whole, size = False, 0
        if not is_whole:
            if not any(header):
                raise self._error(f"ends after {self.position} of {self._count} records")
            raise self._error(f"the header of record {self.position} is damaged")
        if header[_TYPE] not in b"0\0" or header[_MAGIC] != b"ustar\x0000":
            kind = _TYPES.get(header[_TYPE], "no member of a ustar archive")
            raise self._error(f"member {self._name(header)!r} is {kind}, not a file")
        name = b"%09d.json" % (self._first + self.position)
        if header[_NAME].rstrip(b"\0") != name or header[_PREFIX] != _NO_PREFIX:
            raise self._error(f"record {self.position} is named {self._name(header)!r}, not {name.decode()!r}")
        if not 0 <= size <= self._num_bytes:
            raise self._error(f"record {self.position} claims {size} bytes, more than the file has")
        return size

    def _check_end(self) -> None:
        while data := self._read(1 << 20):
            if any(data):
                raise self._error(f"something follows its {self._count} records")
        if self._at != self._num_bytes:
            raise self._error(f"{self._at} bytes, but the manifest says {self._num_bytes}")
        if self._digest is not None and self._digest.hexdigest() != self._wanted:
            raise self._error(
                f"sha256 is {self._digest.hexdigest()[:12]}, but the manifest says {str(self._wanted)[:12]}: "
                "the bytes are damaged"
            )

    def _name(self, header: bytes) -> str:
        return header[_NAME].rstrip(b"\0").decode(errors="replace")

    def _cut_short(self) -> DataError:
        return self._error(f"ends after {self.position} of {self._count} records, at byte {self._at}")

    def _error(self, what: str) -> DataError:
        return DataError(f"{self._where}: {what}; {REMEDY}")


def _padded(size: int) -> int:
    """Bytes that a record of that size takes."""
    return -(-size // BLOCK) * BLOCK
