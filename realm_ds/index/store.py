"""Index versions on disk: passage vectors, written part by part by the shards that embedded them, and read back by any
number of shards. When to write and what to do with the vectors is builder.py's business.

    index/version-00003/part-000000000-000005000.npy    vectors of passages 0 to 4999 in corpus order, float32
    index/version-00003/part-000000000-000005000.json   what they are of, and their sha256; written last
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.files import durable, write_durably

log = logging.getLogger(__name__)

FORMAT = 1
VERSION_NAME = re.compile(r"version-(\d{5,})")
PART_NAME = re.compile(r"part-(\d{9,})-(\d{9,})\.json")


def version_folder(index_folder: Path, version: int) -> Path:
    """Where everything of one index version lives."""
    return index_folder / f"version-{version:05d}"


def prune(index_folder: Path, *, keep: Collection[int]) -> None:
    """Delete the folders of all versions but those that a checkpoint or the run still needs."""
    for folder in sorted(index_folder.glob("version-*")):
        match = VERSION_NAME.fullmatch(folder.name)
        if match and int(match[1]) not in keep:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class PartManifest:
    """What a part is of. A part is used only where all of this is as expected."""

    version: int
    start: int
    stop: int
    """Passages start..stop-1 of the corpus."""
    snapshot_sha256: str
    """Of the snapshot that the passages were embedded with."""
    corpus_sha256: str
    """Of the corpus manifest: the passages themselves and their order."""
    vectors_sha256: str
    """Of the .npy file."""
    format: int = FORMAT


class IndexStore:
    """The `index/` folder of a run, for one corpus. Shards write and read it without knowing of one another."""

    def __init__(
        self, folder: Path, *, corpus_sha256: str, open_file: Callable[[Path], BinaryIO] = lambda path: path.open("wb")
    ) -> None:
        self._folder = folder
        self._corpus_sha256 = corpus_sha256
        self._open_file = open_file

    def save(self, vectors_NP: np.ndarray, *, version: int, snapshot_sha256: str, start: int) -> None:
        """Write one part, or nothing of it that could be mistaken for one."""
        stop = start + len(vectors_NP)
        path = version_folder(self._folder, version) / f"part-{start:09d}-{stop:09d}.npy"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            with durable(path, open_file=self._open_file) as handle:
                np.save(handle, np.ascontiguousarray(vectors_NP, dtype=np.float32), allow_pickle=False)
            manifest = PartManifest(
                version=version, start=start, stop=stop, snapshot_sha256=snapshot_sha256,
                corpus_sha256=self._corpus_sha256,
                # Of what we meant to write: reading it back would only show what the cache holds.
                vectors_sha256=_npy_sha256(vectors_NP),
            )  # fmt: skip
            text = json.dumps(asdict(manifest), indent=1) + "\n"
            write_durably(path.with_suffix(".json"), text, open_file=self._open_file)
        except OSError as error:
            raise IndexFault(
                f"cannot write index version {version} to {path}: {error.strerror or error}; "
                "free space there or choose another run folder, and resume"
            ) from error

    def load(self, *, version: int, snapshot_sha256: str, start: int, stop: int, width: int) -> np.ndarray | None:
        """Vectors of passages start..stop-1, from whichever parts hold them; None unless all are there, intact.

        Parts that are damaged are named in the log and never used: the caller builds the version again.
        """
        vectors_NP = np.empty((stop - start, width), dtype=np.float32)
        at = start
        for path, first, last in self._parts(version):
            if first > at:
                break
            if last <= at or at >= stop:
                continue
            part = self._read(path, version=version, snapshot_sha256=snapshot_sha256, shape=(last - first, width))
            if part is None:
                continue  # Another part, of a run with another number of shards, may hold the same passages.
            end = min(last, stop)
            vectors_NP[at - start : end - start] = part[at - first : end - first]
            at = end
        return vectors_NP if at == stop else None

    def _parts(self, version: int) -> list[tuple[Path, int, int]]:
        """Manifests of the version's parts with their ranges; by start, the longest first."""
        found = []
        for path in version_folder(self._folder, version).glob("part-*.json"):
            match = PART_NAME.fullmatch(path.name)
            if match:
                found.append((path, int(match[1]), int(match[2])))
        return sorted(found, key=lambda part: (part[1], -part[2]))

    def _read(self, path: Path, *, version: int, snapshot_sha256: str, shape: tuple[int, int]) -> np.ndarray | None:
        vectors_path = path.with_suffix(".npy")
        try:
            manifest = PartManifest(**json.loads(path.read_bytes()))
            wanted = (FORMAT, version, shape[0], snapshot_sha256, self._corpus_sha256)
            found = (
                manifest.format, manifest.version, manifest.stop - manifest.start, manifest.snapshot_sha256,
                manifest.corpus_sha256,
            )  # fmt: skip
            if found != wanted:
                log.info("%s is of another snapshot, corpus or format: not used", path)
                return None
            with vectors_path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            if digest != manifest.vectors_sha256:
                raise ValueError(f"sha256 is {digest[:12]}, but its manifest says {manifest.vectors_sha256[:12]}")
            vectors_NP: np.ndarray = np.load(vectors_path, mmap_mode="r", allow_pickle=False)
            if vectors_NP.shape != shape or vectors_NP.dtype != np.float32:
                raise ValueError(f"holds {vectors_NP.dtype} {vectors_NP.shape}, not float32 {shape}")
            return vectors_NP
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s is damaged (%s): its passages are embedded again", vectors_path, error)
            return None


class _Digest:
    """A file that only takes the sha256 of what is written."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return len(data)


def _npy_sha256(vectors_NP: np.ndarray) -> str:
    digest = _Digest()
    np.lib.format.write_array(digest, np.ascontiguousarray(vectors_NP, dtype=np.float32), allow_pickle=False)
    return digest.sha256.hexdigest()
