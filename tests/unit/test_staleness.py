"""Staleness measured: the same sentences searched in every version, compared over all trainers, also across a stop."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.config.index import IndexConfig, RefreshConfig
from realm_ds.data.masking import MaskedExample
from realm_ds.data.records import NO_ARTICLE, article_id
from realm_ds.index.exclusion import Exclusion, ngrams_of
from realm_ds.index.messages import NO_HIT
from realm_ds.index.versions import Schedule
from realm_ds.models.towers import TokenBatch
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.train.checkpoint import IndexState
from realm_ds.train.search_ahead import exclusion_of
from realm_ds.train.staleness import Probe, Staleness, count_changed
from tests.support.batches import plain_tokens

REFRESH = RefreshConfig(
    every_steps="auto", adopt_after_steps=2, shortest_steps=4, longest_steps=16, target_change=0.1, probe_queries=2
)
HITS = {0: [[1, 2], [3, 4]], 1: [[2, 1], [3, 5]], 2: [[2, 1], [3, 5]], 3: [[6, 7], [8, 9]]}
"""What the two probe queries find in each version: a quarter, nothing, and all of it changes."""


def example(**changes: Any) -> MaskedExample:
    return MaskedExample(
        **{"id": "a", "ids": (1, 4, 2), "mask_positions": (1,), "targets": (7,), "origin_uid": 0, **changes}
    )


class Client:
    """Answers from HITS, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def submit(
        self, vectors_BP: np.ndarray, *, exclusion: Exclusion, num_hits: int, step: int, version: int, ids_only: bool
    ) -> int:
        assert (len(vectors_BP), len(exclusion), num_hits, ids_only) == (2, 2, 2, True)
        self.asked.append((step, version))
        return version

    def collect(self, request: int) -> SimpleNamespace:
        return SimpleNamespace(uids_BK=np.array(HITS[request]), wait_s=0.5)


class Collator:
    def masked_queries(self, examples: Sequence[MaskedExample]) -> TokenBatch:
        ids = torch.tensor([item.ids for item in examples])
        return plain_tokens(ids)


class Tower(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, tokens: TokenBatch) -> torch.Tensor:
        return tokens.ids_NL * self.scale


class Run:
    def __init__(self, folder: Path, *, refresh: RefreshConfig = REFRESH, state: IndexState | None = None) -> None:
        self.folder, self.client = folder, Client()
        self.schedule = Schedule(refresh, launches=state.launches if state else ())
        self.sinks = Sinks(folder, role="trainer", role_rank=0, stage="pretrain")
        tower = Tower()
        self.staleness = Staleness(
            probe=Probe(
                examples=[example(id=str(number)) for number in range(refresh.probe_queries)],
                collator=Collator(), exclude=lambda examples: exclusion_of(examples, index=IndexConfig()), num_hits=2,
            ),
            schedule=self.schedule,
            towers=SimpleNamespace(at=lambda step: (self.schedule.version_at(step), tower)),
            client=self.client, trainers=Trainers(singleton()), sinks=self.sinks, state=state,
        )  # fmt: skip

    def steps(self, first: int, last: int) -> float:
        """The time waited."""
        waited_s = 0.0
        for step in range(first, last):
            self.staleness.ask(step)
            waited_s += self.staleness.measure(step)
        return waited_s

    def adoptions(self) -> list[tuple[Any, ...]]:
        names = ("version", "step", "changed_share", "mean_age_steps", "interval_steps")
        rows = read_events(metrics_path(self.folder, role="trainer", role_rank=0), event="adopted")
        return [tuple(row[name] for name in names) for row in rows]


EXPECTED = [(0, 0, None, None, 4), (1, 6, 0.25, 2.5, 4), (2, 10, 0.0, 3.5, 8), (3, 18, 1.0, 5.5, 4)]
"""The interval stays at its shortest, is doubled, is halved."""


def test_each_adoption_is_one_search_that_says_how_much_has_changed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.steps(0, 19) == 4 * 0.5
    assert run.adoptions() == EXPECTED
    assert run.client.asked == [(step, version) for version, step, *_ in EXPECTED]
    assert run.staleness.changed_share == 1.0


@pytest.mark.parametrize("stop_at", [1, 6, 7, 12, 18])
def test_a_stop_changes_nothing(tmp_path: Path, stop_at: int) -> None:
    before = Run(tmp_path)
    before.steps(0, stop_at)
    before.sinks.close()
    after = Run(tmp_path, state=before.staleness.state())
    assert after.staleness.changed_share == before.staleness.changed_share
    after.steps(stop_at, 19)
    assert after.adoptions() == EXPECTED


def test_without_probe_queries_nothing_is_searched(tmp_path: Path) -> None:
    run = Run(tmp_path, refresh=RefreshConfig(every_steps=4, adopt_after_steps=2, probe_queries=0))
    assert run.steps(0, 11) == 0.0
    assert run.client.asked == []
    assert run.adoptions() == [(0, 0, None, None, 4), (1, 6, None, 2.5, 4), (2, 10, None, 3.5, 4)]
    assert run.staleness.state() == IndexState(launches=(), probe_uids=(), changed_share=None)


def test_hits_are_counted_whatever_their_order() -> None:
    new, old = np.array([[1, 2, 3], [4, 5, NO_HIT]]), np.array([[3, 1, 9], [4, NO_HIT, NO_HIT]])
    assert count_changed(new, old) == (2, 5)
    assert count_changed(new, new) == (0, 5)
    assert count_changed(new, np.array((), dtype=np.int64)) == (0, 0)
    assert count_changed(new, old[:, :2]) == (0, 0)


def test_what_is_excluded_is_what_the_settings_say() -> None:
    examples = [
        example(origin_uid=5, origin_article=article_id("Ghent"), plain_ids=(4, 5, 6, 4, 5, 6)),
        example(plain_ids=(4,)),
    ]
    own = exclusion_of(examples, index=IndexConfig())
    assert (own.uids_B.tolist(), own.articles_B.tolist()) == ([5, 0], [NO_ARTICLE, NO_ARTICLE])
    assert (own.ngrams_G.tolist(), own.num_ngrams_B.tolist(), own.most_shared) == ([], [0, 0], 1.0)
    trivial = exclusion_of(examples, index=IndexConfig(exclude="nothing"))
    assert (trivial.uids_B.tolist(), trivial.articles_B.tolist()) == ([0, 0], [NO_ARTICLE, NO_ARTICLE])
    wide = exclusion_of(examples, index=IndexConfig(exclude="article", most_shared=0.5, ngram=3))
    assert wide.articles_B.tolist() == [article_id("Ghent"), NO_ARTICLE]
    assert wide.ngrams_G.tolist() == ngrams_of(np.array([4, 5, 6, 4, 5, 6]), 3).tolist()
    assert (wide.num_ngrams_B.tolist(), wide.ngram, wide.most_shared) == ([3, 0], 3, 0.5)
