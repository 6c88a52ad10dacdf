"""Where a folder of tar shards is: on this machine, behind a URL, or behind a command. What is in it is shards.py's.

    /data/corpus                       a folder here
    s3://bucket/corpus                 through `aws s3 cp`; gs:// and hf:// likewise through their own commands
    https://host/corpus                through curl
    pipe:ssh host cat /data/{name}     any command; {name} is the file wanted

All but folders are opened by webdataset's gopen. A file is read once from its begin to its end, and nothing is tried
twice: what failed is said, and a resumed run goes on exactly.
"""

import io
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from realm_ds.config.places import NAME_MARK, PIPE, is_elsewhere
from realm_ds.errors import DataError

MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"shard-\d{5,}\.tar")
BUFFER_BYTES = 1 << 20
Opener = Callable[[str], Any]
"""webdataset's gopen, or a stand-in: a URL to what can be read and closed."""


class Place:
    """A folder of tar shards, opened by the names of the files in it."""

    def __init__(self, place: Path | str, *, opener: Opener | None = None) -> None:
        self._place = str(place)
        self._opener = opener
        self.folder = None if is_elsewhere(self._place) else Path(place)
        """None unless it is on this machine."""

    def __str__(self) -> str:
        return self._place

    def where(self, name: str) -> str:
        """What people call a file of this place."""
        if self.folder is not None:
            return str(self.folder / name)
        if self._place.startswith(PIPE):
            return self._place.replace(NAME_MARK, name)
        return f"{self._place.rstrip('/')}/{name}"

    def open(self, name: str) -> BinaryIO:
        """The bytes of the manifest or a tar shard, to be read forward. Raises DataError.

        What comes from elsewhere raises it too while it is read and when its end is met, if the command failed.
        """
        # The name becomes part of a path or of a shell's command line, and comes from a file.
        assert name == MANIFEST or SHARD_NAME.fullmatch(name), name
        where = self.where(name)
        if self.folder is not None:
            try:
                return (self.folder / name).open("rb", buffering=BUFFER_BYTES)
            except OSError as error:
                raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
        url = f"{PIPE}aws s3 cp {shlex.quote(where)} -" if where.startswith("s3://") else where
        return io.BufferedReader(_FromElsewhere(url, where=where, opener=self._opener or _gopen), BUFFER_BYTES)

    def read(self, name: str) -> bytes:
        """All of a file."""
        with self.open(name) as file:
            return file.read()


class _FromElsewhere(io.RawIOBase):
    """What a URL or command gives; that it failed is an error at its end, not an end like any other."""

    def __init__(self, url: str, *, where: str, opener: Opener) -> None:
        self._where = where
        self._stream: Any = None
        self._has_ended = False
        try:
            self._stream = opener(url)
        except (OSError, ValueError) as error:  # ValueError: a scheme that gopen does not know
            raise DataError(f"{where}: cannot be opened ({error}); mend the URL, or give a pipe: command") from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._has_ended:
            return 0
        try:
            data = self._stream.read(len(buffer))
            if not data:
                self._has_ended = True
                self._stream.close()  # waits for the command, and raises if it failed
        except OSError as error:
            raise DataError(f"{self._where}: {self._failure(error)}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Also in the middle: a command that is not needed any more is ended, and how it ends does not matter."""
        if not self.closed and self._stream is not None:
            if (process := getattr(self._stream, "proc", None)) is not None:
                process.kill()
            with suppress(OSError):
                self._stream.close()
        super().close()

    def _failure(self, error: OSError) -> str:
        process = getattr(self._stream, "proc", None)
        if process is None:
            return f"reading failed ({error.strerror or error})"
        return f"the command `{_command(process.args)}` ended with exit code {process.returncode}"


def _command(arguments: str | list[str]) -> str:
    return arguments if isinstance(arguments, str) else shlex.join(arguments)


def _gopen(url: str) -> Any:
    # Here because webdataset imports torch, which reading local shards does without. Only its opener is used: its shard
    # lists split by RANK, and its tar reader is slower than ours and knows no counts.
    from webdataset.gopen import gopen

    return gopen(url)
