"""What a trainer asks the index with: it sends a batch of queries to every shard and merges what comes back.

When to ask for what is train/'s business; the shards know nothing of one another.

Shapes: B queries, K hits per query, P embedding.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Clock, wait_until
from realm_ds.errors import IndexFault
from realm_ds.index.exclusion import Exclusion
from realm_ds.index.merge import Candidates, Winners, merge, with_fetched_tokens, with_sent_tokens
from realm_ds.index.messages import NO_HIT, BuildReport, Fetch, Fetched, Message, Query, Reply, Stop

log = logging.getLogger(__name__)

Replies = Literal["auto", "whole", "two_phase"]
TWO_PHASE_BYTES = 3 * 2**18
"""auto: fetch tokens in a second phase where the first would bring more than this, for each shard, of hits that lose:
measured by `realm-ds bench scale`."""
AUDITED_QUERIES = 4
"""The first of an audited search are searched exactly: enough to tell, too few to slow the shards down."""


@dataclass(kw_only=True)
class SearchTotals:
    """What a client has counted since it was made."""

    searches: int = 0
    """Batches of queries answered by all shards."""
    queries: int = 0
    wait_s: float = 0.0
    """Time in which the trainer stood still for an answer."""
    search_ms: float = 0.0
    """Sum over searches of the slowest shard's time."""
    parked_ms: float = 0.0
    two_phase: int = 0
    """Searches whose tokens were fetched in a second phase."""
    audited_hits: int = 0
    """Hits of exact search for audited queries."""
    audited_found: int = 0
    """Those of them that the index had found too."""
    mixed_version_replies: int = 0
    """Replies of another version than asked for; each also ends the run."""
    strangers: int = 0
    """Replies to no open request, dropped."""


@dataclass(kw_only=True)
class _Open:
    """A request on its way."""

    step: int
    version: int
    num_queries: int
    num_hits: int
    wants_tokens: bool
    """With the replies."""
    fetches: bool = False
    """Tokens in a second phase."""
    vector_width: int = 0
    """Of the vectors that are fetched with the tokens; 0 for none."""
    is_audit: bool = False
    counts: bool = True
    """In the totals, and towards the next audit."""
    waited_s: float = 0.0
    """Before it was collected."""
    replies: dict[int, Reply] = field(default_factory=dict)
    """By shard."""
    winners: Winners | None = None
    fetching: set[int] = field(default_factory=set)
    """Shards that owe the tokens of their winners."""
    fetched: dict[int, Fetched] = field(default_factory=dict)


class IndexClient:
    """One trainer's view of the whole index. Requests may overlap; each is collected once, in any order."""

    def __init__(
        self, mailbox: Mailbox, *, index_ranks: Sequence[int], timeout_s: float, build_timeout_s: float,
        builder_ranks: Sequence[int] = (), trainer_ranks: Sequence[int] = (), replies: Replies = "auto",
        audit_every: int = 0, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`builder_ranks` are those that this trainer takes leave of: all of them on trainer 0, none elsewhere;
        `trainer_ranks` are those that must not wait for an answer when this one gives up doing so."""
        self.totals = SearchTotals()
        self._mailbox = mailbox
        self._index_ranks, self._builder_ranks = tuple(index_ranks), tuple(builder_ranks)
        self._trainer_ranks = frozenset(trainer_ranks)
        self._has_told_trainers = False
        self._others_leave = False
        self._timeout_s, self._build_timeout_s = timeout_s, build_timeout_s
        self._replies, self._audit_every = replies, audit_every
        self._clock = clock
        self._next_request = self._num_submitted = 0
        self._open: dict[int, _Open] = {}
        self._audit_of: dict[int, int] = {}
        """Requests of audits, by the request that they judge."""
        self._to_judge: dict[int, np.ndarray] = {}
        """What the index had found for audited queries, by the request of the audit."""
        self._reports: list[tuple[int, BuildReport]] = []
        self._newest_collected = 0
        self._tokens_per_hit = 0.0
        self._recall = (0, 0)

    def submit(
        self, vectors_BP: np.ndarray, *, exclusion: Exclusion, num_hits: int, step: int, version: int,
        ids_only: bool = False, with_vectors: bool = False, counts: bool = True,
    ) -> int:  # fmt: skip
        """Ask every shard for its best `num_hits`; returns at once the number to collect the answer with.

        With `ids_only` the candidates come without their tokens, `with_vectors` with exact vectors too. A search that
        does not count leaves no trace: others are audited, fetched and counted as without it.
        """
        if not np.isfinite(vectors_BP).all():
            raise IndexFault(
                f"the queries of step {step} (index version {version}) hold values that are not finite: the query "
                "tower of that snapshot has diverged; resume from an earlier checkpoint with a lower learning rate"
            )
        # Vectors are so large that only those of the winners are sent.
        two_phase = not ids_only and (with_vectors or self._goes_in_two_phases(len(vectors_BP) * num_hits))
        opened = _Open(
            step=step, version=version, num_queries=len(vectors_BP), num_hits=num_hits,
            wants_tokens=not ids_only and not two_phase, fetches=two_phase, counts=counts,
            vector_width=vectors_BP.shape[1] if with_vectors else 0,
        )  # fmt: skip
        request = self._send(opened, vectors_BP, exclusion)
        if not counts:
            return request
        # Counted from another number on each trainer: all at once, they would hold up the shards.
        if self._audit_every and (self._num_submitted + self._mailbox.rank) % self._audit_every == 0:
            self._audit(request, opened, vectors_BP, exclusion)
        self._num_submitted += 1
        return request

    def wait(self, request: int, *, unless: Callable[[], bool]) -> None:
        """Until `collect` has nothing to wait for, or `unless` holds, here or for another trainer that waits likewise,
        or the deadline has passed, which `collect` then tells."""
        opened, started_at = self._open[request], self._clock()

        def is_over() -> bool:
            self.progress()
            is_late = self._clock() - started_at + opened.waited_s >= self._build_timeout_s
            return self._move_on(request, opened) or self._others_leave or unless() or is_late

        if not is_over():
            what = f"the index to answer the queries of step {opened.step}, index version {opened.version}"
            wait_until(is_over, timeout_s=math.inf, waiting_for=what, clock=Clock(now=self._clock))
        opened.waited_s += self._clock() - started_at
        if unless() and not self._has_told_trainers:
            self._has_told_trainers = True
            for rank in self._trainer_ranks - {self._mailbox.rank}:
                self._mailbox.send(Stop(is_early=1), to=rank)

    def collect(self, request: int) -> Candidates:
        """The merged answer; waits for the slowest shard, which may have to build the version first."""
        started_at = self._clock()
        opened = self._open[request]
        while not self._move_on(request, opened):
            self._wait(request, opened, waited_s=opened.waited_s + self._clock() - started_at)
        del self._open[request]
        winners, wait_s = opened.winners, opened.waited_s + self._clock() - started_at
        assert winners is not None
        if opened.wants_tokens:
            replies = [opened.replies[shard] for shard in range(len(self._index_ranks))]
            candidates = with_sent_tokens(winners, replies, wait_s=wait_s)
        else:
            candidates = with_fetched_tokens(winners, opened.fetched, wait_s=wait_s, width=opened.vector_width)
        if opened.counts:
            self._count(request, opened, candidates)
        return candidates

    def progress(self) -> None:
        """Take what has arrived and send what follows from it, so that a second phase is under way before its answer
        is needed. Returns at once; call it now and then."""
        while (arrived := self._mailbox.poll()) is not None:
            self._take(*arrived)
        for request, opened in list(self._open.items()):
            if self._move_on(request, opened) and request in self._to_judge:
                self._judge(request, opened)
            elif opened.is_audit and opened.version < self._newest_collected - 1:
                # A shard lets go of audits of versions that it has dropped.
                del self._open[request]
                self._to_judge.pop(request, None)

    def take_recall(self) -> tuple[int, int]:
        """Hits that the index found and hits that there were, of the queries audited since the last call."""
        recall, self._recall = self._recall, (0, 0)
        return recall

    def build_reports(self) -> list[tuple[int, BuildReport]]:
        """What index and builder ranks have said of their builds since the last call, by world rank; they tell trainer
        0 only."""
        self.progress()
        reports, self._reports = self._reports, []
        return reports

    def close(self, *, early: bool = False) -> None:
        """Tell the shards that no more is asked, and take what they had already sent. Open requests are given up, and
        with `early` also what the shards are building."""
        leaving = self._index_ranks + self._builder_ranks
        for rank in leaving:
            self._mailbox.send(Stop(is_early=int(early)), to=rank)
        self._open.clear()
        for rank in leaving:
            self._mailbox.receive(
                Stop, source=rank, timeout_s=self._timeout_s, waiting_for=f"rank {rank} to take leave"
            )
        while self._mailbox.poll() is not None:
            pass
        self._mailbox.flush(self._timeout_s)

    def _goes_in_two_phases(self, hits_per_shard: int) -> bool:
        if self._replies != "auto":
            return self._replies == "two_phase"
        # Known once something was answered; the first request brings its tokens.
        lost_bytes = 2 * self._tokens_per_hit * hits_per_shard * (len(self._index_ranks) - 1)
        return lost_bytes > TWO_PHASE_BYTES * len(self._index_ranks)

    def _send(self, opened: _Open, vectors_BP: np.ndarray, exclusion: Exclusion) -> int:
        request = self._next_request
        self._next_request += 1
        for shard, rank in enumerate(self._index_ranks):
            query = Query(
                request=request, shard=shard, version=opened.version, step=opened.step, num_hits=opened.num_hits,
                wants_tokens=int(opened.wants_tokens), is_audit=int(opened.is_audit),
                vectors_BP=np.ascontiguousarray(vectors_BP, dtype=np.float32),
                uids_B=exclusion.uids_B, articles_B=exclusion.articles_B, ngrams_G=exclusion.ngrams_G,
                num_ngrams_B=exclusion.num_ngrams_B, ngram=exclusion.ngram, most_shared=exclusion.most_shared,
            )  # fmt: skip
            self._mailbox.send(query, to=rank)
        self._open[request] = opened
        return request

    def _audit(self, request: int, opened: _Open, vectors_BP: np.ndarray, exclusion: Exclusion) -> None:
        rows = np.arange(min(AUDITED_QUERIES, opened.num_queries))
        audit = _Open(
            step=opened.step, version=opened.version, num_queries=len(rows), num_hits=opened.num_hits,
            wants_tokens=False, is_audit=True,
        )  # fmt: skip
        self._audit_of[request] = self._send(audit, vectors_BP[rows], exclusion.at(rows))

    def _judge(self, request: int, audit: _Open) -> None:
        assert audit.winners is not None
        found_BK, exact_BK = self._to_judge.pop(request), audit.winners.uids_BK
        wanted = int((exact_BK != NO_HIT).sum())
        found = sum(
            len(np.intersect1d(found_K, exact_K[exact_K != NO_HIT]))
            for found_K, exact_K in zip(found_BK, exact_BK, strict=True)
        )
        self._recall = (self._recall[0] + found, self._recall[1] + wanted)
        self.totals.audited_found += found
        self.totals.audited_hits += wanted
        del self._open[request]

    def _count(self, request: int, opened: _Open, candidates: Candidates) -> None:
        self._newest_collected = max(self._newest_collected, opened.version)
        totals = self.totals
        totals.searches += 1
        totals.queries += opened.num_queries
        totals.wait_s += candidates.wait_s
        totals.search_ms += candidates.search_ms
        totals.parked_ms += candidates.parked_ms
        totals.two_phase += opened.fetches
        num_hits = int((candidates.uids_BK != NO_HIT).sum())
        if num_hits and (opened.wants_tokens or opened.fetches):
            lengths = candidates.title_lengths_BK.sum() + candidates.body_lengths_BK.sum()
            self._tokens_per_hit = float(lengths) / num_hits
        audit = self._audit_of.pop(request, None)
        if audit in self._open:
            self._to_judge[audit] = candidates.uids_BK[:AUDITED_QUERIES]

    def _move_on(self, request: int, opened: _Open) -> bool:
        """Merge once all shards have replied, then fetch what is still to be fetched; whether nothing is missing."""
        if len(opened.replies) < len(self._index_ranks):
            return False
        if opened.winners is None:
            self._check_versions(opened)
            opened.winners = merge([opened.replies[shard] for shard in range(len(self._index_ranks))])
            if opened.fetches:
                self._fetch(request, opened, opened.winners)
        return not opened.fetching

    def _fetch(self, request: int, opened: _Open, winners: Winners) -> None:
        for shard, rank in enumerate(self._index_ranks):
            places_H = winners.places_of(shard)
            if len(places_H):
                fetch = Fetch(
                    request=request, shard=shard, version=opened.version, step=opened.step, places_H=places_H,
                    wants_vectors=int(opened.vector_width > 0),
                )  # fmt: skip
                self._mailbox.send(fetch, to=rank)
                opened.fetching.add(shard)

    def _wait(self, request: int, opened: _Open, *, waited_s: float) -> None:
        """For one shard at a time: what others send meanwhile is kept. The merge does not care for order."""
        missing = [shard for shard in range(len(self._index_ranks)) if shard not in opened.replies]
        shard = missing[0] if missing else min(opened.fetching)
        who = [self._index_ranks[owing] for owing in missing or sorted(opened.fetching)]
        what = "the answer of" if missing else "the tokens of the winners from"
        rank = self._index_ranks[shard]
        message = self._mailbox.receive(
            Reply if missing else Fetched,
            source=rank,
            timeout_s=self._build_timeout_s,
            waited_s=waited_s,
            waiting_for=f"{what} index rank(s) {who} to the queries of step {opened.step}, "
            f"index version {opened.version}; their logs tell whether it is still being built: if building takes that "
            "long, raise index.build_timeout_s or add index ranks",
        )
        self._take(rank, message)

    def _take(self, source: int, message: object) -> None:
        """Put an answer to its request; one that nobody asked for must not be taken for another's."""
        if isinstance(message, BuildReport):
            self._reports.append((source, message))
            return
        if isinstance(message, Stop) and source in self._trainer_ranks:
            self._others_leave = True
            return
        if not isinstance(message, Reply | Fetched):
            raise IndexFault(f"a trainer received {type(message).__name__} from rank {source}; only replies were due")
        opened = self._open.get(message.request)
        if opened is None or not self._is_due(source, message, opened):
            self.totals.strangers += 1
            log.warning("dropped a %s of rank %d, shard %d, to request %d, which is not open",
                        type(message).__name__.lower(), source, message.shard, message.request)  # fmt: skip
        elif isinstance(message, Reply):
            self._check_shape(source, message, opened)
            opened.replies[message.shard] = message
        else:
            lengths = (message.title_lengths_H, message.body_lengths_H)
            self._check_tokens(source, *lengths, message.tokens, step=opened.step)
            self._check_vectors(source, message, opened)
            opened.fetching.discard(message.shard)
            opened.fetched[message.shard] = message

    def _is_due(self, source: int, message: Message, opened: _Open) -> bool:
        shard = message.shard
        if not 0 <= shard < len(self._index_ranks) or self._index_ranks[shard] != source:
            return False
        return shard not in opened.replies if isinstance(message, Reply) else shard in opened.fetching

    def _check_shape(self, source: int, message: Reply, opened: _Open) -> None:
        shape = (opened.num_queries, opened.num_hits)
        parts = [message.uids_BK, message.scores_BK, message.places_BK]
        lengths = (message.title_lengths_BK, message.body_lengths_BK)
        for part in (*parts, *lengths) if opened.wants_tokens else parts:
            if part.shape != shape:
                raise IndexFault(
                    f"index rank {source} answered {part.shape} hits where step {opened.step} asked for {shape}"
                )
        self._check_tokens(source, *lengths, message.tokens, step=opened.step)

    def _check_tokens(
        self, source: int, title_lengths: np.ndarray, body_lengths: np.ndarray, tokens: np.ndarray, *, step: int
    ) -> None:
        """Lengths come from the network and become places in `tokens`."""
        are_counts = title_lengths.shape == body_lengths.shape and min(
            title_lengths.min(initial=0), body_lengths.min(initial=0)
        ) >= 0  # fmt: skip
        if not are_counts or title_lengths.sum(dtype=np.int64) + body_lengths.sum(dtype=np.int64) != len(tokens):
            raise IndexFault(
                f"index rank {source} sent {len(tokens)} wordpieces for step {step}, but lengths that do not add up to "
                "that: a fault of the shard"
            )

    def _check_vectors(self, source: int, message: Fetched, opened: _Open) -> None:
        wanted = (len(message.title_lengths_H) if opened.vector_width else 0, opened.vector_width)
        if message.vectors_HP.shape != wanted:
            raise IndexFault(
                f"index rank {source} sent vectors {message.vectors_HP.shape} for step {opened.step}, which wants "
                f"{wanted}: a fault of the shard"
            )

    def _check_versions(self, opened: _Open) -> None:
        """Measured at every merge, not assumed: all replies carry the version and step that were asked for."""
        asked = (opened.version, opened.step)
        others = {
            self._index_ranks[shard]: reply.version
            for shard, reply in opened.replies.items()
            if (reply.version, reply.step) != asked
        }
        if others:
            self.totals.mixed_version_replies += len(others)
            raise IndexFault(
                f"step {opened.step} asked for index version {opened.version}, but rank(s) answered from others "
                f"{others}: a fault of the index, please report it"
            )
