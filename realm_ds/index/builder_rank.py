"""What a builder rank does all day: take snapshots, have its range of the corpus embedded, send vectors to the shards.

The only thread here that speaks to other ranks. The shards assemble, build, store and serve: server.py's business.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Backoff, Clock
from realm_ds.errors import IndexFault
from realm_ds.index.messages import BuildReport, SnapshotChunk, SnapshotStart, Stop, Vectors
from realm_ds.index.range_embedder import Piece, RangeEmbedder
from realm_ds.index.relay import Snapshot, SnapshotRelay
from realm_ds.index.server import NONE_LAUNCHED, REPORT_EVERY_S
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.versions import oldest_kept
from realm_ds.index.vitals import Tell, rebuild_figures

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShardRange:
    """An index rank and the passages of its shard, start..stop-1 of the corpus."""

    world_rank: int
    start: int
    stop: int


@dataclass(kw_only=True)
class BuilderTotals:
    """What a builder rank has counted."""

    versions_sent: int = 0
    """Whole: all of its passages."""
    passages_sent: int = 0
    bytes_sent: int = 0
    embed_s: float = 0.0


def send_vectors(
    mailbox: Mailbox,
    *,
    embedder: RangeEmbedder,
    builder_rank: int,
    shards: Sequence[ShardRange],
    tree: SnapshotTree,
    message_bytes: int,
    timeout_s: float,
    build_timeout_s: float,
    tell: Tell | None = None,
    clock: Clock | None = None,
) -> BuilderTotals:
    """Feed the shards, in the order of their ranks, until trainer 0 takes leave; no message has more vectors than
    `message_bytes`.

    Between launches nothing is due here, for as long as refresh.every_steps takes, so silence then has no deadline: it
    is the shards that hear trainers at every step, and end the world when they do not.
    """
    loop = _Loop(
        mailbox, embedder=embedder, name=f"builder {builder_rank}", shards=shards, tree=tree,
        message_bytes=message_bytes, timeout_s=timeout_s, silence_s=max(timeout_s, build_timeout_s), tell=tell,
        clock=clock or Clock(),
    )  # fmt: skip
    try:
        loop.run()
        embedder.close(timeout_s)
        mailbox.flush(timeout_s)
    except BaseException:
        embedder.cancel()
        raise
    loop.totals.embed_s = embedder.embed_s
    return loop.totals


class _Loop:
    def __init__(
        self,
        mailbox: Mailbox,
        *,
        embedder: RangeEmbedder,
        name: str,
        shards: Sequence[ShardRange],
        tree: SnapshotTree,
        message_bytes: int,
        timeout_s: float,
        silence_s: float,
        tell: Tell | None,
        clock: Clock,
    ) -> None:
        self.totals = BuilderTotals()
        self._mailbox, self._embedder, self._name = mailbox, embedder, name
        self._shards, self._message_bytes = tuple(shards), message_bytes
        self._timeout_s, self._silence_s, self._clock = timeout_s, silence_s, clock
        self._tell = tell
        self._relay = SnapshotRelay(mailbox, tree=tree, wants_weights=True)
        self._trainer, self._parent = tree.trainer, tree.parent(mailbox.rank)
        self._children = tree.children(mailbox.rank)
        # Who may send to this rank. If it left before they do, their last message to it would never be taken.
        self._speaking = {self._trainer, self._parent}
        self._launched = NONE_LAUNCHED
        self._launched_at: dict[int, float] = {}
        """When each version was launched that may still be asked for."""
        self._coming: SnapshotStart | None = None
        """The snapshot of which chunks are due."""
        self._reported_at = self._heard_at = self._told_at = clock.now()

    def run(self) -> None:
        backoff = Backoff(self._clock)
        while self._speaking:
            has_worked = self._take_message()
            has_worked |= self._take_piece()
            self._report_progress()
            if has_worked:
                backoff.reset()
                continue
            self._check_deadlines()
            backoff.sleep()
        for rank in sorted({self._trainer, *self._children, *(shard.world_rank for shard in self._shards)}):
            self._mailbox.send(Stop(), to=rank)

    def _take_message(self) -> bool:
        arrived = self._mailbox.poll()
        if arrived is None:
            return False
        source, message = arrived
        self._heard_at = self._clock.now()
        if source not in self._speaking:
            raise IndexFault(
                f"{self._name}: {type(message).__name__} from rank {source}, which has nothing to say to a builder or "
                "has taken leave"
            )
        match message:
            case SnapshotStart() | SnapshotChunk():
                taken = self._relay.take(source, message)
                if isinstance(taken, SnapshotStart):
                    self._launch(taken)
                elif isinstance(taken, Snapshot):
                    self._coming = None
                    self._embedder.submit(taken)
            case Stop():
                self._speaking.discard(source)
            case _:
                raise IndexFault(f"{self._name}: {type(message).__name__} from rank {source} is not for a builder rank")
        return True

    def _launch(self, start: SnapshotStart) -> None:
        if self._launched != NONE_LAUNCHED and start.version != self._launched + 1:
            raise IndexFault(
                f"{self._name}: index version {start.version} is launched after {self._launched}; "
                f"{self._launched + 1} was due: trainer 0 does not follow the refresh schedule"
            )
        log.info("%s: index version %d launched at step %d", self._name, start.version, start.step)
        self._launched, self._coming = start.version, start
        oldest = oldest_kept(start.version)
        self._launched_at = {version: at for version, at in self._launched_at.items() if version >= oldest}
        self._launched_at[start.version] = self._clock.now()
        self._embedder.give_up_before(oldest)

    def _take_piece(self) -> bool:
        piece = self._embedder.take()
        if piece is None:
            return False
        if piece.version in self._launched_at:
            self._send(piece)
            if piece.start + len(piece.vectors_NP) == self._embedder.stop:
                self.totals.versions_sent += 1
                self._report(piece.version, len(self._embedder))
        return True

    def _send(self, piece: Piece) -> None:
        for message, to in self._messages(piece):
            self._mailbox.send(message, to=to)
            self.totals.passages_sent += len(message.vectors_NP)
            self.totals.bytes_sent += message.vectors_NP.nbytes
        try:
            # Before the next piece, so that a shard that is slow to take them does not fill this rank's memory.
            self._mailbox.flush(self._timeout_s)
        except IndexFault as error:
            raise IndexFault(
                f"{self._name}: vectors of passages {piece.start} to {piece.start + len(piece.vectors_NP) - 1} for "
                f"index version {piece.version} (step {piece.step}): {error}; it hangs or is gone, see its log"
            ) from error

    def _messages(self, piece: Piece) -> Iterator[tuple[Vectors, int]]:
        """The piece cut to the shards and to messages of bounded size, each with the world rank that it goes to."""
        row_bytes = piece.vectors_NP.itemsize * piece.vectors_NP.shape[1]
        rows = max(1, self._message_bytes // row_bytes)
        for number, shard in enumerate(self._shards):
            start, stop = max(shard.start, piece.start), min(shard.stop, piece.start + len(piece.vectors_NP))
            for first in range(start, stop, rows):
                place = first - piece.start
                vectors_NP = piece.vectors_NP[place : place + min(rows, stop - first)]
                yield (
                    Vectors(shard=number, version=piece.version, step=piece.step, start=first, vectors_NP=vectors_NP),
                    shard.world_rank,
                )

    def _report_progress(self) -> None:
        progress, now = self._embedder.progress, self._clock.now()
        if self._tell is not None and now - self._told_at >= REPORT_EVERY_S:
            self._told_at = now
            self._tell(**self._figures(now))
        if progress is not None and now - self._reported_at >= REPORT_EVERY_S:
            # All of them are done only when the last are on their way.
            self._report(progress.version, min(progress.passages_done, len(self._embedder) - 1))

    def _figures(self, now: float) -> dict[str, float]:
        progress = self._embedder.progress
        figures: dict[str, float] = {"version": self._launched, "passages_sent": self.totals.passages_sent}
        if progress is None:
            return figures
        took_s = now - self._launched_at.get(progress.version, now)
        return figures | rebuild_figures(
            progress.version, done=progress.passages_done, total=len(self._embedder), took_s=took_s
        )

    def _report(self, version: int, passages_done: int) -> None:
        if self._trainer in self._speaking and version in self._launched_at:
            report = BuildReport(
                version=version, passages_done=passages_done, passages_total=len(self._embedder),
                took_s=self._clock.now() - self._launched_at[version],
            )  # fmt: skip
            self._mailbox.send(report, to=self._trainer)
        self._reported_at = self._clock.now()

    def _check_deadlines(self) -> None:
        silent_s = self._clock.now() - self._heard_at
        if len(self._speaking) < len({self._trainer, self._parent}) and silent_s > self._timeout_s:
            raise IndexFault(
                f"{self._name}: waited {self._timeout_s:g} s for rank(s) {sorted(self._speaking)} to take leave too"
            )
        if self._coming is not None and silent_s > self._timeout_s:
            raise IndexFault(
                f"{self._name}: nothing came from rank {self._parent} for {self._timeout_s:g} s, in the middle of the "
                f"snapshot of index version {self._coming.version} (step {self._coming.step}): it hangs or is gone, "
                "see its log; if a step takes that long, raise runtime.wait_timeout_s"
            )
        if self._launched == NONE_LAUNCHED and silent_s > self._silence_s:
            raise IndexFault(
                f"{self._name}: no index version was launched within {self._silence_s:g} s: trainer 0 (world rank "
                f"{self._trainer}) hangs or is gone, see its log; if it takes that long to start, raise "
                "runtime.wait_timeout_s"
            )
