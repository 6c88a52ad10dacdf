"""The bytes that a URL or a command gives, read forward under a deadline. Which one to ask is places.py's business.

URLs go through webdataset's gopen, which starts curl, gsutil and the like; commands are started here, in a process
group of their own, so that closing ends a whole pipeline. If this process is killed instead, nothing here can act: its
commands find their pipe broken and die when they write next. The kernel's signal at a parent's death is no help, as it
comes when the thread that started the command ends. What cleans up after a rank of a world (tether.py) finds them.
"""

import io
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any

from realm_ds.config.places import PIPE as COMMAND
from realm_ds.errors import DataError
from realm_ds.observe.waiting import waiting_for

TIMEOUT_S = 600.0
"""What runtime.wait_timeout_s is unless set."""
Opener = Callable[[str], Any]
"""webdataset's gopen, or a stand-in: a URL to an open file, or to a pipe whose process is `proc`."""


class FromElsewhere(io.RawIOBase):
    """What a URL or command gives; that it failed is an error at its end, not an end like any other."""

    def __init__(self, url: str, *, where: str, timeout_s: float, opener: Opener | None = None) -> None:
        """`where` is what people call it. Without a byte for `timeout_s` it is given up. Raises DataError."""
        self._where, self._timeout_s = where, timeout_s
        self._stream: Any = None
        self._process: Popen[bytes] | None = None
        self._has_ended = False
        try:
            if url.startswith(COMMAND):
                self._stream = self._process = _start(url.removeprefix(COMMAND))
            else:
                self._stream = (opener or _gopen)(url)
                self._process = getattr(self._stream, "proc", None)
        except (OSError, ValueError) as error:  # ValueError: a scheme that gopen does not know
            raise DataError(f"{where}: cannot be opened ({error}); mend the URL, or give a pipe: command") from error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._has_ended:
            return 0
        try:
            num_bytes = self._read(buffer)
        except OSError as error:
            raise DataError(f"{self._where}: reading failed ({error.strerror or error})") from error
        if not num_bytes:
            self._has_ended = True
            self._check_end()
        return num_bytes

    def close(self) -> None:
        """Also in the middle: a command that is not needed any more is ended, and how it ends does not matter."""
        if not self.closed and self._stream is not None:
            if self._process is not None:
                _end(self._process)
            if self._stream is not self._process:
                with suppress(OSError):  # how the process ended
                    self._stream.close()
        super().close()

    def _read(self, buffer: Any) -> int:
        # From the descriptor itself: what waits in it cannot be told once a buffer stands between.
        output: Any = self._stream if self._process is None else self._process.stdout
        ready = select.poll()
        ready.register(output, select.POLLIN)
        with waiting_for(f"bytes of {self._where}"):
            if not ready.poll(1000 * self._timeout_s):
                raise self._too_late("gave no byte")
        return os.readv(output.fileno(), [buffer])

    def _check_end(self) -> None:
        if self._process is None:
            return
        try:
            with waiting_for(f"the end of what gives {self._where}"):
                exit_code = self._process.wait(self._timeout_s)
        except TimeoutExpired:
            raise self._too_late("gave all its output, but did not end") from None
        if exit_code:
            raise DataError(f"{self._where}: the command `{self._command}` ended with exit code {exit_code}")

    def _too_late(self, what: str) -> DataError:
        assert self._process is not None, self._where  # files are never waited for
        _end(self._process)  # who gets this may hold on to the file as long as to the error
        return DataError(
            f"{self._where}: the command `{self._command}` {what} within {self._timeout_s:g} seconds; find out why it "
            "does not answer, or copy the shards here (a run waits for runtime.wait_timeout_s, which can be raised)"
        )

    @property
    def _command(self) -> str:
        """For people. Of gopen's only the program: what follows may be a password."""
        assert self._process is not None, self._where
        arguments = self._process.args
        return arguments if isinstance(arguments, str) else str(arguments[0])  # type: ignore[index]


def _start(command: str) -> Popen[bytes]:
    # A group, not a session: a rank that ends kills all of its session. No input: ssh would read what is meant for us.
    return Popen(command, shell=True, stdin=DEVNULL, stdout=PIPE, bufsize=0, process_group=0)


def _end(process: Popen[bytes]) -> None:
    """Kill it and, where it leads a group, all of that; the pid of one that was waited for may be another's by now."""
    assert process.stdout is not None
    if process.returncode is None:
        leads = os.getpgid(process.pid) == process.pid
        (os.killpg if leads else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()


def _gopen(url: str) -> Any:
    # Here because webdataset imports torch, which reading local shards does without. Only its opener is used: its shard
    # lists split by RANK, and its tar reader is slower than ours and knows no counts.
    from webdataset.gopen import gopen

    return gopen(url)
