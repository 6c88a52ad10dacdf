"""Held-out evaluation while pre-training goes on: sentences and questions that are never trained on, in the live index.

What is computed of a sentence is the objective's, as in training; keeping the best models is best.py's business.
Training goes on as if nothing had been measured: no random number is drawn, no search counted, no sentence of X read.

Shapes: B sentences or questions of a batch, K hits, P embedding, V vocabulary.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from realm_ds.data.answer_spans import find_answer_spans
from realm_ds.data.batches import JOINT_BUCKETS
from realm_ds.data.masking import MaskedExample
from realm_ds.data.question_files import load_questions
from realm_ds.data.records import Question
from realm_ds.data.stream import ExampleStream
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.data.words import words_of
from realm_ds.errors import DataError
from realm_ds.eval.retrieval import RECALL_AT, gold_hits, recall_at
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import exclude_nothing
from realm_ds.index.merge import Candidates
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import Embedder, embed
from realm_ds.observe.meters import Meters
from realm_ds.observe.progress import HELD_OUT, describe_evaluation
from realm_ds.train.best import BestModels
from realm_ds.train.engine import Engine
from realm_ds.train.export import unfilled, with_weights, write_models
from realm_ds.train.refresh import QueryTowers
from realm_ds.train.search_ahead import exclusion_of
from realm_ds.train.stage import Stage

log = logging.getLogger(__name__)

SEED = 0
"""Of order and masks: whatever its own seed, each run measures the same, and runs can be compared."""
ON_THEIR_WAY = 2
"""Searches that are asked for while the answer of an earlier one is worked on."""

Batch = TypeVar("Batch")
Pair = tuple[str, Any, float]
"""A measure's name, value and weight."""


class Turn(NamedTuple):
    """One forward pass of one trainer."""

    sentences: Sequence[MaskedExample]
    counts: bool
    """False: only there because the other trainers have one more batch, and passes are made together."""


class QuestionBatch(NamedTuple):
    """Questions that are searched together."""

    ids: Sequence[Sequence[int]]
    gold_uids: Sequence[Sequence[int]]
    answers: Sequence[Sequence[Sequence[int]]]
    """Wordpieces of each question's answers: what counts where gold passages are not known."""

    @property
    def needs_tokens(self) -> bool:
        return not all(self.gold_uids)


class Evaluation:
    """Measures at multiples of evaluate.every_steps and at the end. A collective of all trainers."""

    def __init__(
        self,
        stage: Stage,
        engine: Engine,
        *,
        towers: QueryTowers,
        client: IndexClient,
        turns: Sequence[Turn],
        questions: Sequence[QuestionBatch],
        best: BestModels | None,
    ) -> None:
        self._stage, self._engine, self._towers, self._client = stage, engine, towers, client
        self._turns, self._questions, self._best = turns, questions, best
        self._collator = stage.collator()
        self._continues_word_V = words_of(stage.tokenizer).continues_V

    def __call__(self, step: int) -> None:
        """Once `step` optimizer steps are done: measure, if it is time."""
        config = self._stage.config
        assert config.evaluate.every_steps is not None
        if step % config.evaluate.every_steps and step != config.pretrain.steps:
            return
        with self._stage.pulse.no_step_due():
            self._measure(step)

    def _measure(self, step: int) -> None:
        started_at = time.perf_counter()
        # The index of the step just done: it is adopted, and nobody has to wait for it to be built.
        version, tower = self._towers.at(step - 1)
        asking = partial(self._client.submit, step=step - 1, version=version, counts=False)
        pairs = [*self._of_sentences(tower, asking), *self._of_questions(tower, asking)]
        meters = Meters(list(dict.fromkeys(name for name, _, _ in pairs)))
        for name, value, weight in pairs:
            meters.add(name, value, weight)
        # The sum also holds trainers together: none launches a version while another still asks for an older one.
        means = meters.drain(self._stage.trainers.all_reduce_sum)
        took_ms = 1e3 * (time.perf_counter() - started_at)
        self._stage.sinks.write("evaluated", step=step, version=version, **means, evaluate_ms=took_ms)
        log.info("held out, after step %d: %s (%.1f s)", step, describe_evaluation(means), took_ms / 1e3)
        if self._best is not None:
            self._best.offer(step, means)

    def _of_sentences(self, tower: Embedder, asking: Callable[..., int]) -> Iterator[Pair]:
        """The objective's measures of every batch, and log p(y|x) per masked token."""
        config = self._stage.config
        num_hits = config.pretrain.num_retrieved

        def ask(turn: Turn) -> int:
            vectors_BP = embed(tower, self._collator.masked_queries(turn.sentences)).numpy()
            return asking(
                vectors_BP, exclusion=exclusion_of(turn.sentences, index=config.index), num_hits=num_hits
            )  # fmt: skip

        with self._engine.measuring() as measure:
            for turn, candidates in self._answered(self._turns, ask):
                batch = self._collator.marginal(turn.sentences, candidates)
                values = measure(batch).values
                loss, loss_weight = values["loss"]
                num_masks = float(batch.masks_BM.sum())
                # What the loss is a mean of adds up to -log p(y|x) of the batch in either form of the marginal.
                likelihood = {"log_likelihood": (-loss * loss_weight / num_masks, num_masks)}
                for name, (value, weight) in {**values, **likelihood}.items():
                    yield f"{HELD_OUT}{name}", value, weight * turn.counts

    def _of_questions(self, tower: Embedder, asking: Callable[..., int]) -> Iterator[Pair]:
        """Recall at k of every batch. Names come also from a trainer that has no question."""

        def ask(questions: QuestionBatch) -> int:
            return asking(
                embed(tower, self._collator.queries(questions.ids)).numpy(), num_hits=max(RECALL_AT),
                exclusion=exclude_nothing(len(questions.ids)), ids_only=not questions.needs_tokens,
            )  # fmt: skip

        if self._stage.config.evaluate.questions is not None:
            yield from ((f"{HELD_OUT}recall_at_{k}", 0.0, 0.0) for k in RECALL_AT)
        for questions, candidates in self._answered(self._questions, ask):
            found_BK = right_hits(candidates, questions, continues_word_V=self._continues_word_V)
            for k in RECALL_AT:
                yield f"{HELD_OUT}recall_at_{k}", recall_at(found_BK, k), float(len(found_BK))

    def _answered(self, batches: Iterable[Batch], ask: Callable[[Batch], int]) -> Iterator[tuple[Batch, Candidates]]:
        """Batches with what is found for them, in order; the next are asked for before the answer of one is awaited."""
        asked: deque[tuple[Batch, int]] = deque()
        for batch in batches:
            asked.append((batch, ask(batch)))
            if len(asked) > ON_THEIR_WAY:
                first, request = asked.popleft()
                yield first, self._client.collect(request)
        while asked:
            first, request = asked.popleft()
            yield first, self._client.collect(request)


def evaluation_of(
    stage: Stage, engine: Engine, *, model: RealmModel, towers: QueryTowers, client: IndexClient, first_step: int
) -> Evaluation | None:
    """What the settings ask for, None if nothing; reads the sentences and questions. Collective of trainers.

    Raises DataError where no sentence can be masked.
    """
    config, trainers = stage.config, stage.trainers
    if config.evaluate.every_steps is None:
        return None
    sentences = held_out_sentences(stage, config.evaluate.examples)
    questions, measured_on = _questions(stage), _measured_on(stage)
    turns = deal(
        sentences, most=config.pretrain.micro_batch_size, candidates=config.pretrain.candidates, trainer=trainers.rank,
        num_trainers=trainers.size,
    )  # fmt: skip
    own = questions[trainers.rank :: trainers.size]
    # Queries alone, so many that they take no more memory than the sequences of a micro-batch.
    at_once = config.pretrain.micro_batch_size * config.pretrain.candidates
    log.info("held out: %d sentences, %d questions, every %d steps",
             len(sentences), len(questions), config.evaluate.every_steps)  # fmt: skip
    best = None
    if config.evaluate.keep_best:
        # Made here, once: the writer's thread may draw no random number while training draws its dropout.
        kept = unfilled(config, vocab_size=stage.tokenizer.vocab_size) if trainers.rank == 0 else None
        best = BestModels(
            stage.folder, first_step=first_step, measured_on=measured_on, corpus=stage.corpus.digest[:12],
            trainers=trainers, writer=stage.writer, sinks=stage.sinks,
            copy_weights=partial(engine.copy_weights, model, keeps=trainers.rank == 0),
            write=partial(_write_models, kept, tokenizer_folder=config.data.tokenizer),
        )  # fmt: skip
    return Evaluation(
        stage, engine, towers=towers, client=client, turns=turns, best=best,
        questions=[_batch(own[start : start + at_once], stage.tokenizer) for start in range(0, len(own), at_once)],
    )  # fmt: skip


def _write_models(
    kept: RealmModel | None, weights: Mapping[str, Tensor], folder: Path, *, tokenizer_folder: Path
) -> None:
    assert kept is not None, "trainer 0 alone writes"
    write_models(with_weights(kept, weights), folder, tokenizer_folder=tokenizer_folder)


def deal(
    sentences: Sequence[MaskedExample], *, most: int, candidates: int, trainer: int, num_trainers: int
) -> list[Turn]:
    """This trainer's part of the sentences, at most `most` in a forward pass; every sentence counts on one trainer.

    As many passes on every trainer, and each gathers weights as often (ZeRO-3): who has a batch less repeats the first
    one, uncounted, and no batch is so small that it has fewer buckets (collate.py) than another.
    """
    num_batches = -(-len(sentences) // most)
    if num_batches < len(sentences) and len(sentences) // num_batches * candidates < JOINT_BUCKETS:
        num_batches = len(sentences)  # one by one: all alike
    parts = np.array_split(np.arange(len(sentences)), num_batches) if num_batches else []
    batches = [[sentences[place] for place in part.tolist()] for part in parts]
    numbers = range(trainer, trainer + -(-num_batches // num_trainers) * num_trainers, num_trainers)
    return [Turn(batches[number], True) if number < num_batches else Turn(batches[0], False) for number in numbers]


def right_hits(candidates: Candidates, questions: QuestionBatch, *, continues_word_V: np.ndarray) -> np.ndarray:
    """Bool [B, K]: hits that are gold passages, or, of questions without any, whose body holds an answer."""
    found_BK = gold_hits(candidates.uids_BK, questions.gold_uids)
    for row, (gold, answers) in enumerate(zip(questions.gold_uids, questions.answers, strict=True)):
        if not gold:
            tokens_T, offsets = candidates.bodies(row)
            spans = find_answer_spans(tokens_T, offsets, answers, continues_word_V=continues_word_V)
            found_BK[row, spans.row_S] = True
    return found_BK


def held_out_sentences(stage: Stage, wanted: int) -> list[MaskedExample]:
    """The first of data.held_out that can be masked, in an order and masked in a way that never change."""
    if stage.config.data.held_out is None:
        return []
    shards = stage.held_out_shards()
    one_epoch = islice(ExampleStream(shards, seed=SEED, reader=0, num_readers=1), shards.count)
    sentences = [sentence for sentence, _ in islice(stage.masked(one_epoch, seed=SEED), wanted)]
    if not sentences:
        raise DataError(
            f"none of the {shards.count} sentences in data.held_out={shards} can be masked within data.query_tokens="
            f"{stage.config.data.query_tokens}: raise that, or write held-out shards that have spans"
        )
    return sentences


def _questions(stage: Stage) -> list[Question]:
    settings = stage.config.evaluate
    if settings.questions is None:
        return []
    return load_questions(settings.questions)[: settings.max_questions]


def _measured_on(stage: Stage) -> str:
    """By contents, wherever the files are: values of best.json are comparable where this is equal."""
    config, parts = stage.config, []
    if config.data.held_out is not None:
        parts.append(f"{config.evaluate.examples} sentences of {stage.held_out_shards().digest[:12]}")
    if config.evaluate.questions is not None:
        digest = sha256(config.evaluate.questions.read_bytes()).hexdigest()
        parts.append(f"{config.evaluate.max_questions} questions of {digest[:12]}")
    return " and ".join(parts)


def _batch(questions: Sequence[Question], tokenizer: Tokenizer) -> QuestionBatch:
    return QuestionBatch(
        ids=tokenizer.encode_questions([question.question for question in questions]),
        gold_uids=[question.gold_uids for question in questions],
        answers=[tokenizer.encode_all(question.answers) for question in questions],
    )
