"""Files that are there whole or not at all, also when the disk is full or the power goes; what is in them is not known
here."""

import errno
import fcntl
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from glob import escape
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

_UNFINISHED = ".tmp-"
LEFT_OVER = rf"{re.escape(_UNFINISHED)}\d+@.+"
"""Pattern of what stands behind the name of a file that a process was killed over."""


def unfinished(final: Path) -> Path:
    """Where this process writes what is to be `final`: no other one does, on this host or another."""
    return final.with_name(f"{final.name}{_UNFINISHED}{os.getpid()}@{socket.gethostname()}")


def _open(path: Path) -> BinaryIO:
    return path.open("wb")


@contextmanager
def durable(path: Path, *, open_file: Callable[[Path], BinaryIO] = _open) -> Iterator[BinaryIO]:
    """A file to write, which gets its name once all of it is on the disk; what had that name stays until then."""
    temporary = unfinished(path)
    try:
        with open_file(temporary) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_durably(path: Path, data: bytes | str, *, open_file: Callable[[Path], BinaryIO] = _open) -> None:
    """All of the file (text as UTF-8) or nothing of it; makes its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with durable(path, open_file=open_file) as handle:
        handle.write(data.encode() if isinstance(data, str) else data)


SET_ASIDE = "replaced-"
"""What stands before the name of a folder that another one is about to replace."""


def publish_folder(new: Path, final: Path) -> None:
    """Make a folder durable and give it its final name beside it; what had that name is gone then. Raises OSError.

    No system call exchanges folders everywhere, so for a moment nothing has the name: recover_folder mends what a stop
    in that moment leaves.
    """
    for path in (*new.rglob("*"), new):
        sync(path)
    old = _set_aside(final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(final: Path) -> None:
    """After a stop, before anything reads the folder: put back what publish_folder had set aside, or remove it."""
    old = _set_aside(final)
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def remove_left_over(final: Path) -> None:
    """Remove the unfinished folders of this name whose processes were killed: of this host, which alone can be told."""
    for folder in final.parent.glob(f"{escape(final.name)}{_UNFINISHED}*@{escape(socket.gethostname())}"):
        process, _, _ = folder.name.removeprefix(f"{final.name}{_UNFINISHED}").partition("@")
        if process.isdecimal() and not _is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _set_aside(final: Path) -> Path:
    return final.with_name(SET_ASIDE + final.name)


def is_locked_by_us(file: BinaryIO, *, writes: Path) -> bool:
    """Take the lock of an open file, unless another process has it; closing the file, or our end, lets go of it.

    Where the file system has no locks (Lustre without -o flock) we are told that it is ours, and people, once, that
    nothing keeps two processes from writing to `writes`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _warn_of_no_locks(writes, error.strerror)
    return True


@cache
def _warn_of_no_locks(writes: Path, why: str) -> None:
    logger.warning(
        "%s: its file system has no locks (%s), so make sure that no other process writes there", writes, why
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or one's share of it, has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
