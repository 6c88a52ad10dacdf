"""Queries sent some steps before their answers are needed, so that search and transport hide behind training.

Ahead of time changes nothing: the query tower is that of the index version's own snapshot, so what is retrieved depends
on (example, version) alone. Where it has the weights of the step itself (pretrain.retrieve_with current), nothing is
sent ahead. Merging and counting is index/client.py's business.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.config.index import IndexConfig
from realm_ds.data.masking import MaskedExample
from realm_ds.data.records import NO_ARTICLE, NO_UID
from realm_ds.data.redeal import StreamState
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import Exclusion, ngrams_of
from realm_ds.index.merge import Candidates
from realm_ds.models.towers import Embedder, embed
from realm_ds.train.collate import Collator
from realm_ds.train.timing import StepTimer

MicroBatch = tuple[list[MaskedExample], StreamState]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A micro-batch whose query is on its way."""

    examples: list[MaskedExample]
    state: StreamState
    """Of the stream, after these examples."""
    request: int


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """A micro-batch with its candidates."""

    examples: list[MaskedExample]
    state: StreamState
    candidates: Candidates


class SearchAhead:
    """Holds the queries of the step at hand and of the `ahead` steps after it."""

    def __init__(
        self,
        *,
        micro_batches: Iterator[MicroBatch],
        micro_batches_per_step: int,
        collator: Collator,
        tower_at: Callable[[int], tuple[int, Embedder]],
        client: IndexClient,
        timer: StepTimer,
        exclude: Callable[[Sequence[MaskedExample]], Exclusion],
        num_hits: int,
        ahead: int,
        first_step: int,
        last_step: int,
    ) -> None:
        """`tower_at` gives the version that answers a step, and the tower of its queries; it is called once a step."""
        self._micro_batches, self._per_step = micro_batches, micro_batches_per_step
        self._collator, self._tower_at, self._client = collator, tower_at, client
        self._timer, self._exclude = timer, exclude
        self._num_hits, self._ahead, self._last_step = num_hits, ahead, last_step
        self._next_step = first_step
        self._asked: deque[list[Asked]] = deque()

    def take(self, step: int) -> list[Retrieved]:
        """The step's micro-batches with their candidates; sends what is due, waits for what is missing.

        Raises IndexFault when an answer does not come in time.
        """
        self.ask(step)
        self._client.progress()  # Once a step, so that tokens of answers for later steps are fetched behind this one.
        return [
            Retrieved(examples=asked.examples, state=asked.state, candidates=self._client.collect(asked.request))
            for asked in self._asked.popleft()
        ]

    def ask(self, step: int) -> None:
        """Send what is due at `step`, unless that was done."""
        while self._next_step <= min(step + self._ahead, self._last_step):
            version, tower = self._tower_at(self._next_step)
            asked = [self._ask(self._next_step, version=version, tower=tower) for _ in range(self._per_step)]
            self._asked.append(asked)
            self._next_step += 1

    def wait(self, *, unless: Callable[[], bool]) -> None:
        """Until the answers that `take` gives next are there, or `unless` holds."""
        for asked in self._asked[0]:
            self._client.wait(asked.request, unless=unless)

    def _ask(self, step: int, *, version: int, tower: Embedder) -> Asked:
        with self._timer.phase("data"):
            examples, state = next(self._micro_batches)
        request = self._client.submit(
            embed(tower, self._collator.masked_queries(examples)).numpy(),
            exclusion=self._exclude(examples),
            num_hits=self._num_hits,
            step=step,
            version=version,
        )
        return Asked(examples=examples, state=state, request=request)


def exclusion_of(examples: Sequence[MaskedExample], *, index: IndexConfig) -> Exclusion:
    """What must not be retrieved for these sentences, as the settings have it."""
    nothing = np.empty(0, dtype=np.int64)
    ngrams = [
        ngrams_of(np.array(example.plain_ids, dtype=np.int64), index.ngram) if index.most_shared < 1 else nothing
        for example in examples
    ]
    articles = [example.origin_article if index.exclude == "article" else NO_ARTICLE for example in examples]
    uids = [NO_UID if index.exclude == "nothing" else example.origin_uid for example in examples]
    return Exclusion(
        uids_B=np.array(uids, dtype=np.int64),
        articles_B=np.array(articles, dtype=np.int64),
        ngrams_G=np.concatenate([nothing, *ngrams]),
        num_ngrams_B=np.array([len(own) for own in ngrams], dtype=np.int32),
        ngram=index.ngram,
        most_shared=index.most_shared,
    )
