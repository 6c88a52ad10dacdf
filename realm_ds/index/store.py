"""Index versions on disk: passage vectors, written part by part by whoever embedded them, and read back by any number
of shards. When to write and what to do with the vectors is builder.py's business.

    index/version-00003/part-000000000-000005000.npy    vectors of passages 0 to 4999 in corpus order, fp32 or fp16
    index/version-00003/part-000000000-000005000.json   what they are of, and their sha256; written last

Shapes: N passages, R rows of a piece, P embedding.
"""

import hashlib
import io
import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.files import durable, write_durably

log = logging.getLogger(__name__)

FORMAT = 2
SNAPSHOT_FILE = "snapshot.safetensors"
SNAPSHOT_SUM = "snapshot.json"
"""Beside it, written last: its sha256, and the step that it was taken at."""
"""Weights of both towers of a version, in its folder: train/refresh.py writes it."""
VERSION_NAME = re.compile(r"version-(\d{5,})")
PART_NAME = re.compile(r"part-(\d{9,})-(\d{9,})\.json")
PIECE_BYTES = 4 * 2**20
"""Vectors are written, read and digested in pieces of this size: no second copy of them all is ever in memory."""

Dtype = Literal["fp32", "fp16"]
NUMPY_DTYPES: dict[str, np.dtype] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}


def version_folder(index_folder: Path, version: int) -> Path:
    """Where everything of one index version lives."""
    return index_folder / f"version-{version:05d}"


def stored_versions(index_folder: Path) -> list[int]:
    """Versions that have a folder, ascending; whether anything whole is in them is another matter."""
    matches = [VERSION_NAME.fullmatch(folder.name) for folder in index_folder.glob("version-*") if folder.is_dir()]
    return sorted(int(match[1]) for match in matches if match)


def prune(index_folder: Path, *, keep: Collection[int], below: int) -> None:
    """Delete the folders of versions older than `below`, the oldest that the run itself still needs, but for those that
    a checkpoint needs. Younger ones may be being written at this moment."""
    for version in stored_versions(index_folder):
        if version < below and version not in keep:
            shutil.rmtree(version_folder(index_folder, version), ignore_errors=True)


class PartFault(Exception):
    """Why a part cannot be used, as what follows its name and "is"."""


@dataclass(frozen=True, kw_only=True)
class PartManifest:
    """What a part is of. A part is used only where all of this is as expected."""

    version: int
    start: int
    stop: int
    """Passages start..stop-1 of the corpus."""
    width: int
    dtype: Dtype
    snapshot_sha256: str
    """Of the snapshot that the passages were embedded with."""
    corpus_sha256: str
    """Of the corpus manifest: the passages themselves and their order."""
    vectors_sha256: str
    """Of the .npy file."""
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Part:
    """Vectors of passages start..stop-1, as the names of two files promise them."""

    version: int
    start: int
    stop: int
    vectors_path: Path

    @property
    def manifest_path(self) -> Path:
        return self.vectors_path.with_suffix(".json")

    def manifest(self) -> PartManifest:
        """What the part is of; raises PartFault if that cannot be told, or is not what its name says."""
        try:
            data = json.loads(self.manifest_path.read_bytes())
        except (OSError, ValueError) as error:
            raise PartFault(f"damaged ({self.manifest_path.name}: {error})") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise PartFault(f"of format {found!r}, but this realm-ds reads {FORMAT}")
        try:
            manifest = PartManifest(**data)
        except TypeError as error:
            raise PartFault(f"damaged ({self.manifest_path.name}: {error})") from error
        named, told = (self.version, self.start, self.stop), (manifest.version, manifest.start, manifest.stop)
        if named != told:
            raise PartFault(f"damaged (its manifest is of version {told[0]}, passages {told[1]} to {told[2]})")
        if manifest.dtype not in tuple(NUMPY_DTYPES) or type(manifest.width) is not int or manifest.width < 1:
            raise PartFault(f"damaged (its manifest tells of {manifest.dtype!r} vectors, {manifest.width!r} wide)")
        return manifest

    def pieces(self, manifest: PartManifest) -> Iterator[tuple[int, np.ndarray]]:
        """(row, vectors [R, P]) from the first row to the last. One buffer serves all pieces.

        Whether they are what was written is known at the end only: until then PartFault may be raised.
        """
        shape = (self.stop - self.start, manifest.width)
        dtype = NUMPY_DTYPES[manifest.dtype]
        digest = hashlib.sha256()
        try:
            with self.vectors_path.open("rb") as handle:
                digest.update(_read_header(handle, dtype=dtype, shape=shape))
                step = _rows_at_once(shape[1])
                buffer_RP = np.empty((min(shape[0], step), shape[1]), dtype=dtype)
                for row in range(0, shape[0], step):
                    piece_RP = buffer_RP[: shape[0] - row]
                    if handle.readinto(piece_RP.data.cast("B")) != piece_RP.nbytes:
                        raise PartFault(f"damaged (it ends within passages {row} to {row + len(piece_RP) - 1} of it)")
                    digest.update(piece_RP.data)
                    yield row, piece_RP
                digest.update(handle.read(1))  # Nothing, unless something was added.
        except FileNotFoundError as error:
            raise PartFault("missing") from error
        except OSError as error:
            raise PartFault(f"damaged ({error.strerror or error})") from error
        found, told = digest.hexdigest(), str(manifest.vectors_sha256)
        if found != told:
            raise PartFault(f"damaged (its sha256 is {found[:12]}, but its manifest says {told[:12]})")

    def mapped(self, manifest: PartManifest) -> np.ndarray:
        """All its vectors, not read into memory; raises PartFault unless they are what was written."""
        for _ in self.pieces(manifest):
            pass
        vectors_NP: np.ndarray = np.load(self.vectors_path, mmap_mode="r", allow_pickle=False)
        return vectors_NP


def write_snapshot(index_folder: Path, version: int, data: bytes, *, step: int) -> None:
    """Keep the weights that a version is of, a safetensors file, so that a resumed run can launch it again."""
    folder = version_folder(index_folder, version)
    write_durably(folder / SNAPSHOT_FILE, data)
    write_durably(folder / SNAPSHOT_SUM, json.dumps({"step": step, "sha256": hashlib.sha256(data).hexdigest()}) + "\n")


def check_snapshot(index_folder: Path, version: int) -> int:
    """The step that the version's weights are of, once they are seen to be those that were written.

    Raises PartFault if they are missing or damaged.
    """
    folder = version_folder(index_folder, version)
    try:
        told = json.loads((folder / SNAPSHOT_SUM).read_bytes())
        with (folder / SNAPSHOT_FILE).open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        step = int(told["step"])
    except FileNotFoundError as error:
        raise PartFault(f"missing ({Path(error.filename).name})") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PartFault(f"damaged ({error})") from error
    if found != told.get("sha256"):
        raise PartFault(f"damaged (its sha256 is {found[:12]}, but {SNAPSHOT_SUM} says {str(told['sha256'])[:12]})")
    return step


def stored_parts(index_folder: Path, version: int) -> list[Part]:
    """The version's parts, by start, the longest first. They may overlap, and leave gaps."""
    found = []
    for path in version_folder(index_folder, version).glob("part-*.json"):
        match = PART_NAME.fullmatch(path.name)
        if match:
            part = Part(
                version=version, start=int(match[1]), stop=int(match[2]), vectors_path=path.with_suffix(".npy")
            )  # fmt: skip
            found.append(part)
    return sorted(found, key=lambda part: (part.start, -part.stop))


class IndexStore:
    """The `index/` folder of a run, for one corpus. Ranks write and read it without knowing of one another."""

    def __init__(
        self,
        folder: Path,
        *,
        corpus_sha256: str,
        dtype: Dtype = "fp32",
        open_file: Callable[[Path], BinaryIO] = lambda path: path.open("wb"),
    ) -> None:
        """`dtype` is what parts are written in; they are read whatever they were written in."""
        self._folder = folder
        self._corpus_sha256 = corpus_sha256
        self._dtype: Dtype = dtype
        self._open_file = open_file

    def save(self, vectors_NP: np.ndarray, *, version: int, snapshot_sha256: str, start: int) -> None:
        """Write one part, or nothing of it that could be mistaken for one."""
        stop = start + len(vectors_NP)
        path = version_folder(self._folder, version) / f"part-{start:09d}-{stop:09d}.npy"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            with durable(path, open_file=self._open_file) as handle:
                vectors_sha256 = _write(vectors_NP, handle, dtype=NUMPY_DTYPES[self._dtype])
            manifest = PartManifest(
                version=version, start=start, stop=stop, width=vectors_NP.shape[1], dtype=self._dtype,
                snapshot_sha256=snapshot_sha256, corpus_sha256=self._corpus_sha256, vectors_sha256=vectors_sha256,
            )  # fmt: skip
            text = json.dumps(asdict(manifest), indent=1) + "\n"
            write_durably(path.with_suffix(".json"), text, open_file=self._open_file)
        except OSError as error:
            raise IndexFault(
                f"cannot write index version {version} to {path}: {error.strerror or error}; "
                "free space there or choose another run folder, and resume"
            ) from error

    def has_parts(self, version: int) -> bool:
        """Whether there is anything of a version; `load` tells whether it is all and whole."""
        return bool(stored_parts(self._folder, version))

    def load(self, out_NP: np.ndarray, *, version: int, snapshot_sha256: str, start: int) -> bool:
        """Fill `out_NP` (float32 or float16) with the vectors of passages start.., from whichever parts hold them.

        False unless all are there, intact: what is in `out_NP` then means nothing. Parts that are damaged are named in
        the log and never used: the caller builds the version again. Parts of float32 are rounded where `out_NP` is of
        float16, as building into it would have done; parts of float16 are not used where it is of float32.
        """
        stop = start + len(out_NP)
        at = start
        for part in stored_parts(self._folder, version):
            if part.start > at:
                break
            if part.stop <= at or at >= stop:
                continue
            end = min(part.stop, stop)
            # If it fails, another part, of a run with another number of shards, may hold the same passages.
            if self._fill(out_NP[at - start : end - start], part, skip=at - part.start, snapshot=snapshot_sha256):
                at = end
        return at == stop

    def mapped(self, *, version: int, snapshot_sha256: str, num_passages: int) -> list[np.ndarray] | None:
        """The vectors of all passages where they lie on disk, part after part, checked; None while parts are missing.

        Raises IndexFault where the parts that are there are damaged.
        """
        rows, at = [], 0
        for part in stored_parts(self._folder, version):
            with suppress(PartFault):  # Another part may hold the same passages.
                manifest = part.manifest()
                is_of_it = (manifest.snapshot_sha256, manifest.corpus_sha256) == (snapshot_sha256, self._corpus_sha256)
                if is_of_it and part.start <= at < part.stop:
                    rows.append((part, manifest, at - part.start))
                    at = part.stop
        if at != num_passages:
            return None
        try:
            return [part.mapped(manifest)[skip:] for part, manifest, skip in rows]
        except PartFault as fault:
            raise IndexFault(
                f"a part of index version {version} in {self._folder} is {fault}: resume the run"
            ) from fault

    def _fill(self, out_NP: np.ndarray, part: Part, *, skip: int, snapshot: str) -> bool:
        """Whether the part, intact and of what is asked for, filled `out_NP` with its rows from `skip` on."""
        try:
            manifest = part.manifest()
            found = (manifest.snapshot_sha256, manifest.corpus_sha256, manifest.width)
            if found != (snapshot, self._corpus_sha256, out_NP.shape[1]):
                log.info("%s is of another snapshot, corpus or width: not used", part.vectors_path)
                return False
            if NUMPY_DTYPES[manifest.dtype].itemsize < out_NP.dtype.itemsize:
                log.info("%s was rounded to %s: not used for index.vectors=fp32", part.vectors_path, manifest.dtype)
                return False
            is_finite = True
            for row, piece_RP in part.pieces(manifest):
                low, high = max(row, skip), min(row + len(piece_RP), skip + len(out_NP))
                if low < high:
                    with np.errstate(over="ignore"):
                        out_NP[low - skip : high - skip] = piece_RP[low - row : high - row]
                    is_finite &= bool(np.isfinite(out_NP[low - skip : high - skip]).all())
            # Known to be whole only now: before, what overflows might have been damage.
            if not is_finite:
                log.warning("%s holds vectors beyond what %s can: not used", part.vectors_path, out_NP.dtype)
                return False
        except PartFault as fault:
            log.warning("%s is %s: not used", part.vectors_path, fault)
            return False
        return True


def _write(vectors_NP: np.ndarray, handle: BinaryIO, *, dtype: np.dtype) -> str:
    """Write a .npy file piece by piece; returns its sha256.

    That is of what we meant to write: reading it back would only show what the cache holds.
    """
    header = io.BytesIO()
    shape = {"descr": dtype.str, "fortran_order": False, "shape": vectors_NP.shape}
    np.lib.format.write_array_header_1_0(header, shape)
    handle.write(header.getvalue())
    digest = hashlib.sha256(header.getvalue())
    step = _rows_at_once(vectors_NP.shape[1])
    for row in range(0, len(vectors_NP), step):
        piece = np.ascontiguousarray(_as_dtype(vectors_NP[row : row + step], dtype)).data.cast("B")
        handle.write(piece)
        digest.update(piece)
    return digest.hexdigest()


def _read_header(handle: BinaryIO, *, dtype: np.dtype, shape: tuple[int, int]) -> bytes:
    """The bytes before the vectors; raises PartFault unless they tell of such vectors."""
    try:
        np.lib.format.read_magic(handle)
        found = np.lib.format.read_array_header_1_0(handle)
    except Exception as error:  # Of a damaged header, also what Python's own tokenizer raises.
        raise PartFault(f"damaged (no .npy file: {error})") from error
    if found != (shape, False, dtype):
        raise PartFault(f"damaged (it holds {found[2]} {found[0]}, not {dtype} {shape})")
    size = handle.tell()
    handle.seek(0)
    return handle.read(size)


def _as_dtype(vectors_RP: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The vectors themselves where they are of that dtype; raises IndexFault for what float16 cannot hold."""
    if vectors_RP.dtype == dtype:
        return vectors_RP
    with np.errstate(over="ignore"):
        cast_RP = vectors_RP.astype(dtype)
    if vectors_RP.dtype.itemsize > dtype.itemsize and not np.isfinite(cast_RP).all():
        raise IndexFault(
            f"passage vectors reach {np.abs(vectors_RP).max():g}, and fp16 holds at most {np.finfo(dtype).max:g}: "
            "set index.vectors=fp32"
        )
    return cast_RP


def _rows_at_once(width: int) -> int:
    return max(1, PIECE_BYTES // (4 * max(1, width)))
