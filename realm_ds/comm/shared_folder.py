"""Do all ranks see one folder? The first leaves a token in it, the others look for that very token."""

import uuid
from contextlib import suppress
from pathlib import Path

from realm_ds.comm.waiting import Clock
from realm_ds.files import write_durably

TOKEN_FILE = ".world"
"""In a run folder, of the last world that was started in it."""
SEEN_WITHIN_S = 15.0
"""A network file system may show a file late, by what it remembers of the folder."""
LOOK_EVERY_S = 0.25


def new_token() -> str:
    """One that nobody else has."""
    return uuid.uuid4().hex


def leave_token(path: Path, *, token: str = "") -> str:
    """Write it to the file, a new one unless it is given, and return it. Raises OSError."""
    token = token or new_token()
    write_durably(path, token)
    return token


def sees_token(path: Path, token: str, *, timeout_s: float = SEEN_WITHIN_S, clock: Clock | None = None) -> bool:
    """Whether the file holds this token, now or within `timeout_s`."""
    clock = clock or Clock()
    deadline = clock.now() + timeout_s
    while True:
        with suppress(OSError):
            if path.read_text(encoding="utf-8", errors="replace") == token:
                return True
        if clock.now() >= deadline:
            return False
        for folder in (path.parent.parent, path.parent):
            with suppress(OSError):
                next(folder.iterdir(), None)  # opening it has NFS ask the server again what is there
        clock.sleep(LOOK_EVERY_S)
