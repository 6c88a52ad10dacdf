"""Where a folder of tar shards is: on this machine, behind a URL, or behind a command. What is in it is shards.py's.

    /data/corpus                       a folder here
    s3://bucket/corpus                 through `aws s3 cp`; gs:// and hf:// likewise through their own commands
    https://host/corpus                through curl
    pipe:ssh host cat /data/{name}     any command; {name} is the file wanted

How those are read is elsewhere.py's business. A file is read once from its begin to its end, and nothing is tried twice
here: what failed is said, and a resumed run goes on exactly. Until a transfer has begun, commands may try again by
themselves: curl as gopen starts it does so up to 30 times, 2 seconds apart.
"""

import io
import re
import shlex
from pathlib import Path
from typing import BinaryIO

from realm_ds.config.places import NAME_MARK, PIPE, checked_place, is_elsewhere
from realm_ds.data.elsewhere import TIMEOUT_S, FromElsewhere, Opener
from realm_ds.errors import ConfigError, DataError

MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"shard-\d{5,}\.tar")
BUFFER_BYTES = 1 << 20


class Place:
    """A folder of tar shards, opened by the names of the files in it."""

    def __init__(self, place: Path | str, *, timeout_s: float = TIMEOUT_S, opener: Opener | None = None) -> None:
        """Opens nothing. What comes from elsewhere is given up after `timeout_s` without a byte.

        Raises ConfigError for a command that would give the same whatever file is wanted.
        """
        try:
            checked_place(place)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._place = str(place)
        self._timeout_s, self._opener = timeout_s, opener
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

    def open(self, name: str, *, buffer_bytes: int = BUFFER_BYTES) -> BinaryIO:
        """The bytes of the manifest or a tar shard, to be read forward. Raises DataError.

        What comes from elsewhere raises it too while it is read and when its end is met, if the command failed or gives
        nothing.
        """
        # The name becomes part of a path or of a shell's command line, and comes from a file.
        assert name == MANIFEST or SHARD_NAME.fullmatch(name), name
        where = self.where(name)
        if self.folder is not None:
            try:
                return (self.folder / name).open("rb", buffering=buffer_bytes)
            except OSError as error:
                raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
        url = f"{PIPE}aws s3 cp {shlex.quote(where)} -" if where.startswith("s3://") else where
        source = FromElsewhere(url, where=where, timeout_s=self._timeout_s, opener=self._opener)
        return io.BufferedReader(source, buffer_bytes)

    def read(self, name: str) -> bytes:
        """All of a file."""
        with self.open(name) as file:
            return file.read()
