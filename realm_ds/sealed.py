"""A folder whose manifest vouches for every file in it: a checkpoint, an export. What the files hold is not known here.

No torch: whether a folder is whole is asked before any process is started.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from realm_ds.errors import CheckpointError

FORMAT = 2
MANIFEST = "manifest.json"


class OtherFormat(CheckpointError):
    """A folder of another version of this program, not damaged."""


def seal(folder: Path, *, known: Mapping[str, str] | None = None, **facts: object) -> None:
    """Write the sums of a folder's files into its manifest, with what else is to be known.

    Files whose sums are `known`, by their names in the folder, are not read for it. Nothing is durable yet: that is
    files.publish_folder's, without which nobody may look at the folder.
    """
    known = known or {}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sums = {name: known.get(name) or sha256(folder / name) for name in names}
    text = json.dumps({"format": FORMAT, **facts, "sha256": sums}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check(folder: Path, *, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The manifest of a folder whose files are those that it tells of, no more and no less; else CheckpointError.

    The files of folders that are `trusted` are looked for, not into: who reads them has sums of its own.
    """
    manifest = _read_manifest(folder)
    # DeepSpeed unpickles what it finds by name: a file that nobody vouches for must not be there.
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    for name in sorted(there - manifest["sha256"].keys() - {MANIFEST}):
        raise CheckpointError(f"{folder / name} is no file of the manifest's")
    for name, expected in manifest["sha256"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if name.split("/")[0] not in trusted and sha256(path) != expected:
            raise CheckpointError(f"{path} is damaged (its sha256 is not the manifest's)")
    return manifest


def read_facts(folder: Path) -> dict[str, Any]:
    """What a manifest tells beside its sums; nothing where there is none, or one that cannot be read."""
    try:
        return {name: value for name, value in _read_manifest(folder).items() if name != "sha256"}
    except CheckpointError:
        return {}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        kind = OtherFormat if isinstance(found, int) else CheckpointError
        raise kind(
            f"{folder} is of format {found!r}, but this realm-ds reads {FORMAT}: "
            "use the version that wrote it (code.txt in the run folder names it)"
        )
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or not sums:
        raise CheckpointError(f"{path} has no sha256 of the checkpoint's files")
    return dict(manifest)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
