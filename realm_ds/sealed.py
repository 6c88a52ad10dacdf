"""A folder whose manifest vouches for every file in it: a checkpoint, an export. What the files hold is not known here.
Written whole or not at all; a checkpoint, which all trainers write into, goes about that itself (train/checkpoint.py).

No torch: whether a folder is whole is asked before any process is started.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from realm_ds.errors import CheckpointError, ConfigError, IndexFault
from realm_ds.files import publish_folder, recover_folder, remove_left_over, unfinished, write_durably

FORMAT = 2
MANIFEST = "manifest.json"


class OtherFormat(CheckpointError):
    """A folder of another version of this program, not damaged."""


@contextmanager
def sealed_folder(
    final: Path, *, what: str, remedy: str, known: Mapping[str, str] | None = None, **facts: object
) -> Iterator[Path]:
    """An empty folder to fill, which is sealed with `facts` and then takes the name `final`, replacing what had it.

    Sums that come to be `known` while it is filled are not taken again. After an error nothing of the folder is left;
    what a process left that was killed, the next one of its host that fills a folder of this name removes.
    Raises CheckpointError with `remedy` where the disk does not take it.
    """
    remove_left_over(final)
    folder = unfinished(final)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
        seal(folder, known=known, **facts)
        publish_folder(folder, final)
    except (OSError, SafetensorError, IndexFault) as error:
        # safetensors tells a full disk by an error of its own, the index store by one that speaks of a run.
        reason = error.__cause__ if isinstance(error, IndexFault) else error
        if not isinstance(reason, OSError | SafetensorError):
            raise
        raise CheckpointError(f"cannot write {what} to {final} ({reason}): {remedy}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recover_sealed(final: Path, *, what: str, **facts: object) -> None:
    """Before `sealed_folder`: mend what a stop left, and raise ConfigError unless what is there is sealed with these
    facts, so that nothing is lost for good but what is made again."""
    recover_folder(final)
    found = read_facts(final)
    if final.exists() and any(found.get(name) != value for name, value in facts.items()):
        raise ConfigError(
            f"{final} is there and is no {what}, so it is not overwritten: name another folder with --out"
        )


def seal(folder: Path, *, known: Mapping[str, str] | None = None, **facts: object) -> None:
    """Write the sums of a folder's files into its manifest, with what else is to be known.

    Files whose sums are `known`, by their names in the folder, are not read for it. Nothing is durable yet: that is
    files.publish_folder's, without which nobody may look at the folder.
    """
    known = known or {}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sums = {name: known.get(name) or sha256(folder / name) for name in names}
    (folder / MANIFEST).write_text(_text_of({"format": FORMAT, **facts, "sha256": sums}), encoding="utf-8")


def replace_file(folder: Path, name: str, text: str) -> None:
    """Give a file of a sealed folder another text, and the manifest its sum. Raises OSError or CheckpointError."""
    manifest = _read_manifest(folder)
    write_durably(folder / name, text)
    manifest["sha256"][name] = sha256(folder / name)
    write_durably(folder / MANIFEST, _text_of(manifest))


def check(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are those that it tells of, no more and no less; else CheckpointError."""
    told = _read_manifest(folder)["sha256"]
    # DeepSpeed unpickles what it finds by name, in any folder: a file that nobody vouches for must not be there.
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}
    for name in sorted(there - told.keys() - {MANIFEST}):
        raise CheckpointError(f"{folder / name} is no file of the manifest's")
    return check_told(folder)


def check_told(folder: Path, *, trusted: Collection[str] = ()) -> dict[str, Any]:
    """The manifest of a folder that has the files it tells of; else CheckpointError. What else is there is not looked
    at: only for folders that are read by name and never unpickled, beside whose files people and hubs put their own.

    What is `trusted`, a file or all files of a folder, is looked for, not into: who reads it has sums of its own.
    """
    manifest = _read_manifest(folder)
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


def _text_of(manifest: Mapping[str, object]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True)


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
