"""How settings name a folder of tar shards that may be elsewhere. Opening it is data/places.py's business."""

import re
from pathlib import Path

PIPE = "pipe:"
NAME_MARK = "{name}"
"""In a pipe: command, where the name of the file wanted goes."""
ELSEWHERE = re.compile(rf"{PIPE}|[a-z][a-z0-9+.-]*://")
"""How a place that is no folder of this machine begins."""


def is_elsewhere(place: Path | str) -> bool:
    """Whether this names a URL or a command."""
    return isinstance(place, str) and ELSEWHERE.match(place) is not None


def checked_place(place: Path | str | None) -> Path | str | None:
    """The place as it is. Raises ValueError for a command that does not say where the name of a file goes."""
    if isinstance(place, str) and place.startswith(PIPE) and NAME_MARK not in place:
        raise ValueError(
            f"{place!r} runs one command whatever the file: write {NAME_MARK} where the name of the tar shard goes, as "
            f"in '{PIPE}ssh host cat /data/corpus/{NAME_MARK}'"
        )
    return place
