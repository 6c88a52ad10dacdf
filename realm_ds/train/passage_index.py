"""Where fine-tuning has its passages from: an index in this process, or that of index ranks, which may be refreshed.

What is made of what it finds is find.py's and eval/qa.py's business, how index ranks answer index/'s.

Shapes: N passages of the corpus, B queries, K hits of each, P embedding.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.waiting import Clock, wait_until
from realm_ds.data.shards import passage_range
from realm_ds.eval.corpus import CorpusIndex
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.merge import Candidates
from realm_ds.index.passages import load_shard
from realm_ds.index.store import IndexStore
from realm_ds.index.versions import Schedule
from realm_ds.models.towers import Embedder, Towers
from realm_ds.train.engine import Engine
from realm_ds.train.recall import embed_into
from realm_ds.train.refresh import BuildWatch, Launcher
from realm_ds.train.service import index_client, index_launcher, index_recall, launch_if_due, leave_index, tell_launch
from realm_ds.train.stage import Stage

Figures = Mapping[str, tuple[float, float]]
Facts = Mapping[str, float]


class PassageIndex(Protocol):
    """What one trainer searches in. Which way it goes about it changes no passage that is found, but for rounding."""

    def start(self, engine: Engine, *, step: int) -> None:
        """Begin, or go on, with `step` as the next step. Not on opening: the engine is made of what searches here, and
        the passages of an index in this process are embedded before ZeRO has taken the towers apart."""

    def prepare_step(self, step: int) -> bool:
        """Before `step` is trained: launch what is due, and wait until the index can answer. False, on all trainers
        alike, where one of them was asked to end meanwhile. Collective of trainers."""

    def retrieve(self, queries_BP: np.ndarray, num_hits: int) -> Candidates:
        """The best passages of the whole corpus for each query, with tokens and vectors."""

    def search(self, queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        """Their places and scores alone."""

    def take_step(self) -> tuple[float, Figures, Facts]:
        """Of the step just trained: seconds that were waited for the index, figures and facts for its StepInfo."""

    def finish(self, step: int) -> bool:
        """Once all `step` steps are trained: launch passages as the trained model sees them, where they were trained,
        and wait until the index can answer with them. False as of `prepare_step`. Collective of trainers."""

    def vectors(self) -> Sequence[np.ndarray] | None:
        """Those of all passages in corpus order, in one or several parts. For trainer 0 alone: no other knows which
        weights they are of. None where it was asked to end before they were there."""

    def leave(self, *, early: bool) -> None:
        """Nothing more is asked. Collective of trainers."""


def open_index(stage: Stage, towers: Towers, mailbox: Mailbox | None) -> PassageIndex | None:
    """By `mailbox` that of the index ranks, without one an index of this trainer's own. None where a trainer was asked
    to end while it was made. Collective of trainers."""
    if mailbox is not None:
        return ServedIndex(stage, towers, mailbox)
    config = stage.config
    table = _embed_corpus(stage, towers.passage)
    if stage.must_leave():  # Who was asked to end has left passages out: nothing may be made of them.
        return None
    passages = load_shard(stage.corpus, shard_rank=0, num_shards=1, max_tokens=config.data.passage_tokens)
    return OwnIndex(CorpusIndex(passages, table))


class OwnIndex:
    """All passages in this process, as the passage tower saw them before training."""

    def __init__(self, corpus: CorpusIndex) -> None:
        self._corpus = corpus
        self._search_ms: list[float] = []

    def start(self, engine: Engine, *, step: int) -> None:
        pass

    def prepare_step(self, step: int) -> bool:
        return True

    def retrieve(self, queries_BP: np.ndarray, num_hits: int) -> Candidates:
        found = self._corpus.retrieve(queries_BP, num_hits=num_hits)
        self._search_ms.append(found.search_ms)
        return found

    def search(self, queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        hits = self._corpus.search(queries_BP, num_hits=num_hits)
        return hits.places_BK, hits.scores_BK

    def take_step(self) -> tuple[float, Figures, Facts]:
        search_ms, self._search_ms = self._search_ms, []
        return 0.0, {"search_ms": (float(np.mean(search_ms)), 1.0)}, {}

    def finish(self, step: int) -> bool:
        return True

    def vectors(self) -> Sequence[np.ndarray]:
        return [self._corpus.vectors_NP]

    def leave(self, *, early: bool) -> None:
        pass


class ServedIndex:
    """The sharded index of the index ranks. Questions are embedded by the query tower as it is: the early update needs
    their gradient. The version is that of the passages alone: a function of the step as in pre-training where they are
    refreshed, else version 0 throughout.
    """

    def __init__(self, stage: Stage, towers: Towers, mailbox: Mailbox) -> None:
        self._stage, self._towers, self._mailbox = stage, towers, mailbox
        config = stage.config
        self._refreshes = config.qa.refresh_passages
        if not self._refreshes and not towers.are_shared:
            towers.passage.cpu()  # Nothing is embedded with it here.
        self._schedule = (
            Schedule(config.refresh, num_steps=config.qa.steps) if self._refreshes else Schedule.of_one_version()
        )
        self._client: IndexClient = index_client(stage, mailbox)
        self._builds = BuildWatch(stage.corpus.count, sinks=stage.sinks)
        self._launcher: Launcher
        """From `start` on."""
        self._first_step = self._step = self._version = 0
        self._answers: list[tuple[float, float]] = []
        """(ms that the slowest shard searched, s waited) of each search of the step."""
        self._waited_s = 0.0
        """Before the step."""

    def start(self, engine: Engine, *, step: int) -> None:
        self._launcher = index_launcher(
            self._stage, self._mailbox, engine=engine, towers=self._towers, schedule=self._schedule
        )
        self._launcher.relaunch(step)
        self._first_step = step

    def prepare_step(self, step: int) -> bool:
        launch_if_due(self._stage, self._launcher, step)
        self._step, self._version = step, self._schedule.version_at(step)
        if step != self._first_step and self._schedule.adoption_at(step) is None:
            return True
        if not self._is_built():
            return False
        if self._refreshes and step == self._schedule.adoption_step(self._version):
            self._stage.sinks.write("adopted", step=step, version=self._version)
        return True

    def retrieve(self, queries_BP: np.ndarray, num_hits: int) -> Candidates:
        # Everything is found: no shard returns fewer than it holds, or than it is asked for.
        request = self._submit(queries_BP, min(num_hits, self._stage.corpus.count), with_vectors=True)
        with self._stage.timer.phase("wait_for_index"):
            found = self._client.collect(request)
        self._answers.append((found.search_ms, found.wait_s))
        return found

    def search(self, queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        found = self._client.collect(self._submit(queries_BP, min(num_hits, self._stage.corpus.count), ids_only=True))
        return found.places_BK, found.scores_BK

    def take_step(self) -> tuple[float, Figures, Facts]:
        search_ms, wait_s = np.array(self._answers).T
        waited_s, self._answers, self._waited_s = self._waited_s + float(wait_s.sum()), [], 0.0
        self._builds.take(self._client.build_reports())
        figures = {"search_ms": (float(search_ms.mean()), 1.0), "index_recall": index_recall(self._client)}
        staleness = self._schedule.age_in_steps(self._step)
        return waited_s, figures, {"version": self._version, "staleness_steps": staleness, **self._builds.facts()}

    def finish(self, step: int) -> bool:
        self._step = step
        if self._refreshes:
            self._version = self._schedule.next_version(step)
            self._launcher.launch(self._version, step=step)
            tell_launch(self._stage, self._launcher, self._version, step=step)
        return self._is_built()

    def vectors(self) -> Sequence[np.ndarray] | None:
        """Where the index ranks have written them."""
        stage, digest = self._stage, self._launcher.digests[self._version]  # trainer 0 sends the snapshots
        store = IndexStore(stage.folder / "index", corpus_sha256=stage.corpus.digest)
        found: list[np.ndarray] | None = None

        def is_there() -> bool:
            nonlocal found
            found = store.mapped(version=self._version, snapshot_sha256=digest, num_passages=stage.corpus.count)
            return found is not None or stage.notice.is_given

        wait_until(
            is_there, timeout_s=stage.config.runtime.wait_timeout_s, clock=Clock(),
            waiting_for=f"the index ranks to write all of index version {self._version} to {stage.folder / 'index'}",
        )  # fmt: skip
        return found

    def leave(self, *, early: bool) -> None:
        leave_index(self._stage, self._client, early=early)

    def _is_built(self) -> bool:
        """Whether the version can be searched; who is asked to end meanwhile does not wait for it. One query finds out,
        before any that trainers need an answer to in the middle of a forward pass."""
        # At random: a query that is alike in all of its numbers has the same product with all that a LayerNorm made.
        query_1P = np.random.default_rng(0).standard_normal((1, self._stage.config.model.projection_size))
        request = self._submit(query_1P, 1, ids_only=True, counts=False)
        started_at = time.perf_counter()
        with self._stage.timer.phase("wait_for_index"):
            self._client.wait(request, unless=lambda: self._stage.notice.is_given)
        self._waited_s += time.perf_counter() - started_at
        if self._stage.must_leave():
            return False
        self._client.collect(request)
        self._builds.take(self._client.build_reports())
        return True

    def _submit(self, queries_BP: np.ndarray, num_hits: int, **how: bool) -> int:
        return self._client.submit(
            queries_BP, exclusion=exclude_nothing(len(queries_BP)), num_hits=num_hits, step=self._step,
            version=self._version, **how,
        )  # fmt: skip


def _embed_corpus(stage: Stage, tower: Embedder) -> VectorTable:
    """Vectors of all passages, each trainer embedding its part of the corpus. Collective of trainers."""
    config, trainers, corpus = stage.config, stage.trainers, stage.corpus
    table = VectorTable(corpus.count, config.model.projection_size)
    parts = [
        table.vectors_NP[slice(*passage_range(corpus.count, rank, trainers.size, setting="runtime.trainers"))]
        for rank in range(trainers.size)
    ]
    own = load_shard(
        corpus, shard_rank=trainers.rank, num_shards=trainers.size, max_tokens=config.data.passage_tokens
    )  # fmt: skip
    embed_into(
        parts[trainers.rank], tower.eval(), own, config=config, special=stage.tokenizer.special,
        unless=lambda: stage.notice.is_given,
    )  # fmt: skip
    for rank, part_NP in enumerate(parts):
        trainers.broadcast_array(part_NP, source=rank)
    return table
