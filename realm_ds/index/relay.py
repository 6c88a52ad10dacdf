"""A snapshot on its way down the tree: cut into chunks, passed on chunk by chunk as it comes, checked, put together.

Who passes on to whom is tree.py's business, what is done with the weights builder.py's.
"""

import hashlib
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from realm_ds.comm.mailbox import Mailbox
from realm_ds.errors import IndexFault
from realm_ds.index.messages import SnapshotChunk, SnapshotStart
from realm_ds.index.tree import SnapshotTree

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The passage tower's weights of one index version."""

    version: int
    step: int
    sha256: str
    chunks: list[bytes]
    """Of a safetensors file, in order."""

    def take(self) -> bytes:
        """The whole file, once: it is put together on the thread that builds, not while searches wait, and let go."""
        data = b"".join(self.chunks)
        self.chunks.clear()
        return data


def snapshot_messages(
    data: bytes, *, version: int, step: int, chunk_bytes: int
) -> Iterator[SnapshotStart | SnapshotChunk]:
    """What trainer 0 sends to the root of the tree, in this order; `data` is a safetensors file."""
    raw = np.frombuffer(data, dtype=np.uint8)
    starts = range(0, len(raw), chunk_bytes)
    yield SnapshotStart(
        version=version, step=step, num_bytes=len(raw), num_chunks=len(starts),
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    for index, start in enumerate(starts):
        chunk = raw[start : start + chunk_bytes]
        yield SnapshotChunk(version=version, step=step, index=index, crc32=zlib.crc32(chunk.data), data=chunk)


class SnapshotRelay:
    """One rank's place in the tree. For the thread that speaks MPI; a send returns at once, so nothing waits here."""

    def __init__(self, mailbox: Mailbox, *, tree: SnapshotTree, wants_weights: bool) -> None:
        self._mailbox, self._wants_weights = mailbox, wants_weights
        rank = mailbox.rank
        self._name = f"rank {rank}"
        self._parent, self._children = tree.parent(rank), tree.children(rank)
        self._chunk_children = tree.chunk_children(rank)
        self._assembly: _Assembly | None = None

    def take(self, source: int, message: SnapshotStart | SnapshotChunk) -> SnapshotStart | Snapshot | None:
        """Pass a message on; the start of a snapshot as it comes, then the whole of it when its last chunk is there.

        Raises IndexFault, with the rank it came from, for what is damaged, out of order or from anybody but the parent.
        """
        if source != self._parent:
            raise IndexFault(
                f"{self._name}: {type(message).__name__} of version {message.version} from rank {source}; snapshots "
                f"come here from rank {self._parent}: the ranks disagree on the tree"
            )
        children = self._children if isinstance(message, SnapshotStart) else self._chunk_children
        if isinstance(message, SnapshotChunk):
            self._check(source, message)
        for child in children:
            self._mailbox.send(message, to=child)
        if isinstance(message, SnapshotStart):
            return self._begin(message)
        return self._add(message)

    def _check(self, source: int, chunk: SnapshotChunk) -> None:
        found = zlib.crc32(np.ascontiguousarray(chunk.data).data)
        if found != chunk.crc32:
            raise IndexFault(
                f"{self._name}: chunk {chunk.index} of snapshot {chunk.version} (step {chunk.step}) came damaged from "
                f"rank {source}: its checksum is {found:08x}, not {chunk.crc32:08x}; the network or memory between them"
            )

    def _begin(self, start: SnapshotStart) -> SnapshotStart:
        if self._assembly is not None:
            raise IndexFault(
                f"{self._name}: snapshot {start.version} begins before snapshot {self._assembly.start.version} is "
                "complete: a fault of the sender"
            )
        if self._wants_weights:
            if start.num_chunks < 1:
                raise IndexFault(f"{self._name}: snapshot {start.version} (step {start.step}) holds no weights")
            self._assembly = _Assembly(start)
        return start

    def _add(self, chunk: SnapshotChunk) -> Snapshot | None:
        if self._assembly is None:
            raise IndexFault(f"{self._name}: chunk {chunk.index} of snapshot {chunk.version}, which was not announced")
        snapshot = self._assembly.add(chunk)
        if snapshot is not None:
            self._assembly = None
        return snapshot


class _Assembly:
    """A snapshot on its way, chunk by chunk."""

    def __init__(self, start: SnapshotStart) -> None:
        self.start = start
        self._chunks: list[bytes] = []
        # Digested as it comes: all at once at the end would hold up searches for half a second.
        self._sha256 = hashlib.sha256()

    def add(self, chunk: SnapshotChunk) -> Snapshot | None:
        """The snapshot once its last chunk is there."""
        start = self.start
        if (chunk.version, chunk.index) != (start.version, len(self._chunks)):
            raise IndexFault(
                f"received chunk {chunk.index} of snapshot {chunk.version} where chunk {len(self._chunks)} of "
                f"{start.num_chunks} of snapshot {start.version} was due: a fault of the sender"
            )
        self._chunks.append(chunk.data.tobytes())
        self._sha256.update(self._chunks[-1])
        if len(self._chunks) < start.num_chunks:
            return None
        num_bytes, digest = sum(map(len, self._chunks)), self._sha256.hexdigest()
        if num_bytes != start.num_bytes or digest != start.sha256:
            raise IndexFault(
                f"snapshot of index version {start.version} arrived damaged: {num_bytes} bytes, sha256 {digest[:12]}; "
                f"trainer 0 announced {start.num_bytes} bytes, {start.sha256[:12]}"
            )
        return Snapshot(version=start.version, step=start.step, sha256=digest, chunks=self._chunks)
