"""Fine-tuning on open-domain questions: query tower and reader trained through ZeRO, passages frozen or refreshed.

Where passages come from is passage_index.py's business, what is measured afterwards eval/qa.py's; the networks and
losses are models/qa.py's and models/readers.py's.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from realm_ds.comm.mailbox import Mailbox
from realm_ds.comm.trainers import Trainers
from realm_ds.config.base import StageName
from realm_ds.data.question_files import load_questions, question_order
from realm_ds.data.records import Question
from realm_ds.data.redeal import StreamState
from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.words import one_word_questions
from realm_ds.eval.exported import CARD, PASSAGES, AnswerSettings, write_qa_export
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.eval.qa import Find, answer_questions, baselines, in_batches, majority_answers, retrieve_for_questions
from realm_ds.eval.scores import Row, summarise
from realm_ds.files import write_durably
from realm_ds.models.qa import QaBatch, QaModel, QaObjective, build_qa_model, build_word_model
from realm_ds.models.realm import RealmModel
from realm_ds.models.towers import Towers
from realm_ds.observe.progress import describe_result
from realm_ds.sealed import replace_file
from realm_ds.train.engine import Engine
from realm_ds.train.export_card import code_of, qa_card, scores_of
from realm_ds.train.find import PassageFinder
from realm_ds.train.loop import Ending, StepInfo, run_steps, seed_step
from realm_ds.train.manifest import saved_steps
from realm_ds.train.passage_index import PassageIndex, open_index
from realm_ds.train.resume import Resumed, go_on
from realm_ds.train.stage import Stage

log = logging.getLogger(__name__)

STAGE: StageName = "qa"
EXPORT = "export"
QUESTIONS = "questions"
"""The stream of training questions."""


def train_qa(stage: Stage, mailbox: Mailbox | None, *, deepspeed_json: Mapping[str, Any], resume: bool) -> Ending:
    """Train to qa.steps, then answer the splits of qa.answered; `mailbox` reaches the index ranks, if there are such.

    Writes `export/` (the models and all that they answer from: eval/exported.py), `qa/SPLIT.json` (scores) and
    `qa/SPLIT.jsonl` (a row for each question), before the first step `qa/SPLIT.before.json`: what the retriever finds
    without fine-tuning, the paper's zero-shot recall.
    """
    model, index = _open(stage, mailbox)
    if index is None:
        return Ending(step=max(saved_steps(stage.folder), default=0), is_early=True)
    ending = _train(stage, model, index, deepspeed_json=deepspeed_json, resume=resume)
    index.leave(early=ending.is_early)
    return ending


def _train(
    stage: Stage, model: QaModel, index: PassageIndex, *, deepspeed_json: Mapping[str, Any], resume: bool
) -> Ending:
    settings = stage.config.qa
    train = load_questions(settings.folder / "train.jsonl")
    asked = _learnable(stage, train)
    finder = PassageFinder(
        asked, index.retrieve, tokenizer=stage.tokenizer, settings=settings, sizes=_sizes(stage), timer=stage.timer
    )
    engine = Engine(
        QaObjective(model, find=finder),
        stage=settings,
        optimizer=stage.config.optimizer,
        deepspeed_json=deepspeed_json,
        num_trainers=stage.trainers.size,
    )
    resumed = go_on(engine, stage, STAGE) if resume else Resumed()
    index.start(engine, step=resumed.step)
    steps = _steps(
        stage, engine, asked, finder, index, resumed,
        measure_before=lambda: _measure_before(stage, _whole_copy(stage, engine, model), index),
    )  # fmt: skip
    ending = run_steps(steps, name=STAGE, stage=stage, engine=engine, settings=settings, first_step=resumed.step)
    # The last checkpoint is there from here on: what follows it can be done again.
    if ending.is_early or not index.finish(ending.step):
        return Ending(step=ending.step, is_early=True)
    trained = _whole_copy(stage, engine, model)
    _export(stage, trained, index)
    if stage.must_leave():
        return Ending(step=ending.step, is_early=True)
    for split in stage.config.qa.answered:
        if not evaluate_split(stage, trained, index, train, split=split):
            return Ending(step=ending.step, is_early=True)
    if stage.trainers.rank == 0:
        export = stage.folder / EXPORT
        replace_file(export, CARD, _card(stage, scores=scores_of(stage.folder, export)))
    return ending


def evaluate_split(stage: Stage, model: QaModel, index: PassageIndex, train: Sequence[Question], *, split: str) -> bool:
    """Answer a split's questions, dealt out to the trainers, and write rows and scores. False, with nothing written,
    where a trainer was asked to end meanwhile. Collective."""
    tools = {"shards": _passages(stage), **_tools(stage)}
    seed, majority = stage.config.runtime.seed, majority_answers(train)

    def answer(own: Sequence[Question]) -> list[Row]:
        answered = answer_questions(model, own, _find(index), **tools)
        beside = baselines(model, own, **tools, majority=majority, seed=seed)
        return [{**row, **baseline} for row, baseline in zip(answered, beside, strict=True)]

    in_order = _rows(stage, split, answer, doing="answering")
    if in_order is None:
        return False
    scores = summarise(in_order)
    if stage.trainers.rank == 0:
        write_durably(stage.folder / "qa" / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in in_order))
        write_durably(stage.folder / "qa" / f"{split}.json", json.dumps(scores, indent=1) + "\n")
        numbers: dict[str, Any] = {name: value for name, value in scores.items() if isinstance(value, int | float)}
        stage.sinks.write("result", split=split, **numbers)
        log.info("%s: %s", split, describe_result(numbers))
    return True


def _learnable(stage: Stage, train: Sequence[Question]) -> Sequence[Question]:
    """The questions that are trained on, and how many are left out, in the metrics."""
    settings = stage.config.qa
    if settings.answer_by == "span":
        return train
    asked = one_word_questions(train, stage.tokenizer, where=settings.folder / "train.jsonl")
    stage.sinks.write("asked", train_questions=len(asked), train_questions_skipped=len(train) - len(asked))
    return asked


def _measure_before(stage: Stage, model: QaModel, index: PassageIndex) -> bool:
    """Write what the retriever finds of every split before it is fine-tuned. False as of evaluate_split. Collective."""
    if stage.corpus.place.folder is None:
        log.info("recall before fine-tuning is not measured: single passages cannot be taken from %s", stage.corpus)
        return True
    tools = {"shards": stage.corpus, **_tools(stage)}

    def retrieve(own: Sequence[Question]) -> list[Row]:
        return retrieve_for_questions(model.query_tower, own, _find(index), **tools)

    for split in stage.config.qa.answered:
        in_order = _rows(stage, split, retrieve, doing="retrieving for")
        if in_order is None:
            return False
        if stage.trainers.rank == 0:
            write_durably(
                stage.folder / "qa" / f"{split}.before.json", json.dumps(summarise(in_order), indent=1) + "\n"
            )
    return True


def _rows(
    stage: Stage, split: str, rows_of: Callable[[Sequence[Question]], list[Row]], *, doing: str
) -> list[Row] | None:
    """A row for each question of a split, in order, each made by one trainer; None where one was asked to end
    meanwhile. Collective."""
    trainers = stage.trainers
    questions = load_questions(stage.config.qa.folder / f"{split}.jsonl")
    rows: list[Row] = []
    num_done = 0
    for batch in in_batches(questions, num_answering=trainers.size):
        if stage.must_leave():
            return None
        stage.sinks.write("doing", text=f"{doing} {split} questions, {num_done} of {len(questions)}")
        num_done += len(batch)
        rows += rows_of(batch[trainers.rank :: trainers.size])
    every = _gather_rows(rows, trainers)
    return [every[number % trainers.size][number // trainers.size] for number in range(len(questions))]


def _find(index: PassageIndex) -> Find:
    return lambda _, queries_BP, num_hits: index.search(queries_BP, num_hits)


def _tools(stage: Stage) -> dict[str, Any]:
    return {"tokenizer": stage.tokenizer, "sizes": _sizes(stage)}


def _export(stage: Stage, model: QaModel, index: PassageIndex) -> None:
    """Trainer 0 writes the export; nothing is there where it was asked to end meanwhile. Collective."""
    config = stage.config
    if stage.trainers.rank == 0 and (vectors := index.vectors()) is not None:
        write_qa_export(
            stage.folder / EXPORT, model, shards=stage.corpus, vectors=vectors, tokenizer_folder=config.data.tokenizer,
            settings=AnswerSettings(
                sizes=_sizes(stage), null_passage=False, temperature=1.0,
                tokenizer_fingerprint=stage.tokenizer.fingerprint,
            ),
            card=_card(stage),
        )  # fmt: skip
    # It reads and writes the whole corpus, which takes longer than anything that trainers else wait for one another.
    stage.trainers.barrier(
        timeout_s=max(config.runtime.wait_timeout_s, config.index.build_timeout_s),
        waiting_for=f"trainer 0 to write {stage.folder / EXPORT} (index.build_timeout_s)",
    )


def _card(stage: Stage, *, scores: Mapping[str, Mapping[str, float]] | None = None) -> str:
    config = stage.config
    return qa_card(
        layout="realm", corpus=stage.corpus, sizes=_sizes(stage), config=config, answer_by=config.qa.answer_by,
        made=f"Fine-tuned in {config.qa.steps} steps with {code_of(stage.folder)}", scores=scores,
    )  # fmt: skip


def _steps(
    stage: Stage,
    engine: Engine,
    train: Sequence[Question],
    finder: PassageFinder,
    index: PassageIndex,
    resumed: Resumed,
    *,
    measure_before: Callable[[], bool],
) -> Iterator[StepInfo]:
    settings, seed, trainers = stage.config.qa, stage.config.runtime.seed, stage.trainers
    collator = stage.collator()
    size, accumulated = settings.micro_batch_size, settings.gradient_accumulation_steps
    # One order for all trainers, each taking its questions of every global batch: how many trainers took the questions
    # before makes no difference to what comes next.
    num_asked = sum(state.epoch * len(train) + state.position for state in resumed.stream(QUESTIONS)[:1])
    for step in range(resumed.step, settings.steps):
        if not index.prepare_step(step) or (step == 0 and not measure_before()):
            return
        seed_step(seed, trainer_rank=trainers.rank, step=step)
        batches = []
        with stage.timer.phase("data"):
            for _ in range(accumulated):
                start = num_asked + trainers.rank * size
                num_asked += trainers.size * size
                numbers = question_order(len(train), start=start, stop=start + size, seed=seed)
                ids = [finder.question_ids[number] for number in numbers]
                questions = collator.queries(ids, max_tokens=settings.question_tokens)
                batches.append(QaBatch(questions=questions, numbers=tuple(numbers)))
        measures = engine.train_step(batches, step=step, timer=stage.timer)
        epoch, position = divmod(num_asked, len(train))
        wait_s, figures, facts = index.take_step()
        yield StepInfo(
            step=step + 1,
            streams={QUESTIONS: StreamState(epoch=epoch, position=position)},
            measures=measures,
            wait_s=wait_s,
            figures=figures,
            facts={"retrieved_crc32": finder.take_digest(), **facts},
        )


def _open(stage: Stage, mailbox: Mailbox | None) -> tuple[QaModel, PassageIndex | None]:
    """The networks to fine-tune, and what they search in: None where a trainer was asked to end meanwhile."""
    realm = stage.model()
    index = open_index(stage, Towers(query=realm.query_tower, passage=realm.passage_tower), mailbox)
    return _qa_model(stage, realm).train(), index


def _qa_model(stage: Stage, realm: RealmModel) -> QaModel:
    settings = stage.config.qa
    if settings.answer_by == "masked_word":
        return build_word_model(realm, trains_passages=settings.refresh_passages).to(stage.device)
    return build_qa_model(
        realm,
        span_hidden_size=settings.span_hidden_size,
        max_span_tokens=settings.max_span_tokens,
        seed=stage.config.runtime.seed,
        trains_passages=settings.refresh_passages,
    ).to(stage.device)


def _whole_copy(stage: Stage, engine: Engine, model: QaModel) -> QaModel:
    """The trained networks outside ZeRO, whole on every trainer. Collective."""
    weights = engine.copy_weights(model)
    return _qa_model(stage, stage.model()).with_weights(weights).eval()


def _passages(stage: Stage) -> Shards:
    """The corpus where single passages can be taken from it: what is elsewhere lies in the export now."""
    if stage.corpus.place.folder is not None:
        return stage.corpus
    return open_shards(stage.folder / EXPORT / PASSAGES, kind="corpus", fingerprint=stage.tokenizer.fingerprint)


def _gather_rows(rows: list[Row], trainers: Trainers) -> list[list[Row]]:
    data = json.dumps(rows).encode()
    return [
        json.loads(trainers.broadcast_bytes(data if rank == trainers.rank else None, source=rank))
        for rank in range(trainers.size)
    ]


def _sizes(stage: Stage) -> ReadingSizes:
    settings = stage.config.qa
    return ReadingSizes(
        question_tokens=settings.question_tokens,
        passage_tokens=stage.config.data.passage_tokens,
        read=settings.read,
    )
