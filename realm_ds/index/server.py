"""What an index rank does all day: take messages, answer queries, and swap in the versions that its builder builds.

The only thread here that speaks to other ranks. It serves the version that a query names, parks the query until that
version is built, or fails; it never chooses one. How waiting queries are searched together is answering.py's business.
"""

import logging
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Backoff, Clock
from realm_ds.errors import IndexFault
from realm_ds.index.answering import Asked, Totals, answer_fetch, answer_queries
from realm_ds.index.assembly import VectorAssembly
from realm_ds.index.builder import Builder, Embedded
from realm_ds.index.faiss_index import use_threads
from realm_ds.index.messages import BuildReport, Fetch, Query, SnapshotChunk, SnapshotStart, Stop, Vectors
from realm_ds.index.passages import PassageShard
from realm_ds.index.relay import Snapshot, SnapshotRelay
from realm_ds.index.shard import BuiltShard
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.versions import oldest_kept
from realm_ds.index.vitals import Tell, rebuild_figures

log = logging.getLogger(__name__)

NONE_LAUNCHED = -1
REPORT_EVERY_S = 0.5
SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps the interpreter that another waits for. With Python's own 5 ms a search would wait so long
whenever the builder's thread collates passages."""
MOST_TOGETHER = 64
"""Requests taken before the first of them is answered."""
MOST_AHEAD = 2
"""How many versions a query may be ahead of the newest launch that has arrived here: the trainer that launches is
another than the one that asks, so a query can overtake the launch, and on the way there can be two of them."""


@dataclass(kw_only=True)
class ServeTotals(Totals):
    """What a server has counted."""

    parked: int = 0
    """Searches that had to wait for their version."""
    versions_built: int = 0
    late_vectors: int = 0
    """Messages of builder ranks for versions that nobody asks for any more."""


def prepare_serving(num_threads: int) -> None:
    """Before `serve`, on its thread: searches get so many CPU threads."""
    share_interpreter()
    use_threads(num_threads)


def share_interpreter() -> None:
    """For a rank of two threads, of which one must answer soon."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def serve(
    mailbox: Mailbox,
    *,
    passages: PassageShard,
    builder: Builder,
    tree: SnapshotTree,
    trainer_ranks: Sequence[int],
    shard_rank: int,
    timeout_s: float,
    build_timeout_s: float,
    tell: Tell | None = None,
    clock: Clock | None = None,
) -> ServeTotals:
    """Answer until everyone who may send anything has taken leave. `trainer_ranks` are world ranks, trainer 0's first;
    `tell` is told now and then how it goes.

    Trainers wait `build_timeout_s` for an answer, of this shard or of a slower one, and ask nothing meanwhile.

    Whatever goes wrong is raised here, so that an uncaught error of this rank ends the world with its reason.
    """
    server = _Server(
        mailbox, passages=passages, builder=builder, tree=tree, trainer_ranks=trainer_ranks, shard_rank=shard_rank,
        silence_s=max(timeout_s, build_timeout_s), build_timeout_s=build_timeout_s, tell=tell, clock=clock or Clock(),
    )  # fmt: skip
    try:
        server.run()
        mailbox.flush(timeout_s)
    except BaseException:
        builder.cancel()
        raise
    builder.close(timeout_s, early=server.ends_early)
    return server.totals


class _Server:
    def __init__(
        self,
        mailbox: Mailbox,
        *,
        passages: PassageShard,
        builder: Builder,
        tree: SnapshotTree,
        trainer_ranks: Sequence[int],
        shard_rank: int,
        silence_s: float,
        build_timeout_s: float,
        tell: Tell | None,
        clock: Clock,
    ) -> None:
        self.totals = ServeTotals()
        self.ends_early = False
        self._mailbox = mailbox
        self._passages, self._builder = passages, builder
        self._first_trainer = trainer_ranks[0]
        self._asking = set(trainer_ranks)
        self._parent, self._children = tree.parent(mailbox.rank), tree.children(mailbox.rank)
        self._embeds = mailbox.rank in tree.embedders
        self._builder_ranks = frozenset() if self._embeds else frozenset(tree.embedders)
        self._senders = self._asking | {self._parent} | self._builder_ranks
        """Who may still send: while a message can be under way to this rank, it must be here to take it."""
        self._relay = SnapshotRelay(mailbox, tree=tree, wants_weights=self._embeds)
        self._shard_rank, self._name = shard_rank, f"shard {shard_rank}"
        self._silence_s, self._build_timeout_s = silence_s, build_timeout_s
        self._clock, self._tell = clock, tell
        self._built: dict[int, BuiltShard] = {}
        self._launched = NONE_LAUNCHED
        self._known: dict[int, SnapshotStart] = {}
        """The versions that are not dropped: built or on their way."""
        self._launched_at: dict[int, float] = {}
        self._assemblies: dict[int, VectorAssembly] = {}
        """Vectors that builder ranks have sent, by version."""
        self._submitted: set[int] = set()
        """Versions of which all vectors had come from builder ranks."""
        self._ready: list[Asked] = []
        self._audits: deque[Asked] = deque()
        """Searches that nobody waits for, as exact ones take long: done one at a time, when there is nothing else."""
        self._parked: deque[Asked] = deque()
        self._reported_at = self._heard_at = self._told_at = clock.now()

    def run(self) -> None:
        backoff = Backoff(self._clock)
        while self._senders:
            has_worked = self._take_messages()
            self._answer()
            has_worked |= self._take_build() or self._answer_audit()
            self._report_progress()
            if has_worked:
                backoff.reset()
                continue
            self._check_deadlines()
            backoff.sleep()

    def _take_messages(self) -> bool:
        """All queries that have arrived, to be searched together, and at most one message of another kind: a chunk of
        weights must not hold up a search by more than its own time."""
        has_taken = False
        while (arrived := self._mailbox.poll()) is not None:
            has_taken = True
            self._heard_at = self._clock.now()
            self._take(*arrived)
            if not isinstance(arrived[1], Query) or len(self._ready) >= MOST_TOGETHER:
                break
        return has_taken

    def _take(self, source: int, message: object) -> None:
        if source not in self._senders:
            raise IndexFault(
                f"{self._name}: {type(message).__name__} from rank {source}, which is no trainer or has left"
            )
        match message:
            case Query() if source in self._asking:
                self._take_query(source, message)
            case Fetch() if source in self._asking:
                self._check_address(source, message)
                fetched = answer_fetch(message, self._passages, self._built.get(message.version))
                self._mailbox.send(fetched, to=source)
            case SnapshotStart() | SnapshotChunk():
                self._take_snapshot(source, message)
            case Vectors() if source in self._builder_ranks:
                self._take_vectors(source, message)
            case Stop():
                self.ends_early |= bool(message.is_early)
                self._take_leave(source)
            case _:
                raise IndexFault(f"{self._name}: {type(message).__name__} from rank {source} is not for an index rank")

    def _take_query(self, source: int, query: Query) -> None:
        self._check_address(source, query)
        asked = Asked(source=source, query=query, asked_at=self._clock.now())
        if query.is_audit:
            self._audits.append(asked)
        elif query.version in self._built:
            self._ready.append(asked)
        elif self._may_still_come(query.version):
            self._parked.append(asked)
        else:
            what = "is dropped" if 0 <= query.version <= self._launched else "was never launched"
            raise IndexFault(
                f"{self._name}: rank {source}, step {query.step}, asks for index version {query.version}, which {what} "
                f"(launched: {self._launched}, held: {sorted(self._known)}); trainers disagree on the refresh schedule"
            )

    def _check_address(self, source: int, message: Query | Fetch) -> None:
        if message.shard != self._shard_rank:
            raise IndexFault(
                f"{self._name}: {type(message).__name__} of rank {source}, step {message.step}, index version "
                f"{message.version}, is for shard {message.shard}: the ranks disagree on who holds which shard"
            )

    def _may_be_on_its_way(self, version: int) -> bool:
        if self._launched == NONE_LAUNCHED:
            return version >= 0
        return self._launched < version <= self._launched + MOST_AHEAD

    def _answer(self) -> None:
        """All that is ready, one version after the other."""
        while self._ready:
            version = self._ready[0].query.version
            self._answer_together([asked for asked in self._ready if asked.query.version == version])
            self._ready = [asked for asked in self._ready if asked.query.version != version]

    def _answer_audit(self) -> bool:
        """One of those whose version is built and not yet dropped; a version that is dropped is judged no more."""
        if not self._audits:
            return False
        self._audits = deque(audit for audit in self._audits if self._may_still_come(audit.query.version))
        ready = next((audit for audit in self._audits if audit.query.version in self._built), None)
        if ready is not None:
            self._audits.remove(ready)
            self._answer_together([ready])
        return ready is not None

    def _answer_together(self, together: Sequence[Asked]) -> None:
        built = self._built[together[0].query.version]
        for to, reply in answer_queries(together, built=built, passages=self._passages, totals=self.totals):
            self._mailbox.send(reply, to=to)

    def _may_still_come(self, version: int) -> bool:
        return version in self._known or self._may_be_on_its_way(version)

    def _take_snapshot(self, source: int, message: SnapshotStart | SnapshotChunk) -> None:
        taken = self._relay.take(source, message)
        if isinstance(taken, SnapshotStart):
            self._launch(taken)
        elif isinstance(taken, Snapshot):
            self._builder.submit(taken)

    def _launch(self, start: SnapshotStart) -> None:
        if self._launched != NONE_LAUNCHED and start.version != self._launched + 1:
            raise IndexFault(
                f"{self._name}: index version {start.version} is launched after {self._launched}; "
                f"{self._launched + 1} was due: trainer 0 does not follow the refresh schedule"
            )
        log.info("%s: index version %d launched at step %d", self._name, start.version, start.step)
        self._answer()  # What is ready may be of the version that is now dropped.
        self._launched = start.version
        self._known[start.version] = start
        self._launched_at[start.version] = self._clock.now()
        self._drop_before(oldest_kept(start.version))
        self._build_if_complete(start.version)

    def _take_vectors(self, source: int, message: Vectors) -> None:
        version = message.version
        if version <= self._launched and version not in self._known:
            self.totals.late_vectors += 1  # The builder rank has not heard yet of the launch that dropped it.
            return
        if not self._may_still_come(version):
            raise IndexFault(
                f"{self._name}: vectors of index version {version} (step {message.step}) from rank {source}, but none "
                f"later than {self._launched} was launched: a fault of the sender"
            )
        if version in self._submitted:
            raise IndexFault(
                f"{self._name}: vectors of passages from {message.start} on came from rank {source} for index version "
                f"{version} (step {message.step}), of which all had come: a fault of the sender"
            )
        if version not in self._assemblies:
            self._assemblies[version] = VectorAssembly(
                self._builder.empty_table(), version=version, start=self._passages.start
            )
        self._assemblies[version].add(message.vectors_NP, start=message.start)
        self._build_if_complete(version)

    def _build_if_complete(self, version: int) -> None:
        """Vectors may come before the word of the launch: it takes another way down the tree."""
        assembly, start = self._assemblies.get(version), self._known.get(version)
        if assembly is not None and start is not None and assembly.is_complete:
            del self._assemblies[version]
            self._submitted.add(version)
            self._builder.submit(Embedded(version=version, step=start.step, sha256=start.sha256, table=assembly.table))

    def _drop_before(self, version: int) -> None:
        for held in (self._known, self._launched_at, self._built, self._assemblies):
            for old in [known for known in held if known < version]:
                del held[old]
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
            ready = [parked for parked in self._parked if parked.query.version == shard.version]
            self._parked = deque(parked for parked in self._parked if parked.query.version != shard.version)
            self.totals.parked += len(ready)
            now = self._clock.now()
            self._ready += [parked.parked_for(now - parked.asked_at) for parked in ready]
        return True

    def _report_progress(self) -> None:
        now = self._clock.now()
        if self._tell is not None and now - self._told_at >= REPORT_EVERY_S:
            self._told_at = now
            self._tell(**self._figures(now))
        if now - self._reported_at >= REPORT_EVERY_S:
            for version, done in self._builds().items():
                self._report(version, done)

    def _builds(self) -> dict[int, int]:
        """Passages done of each version that is being built: all of them only when it can be searched."""
        done = {version: assembly.num_there for version, assembly in self._assemblies.items()}
        progress = self._builder.progress
        if progress is not None:
            done[progress.version] = progress.passages_done
        return {version: min(count, len(self._passages) - 1) for version, count in done.items()}

    def _figures(self, now: float) -> dict[str, float]:
        newest = max(self._built, default=NONE_LAUNCHED)
        figures: dict[str, float] = {"version": newest, "queries": self.totals.queries, "parked": len(self._parked)}
        for version, done in self._builds().items():
            took_s = now - self._launched_at.get(version, now)
            figures |= rebuild_figures(version, done=done, total=len(self._passages), took_s=took_s)
        return figures

    def _report(self, version: int, passages_done: int) -> None:
        if self._first_trainer in self._asking and version in self._known:
            report = BuildReport(
                version=version,
                shard=self._shard_rank,
                step=self._known[version].step,
                passages_done=passages_done,
                passages_total=len(self._passages),
                took_s=self._clock.now() - self._launched_at[version],
            )
            self._mailbox.send(report, to=self._first_trainer)
        self._reported_at = self._clock.now()

    def _take_leave(self, source: int) -> None:
        self._senders.discard(source)
        if source == self._parent:
            for child in self._children:
                self._mailbox.send(Stop(), to=child)
        if source in self._asking:
            self._asking.discard(source)
            self._ready = [ready for ready in self._ready if ready.source != source]
            self._audits = deque(audit for audit in self._audits if audit.source != source)
            self._parked = deque(parked for parked in self._parked if parked.source != source)
            self._mailbox.send(Stop(shard=self._shard_rank), to=source)

    def _check_deadlines(self) -> None:
        now = self._clock.now()
        for parked in self._parked:
            if parked.query.version > self._launched and now - parked.asked_at > self._build_timeout_s:
                raise IndexFault(
                    f"{self._name}: index version {parked.query.version}, for which rank {parked.source} waits (step "
                    f"{parked.query.step}), was never launched: nothing of it came within {self._build_timeout_s:g} s "
                    f"(newest: {self._launched})"
                )
        if self._builder.is_busy:
            self._heard_at = now  # Trainers may be waiting for us.
        elif now - self._heard_at > self._silence_s:
            raise IndexFault(f"{self._name}: {self._what_is_silent()}")

    def _what_is_silent(self) -> str:
        for version, start in self._known.items():
            if not self._embeds and version not in self._built:
                assembly = self._assemblies.get(version)
                missing = assembly.missing() if assembly else f"all {len(self._passages)} passages"
                return (
                    f"index version {version} (step {start.step}) lacks the vectors of {missing}, and builder ranks "
                    f"{sorted(self._builder_ranks)} have sent none for {self._silence_s:g} s: one hangs or is gone, "
                    "see its log; if embedding takes that long, raise index.build_timeout_s or add builders"
                )
        return (
            f"heard nothing from trainers (world ranks {sorted(self._asking)}) for {self._silence_s:g} s: one hangs "
            "or is gone, see its log; if a step or an evaluation takes that long, raise runtime.wait_timeout_s"
        )
