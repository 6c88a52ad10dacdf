"""What an index rank does all day: take messages, answer queries, and swap in the versions that its builder builds.

The only thread here that speaks to other ranks. It serves the version that a query names, parks the query until that
version is built, or fails; it never chooses one.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Backoff, Clock
from realm_ds.errors import IndexFault
from realm_ds.index.builder import Builder, Snapshot
from realm_ds.index.messages import BuildReport, Query, Reply, SnapshotChunk, SnapshotStart, Stop
from realm_ds.index.shard import BuiltShard, PassageShard
from realm_ds.index.versions import oldest_kept

log = logging.getLogger(__name__)

NONE_LAUNCHED = -1
REPORT_EVERY_S = 0.5
MOST_AHEAD = 2
"""How many versions a query may be ahead of the newest launch that has arrived here: the trainer that launches is
another than the one that asks, so a query can overtake the launch, and on the way there can be two of them."""


@dataclass(kw_only=True)
class ServeTotals:
    """What a server has counted."""

    searches: int = 0
    queries: int = 0
    search_s: float = 0.0
    parked: int = 0
    """Searches that had to wait for their version."""
    parked_s: float = 0.0
    versions_built: int = 0


@dataclass(frozen=True, kw_only=True)
class _Parked:
    source: int
    query: Query
    parked_at: float


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
        return self.finished()

    def finished(self) -> Snapshot | None:
        start = self.start
        if len(self._chunks) < start.num_chunks:
            return None
        data, digest = b"".join(self._chunks), self._sha256.hexdigest()
        if len(data) != start.num_bytes or digest != start.sha256:
            raise IndexFault(
                f"snapshot of index version {start.version} arrived damaged: {len(data)} bytes, sha256 {digest[:12]}; "
                f"trainer 0 announced {start.num_bytes} bytes, {start.sha256[:12]}"
            )
        return Snapshot(version=start.version, sha256=digest, data=data)


def serve(
    mailbox: Mailbox,
    *,
    passages: PassageShard,
    builder: Builder,
    trainer_ranks: Sequence[int],
    shard_rank: int,
    timeout_s: float,
    build_timeout_s: float,
    clock: Clock | None = None,
) -> ServeTotals:
    """Answer until every trainer has taken leave. `trainer_ranks` are world ranks, that of trainer 0 first.

    Trainers wait `build_timeout_s` for an answer, of this shard or of a slower one, and ask nothing meanwhile.

    Whatever goes wrong is raised here, so that an uncaught error of this rank ends the world with its reason.
    """
    server = _Server(
        mailbox, passages=passages, builder=builder, trainer_ranks=trainer_ranks, shard_rank=shard_rank,
        silence_s=max(timeout_s, build_timeout_s), build_timeout_s=build_timeout_s, clock=clock or Clock(),
    )  # fmt: skip
    try:
        server.run()
        mailbox.flush(timeout_s)
    except BaseException:
        builder.cancel()
        raise
    builder.close(timeout_s)
    return server.totals


class _Server:
    def __init__(
        self,
        mailbox: Mailbox,
        *,
        passages: PassageShard,
        builder: Builder,
        trainer_ranks: Sequence[int],
        shard_rank: int,
        silence_s: float,
        build_timeout_s: float,
        clock: Clock,
    ) -> None:
        self.totals = ServeTotals()
        self._mailbox = mailbox
        self._passages = passages
        self._builder = builder
        self._first_trainer = trainer_ranks[0]
        self._asking = set(trainer_ranks)
        self._name = f"shard {shard_rank}"
        self._silence_s, self._build_timeout_s = silence_s, build_timeout_s
        self._clock = clock
        self._built: dict[int, BuiltShard] = {}
        self._launched = NONE_LAUNCHED
        self._known: dict[int, float] = {}
        """When each version was launched that is not dropped: built or on its way."""
        self._parked: deque[_Parked] = deque()
        self._assembly: _Assembly | None = None
        self._reported_at = self._heard_at = clock.now()

    def run(self) -> None:
        backoff = Backoff(self._clock)
        while self._asking:
            has_worked = self._take_message()
            has_worked |= self._take_build()
            self._report_progress()
            if has_worked:
                backoff.reset()
                continue
            self._check_deadlines()
            backoff.sleep()

    def _take_message(self) -> bool:
        arrived = self._mailbox.poll()
        if arrived is None:
            return False
        source, message = arrived
        self._heard_at = self._clock.now()
        if source not in self._asking:
            raise IndexFault(
                f"{self._name}: {type(message).__name__} from rank {source}, which is no trainer or has left"
            )
        match message:
            case Query():
                self._take_query(source, message)
            case SnapshotStart() if source == self._first_trainer:
                self._launch(message)
            case SnapshotChunk() if source == self._first_trainer:
                self._take_chunk(message)
            case Stop():
                self._take_leave(source)
            case _:
                raise IndexFault(f"{self._name}: {type(message).__name__} from rank {source} is not for an index rank")
        return True

    def _take_query(self, source: int, query: Query) -> None:
        if query.version in self._built:
            self._answer(source, query)
        elif query.version in self._known or self._may_be_on_its_way(query.version):
            self._parked.append(_Parked(source=source, query=query, parked_at=self._clock.now()))
        else:
            what = "is dropped" if 0 <= query.version <= self._launched else "was never launched"
            raise IndexFault(
                f"{self._name}: rank {source}, step {query.step}, asks for index version {query.version}, which {what} "
                f"(launched: {self._launched}, held: {sorted(self._known)}); trainers disagree on the refresh schedule"
            )

    def _may_be_on_its_way(self, version: int) -> bool:
        if self._launched == NONE_LAUNCHED:
            return version >= 0
        return self._launched < version <= self._launched + MOST_AHEAD

    def _answer(self, source: int, query: Query, *, parked_s: float = 0.0) -> None:
        started_at = time.perf_counter()
        hits = self._built[query.version].search(query.vectors_BP, num_hits=query.num_hits, exclude_B=query.exclude_B)
        title_lengths_BK, body_lengths_BK, tokens = self._passages.gather(hits.places_BK)
        took_s = time.perf_counter() - started_at
        reply = Reply(
            request=query.request, step=query.step, version=query.version, search_ms=1e3 * took_s,
            parked_ms=1e3 * parked_s, uids_BK=hits.uids_BK, scores_BK=hits.scores_BK,
            title_lengths_BK=title_lengths_BK, body_lengths_BK=body_lengths_BK, tokens=tokens,
        )  # fmt: skip
        self._mailbox.send(reply, to=source)
        self.totals.searches += 1
        self.totals.queries += len(query.vectors_BP)
        self.totals.search_s += took_s
        self.totals.parked_s += parked_s

    def _launch(self, start: SnapshotStart) -> None:
        if self._assembly is not None:
            raise IndexFault(
                f"{self._name}: snapshot {start.version} begins before snapshot {self._assembly.start.version} is "
                "complete: a fault of the sender"
            )
        if self._launched != NONE_LAUNCHED and start.version != self._launched + 1:
            raise IndexFault(
                f"{self._name}: index version {start.version} is launched after {self._launched}; "
                f"{self._launched + 1} was due: trainer 0 does not follow the refresh schedule"
            )
        log.info("%s: index version %d launched at step %d", self._name, start.version, start.step)
        self._launched = start.version
        self._known[start.version] = self._clock.now()
        self._drop_before(oldest_kept(start.version))
        self._assembly = _Assembly(start)
        self._build_if_complete(self._assembly.finished())

    def _take_chunk(self, chunk: SnapshotChunk) -> None:
        if self._assembly is None:
            raise IndexFault(f"{self._name}: chunk {chunk.index} of snapshot {chunk.version}, which was not announced")
        self._build_if_complete(self._assembly.add(chunk))

    def _build_if_complete(self, snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._assembly = None
            self._builder.submit(snapshot)

    def _drop_before(self, version: int) -> None:
        self._known = {known: launched_at for known, launched_at in self._known.items() if known >= version}
        self._built = {built: shard for built, shard in self._built.items() if built >= version}
        for parked in self._parked:
            if parked.query.version < version:
                raise IndexFault(
                    f"{self._name}: index version {parked.query.version} is dropped while rank {parked.source} waits "
                    f"for it (step {parked.query.step}): trainers disagree on the refresh schedule"
                )

    def _take_build(self) -> bool:
        shard = self._builder.take()
        if shard is None:
            return False
        self.totals.versions_built += 1
        if shard.version in self._known:
            self._built[shard.version] = shard
            self._report(shard.version, len(self._passages))
            self._answer_parked(shard.version)
        return True

    def _answer_parked(self, version: int) -> None:
        still_parked = deque(parked for parked in self._parked if parked.query.version != version)
        ready = [parked for parked in self._parked if parked.query.version == version]
        self._parked = still_parked
        self.totals.parked += len(ready)
        for parked in ready:
            self._answer(parked.source, parked.query, parked_s=self._clock.now() - parked.parked_at)

    def _report_progress(self) -> None:
        progress = self._builder.progress
        if progress is not None and self._clock.now() - self._reported_at >= REPORT_EVERY_S:
            self._report(progress.version, progress.passages_done)

    def _report(self, version: int, passages_done: int) -> None:
        if self._first_trainer in self._asking and version in self._known:
            report = BuildReport(
                version=version,
                passages_done=passages_done,
                passages_total=len(self._passages),
                took_s=self._clock.now() - self._known[version],
            )
            self._mailbox.send(report, to=self._first_trainer)
        self._reported_at = self._clock.now()

    def _take_leave(self, source: int) -> None:
        self._asking.discard(source)
        self._parked = deque(parked for parked in self._parked if parked.source != source)
        self._mailbox.send(Stop(), to=source)

    def _check_deadlines(self) -> None:
        now = self._clock.now()
        for parked in self._parked:
            if parked.query.version > self._launched and now - parked.parked_at > self._build_timeout_s:
                raise IndexFault(
                    f"{self._name}: index version {parked.query.version}, for which rank {parked.source} waits (step "
                    f"{parked.query.step}), was never launched: nothing of it came within {self._build_timeout_s:g} s "
                    f"(newest: {self._launched})"
                )
        if self._builder.is_busy:
            self._heard_at = now  # Trainers may be waiting for us.
        elif now - self._heard_at > self._silence_s:
            raise IndexFault(
                f"{self._name}: heard nothing from trainers (world ranks {sorted(self._asking)}) for "
                f"{self._silence_s:g} s: one hangs or is gone, see its log; if a step or an evaluation takes that "
                "long, raise runtime.wait_timeout_s"
            )
