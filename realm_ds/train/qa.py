"""Fine-tuning on open-domain questions: query tower and span reader trained through ZeRO, passage vectors frozen.

What is measured afterwards is eval/qa.py's business; the networks and losses are models/qa.py's and models/reader.py's.

Shapes: N passages retrieved, K of them read, B questions of a micro-batch, L tokens, W span widths, P embedding.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm_ds.comm.trainers import Trainers
from realm_ds.config.schema import QaConfig
from realm_ds.data.answer_spans import AnswerSpans, find_answer_spans, gold_span_mask
from realm_ds.data.chance import permutation
from realm_ds.data.question_files import load_questions
from realm_ds.data.records import Question
from realm_ds.data.stream import StreamState
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.errors import ConfigError
from realm_ds.eval.corpus import CorpusIndex, tensors
from realm_ds.eval.qa import ReadingSizes, Row, answer_questions, joint_tokens, majority_answers, summarise
from realm_ds.index.shard import load_shard
from realm_ds.models.qa import FoundPassages, QaBatch, QaModel, QaObjective, build_qa_model
from realm_ds.models.towers import Embedder
from realm_ds.train import checkpoint
from realm_ds.train.engine import Engine
from realm_ds.train.loop import StepInfo, run_steps, seed_step
from realm_ds.train.recall import embed_passages
from realm_ds.train.stage import Stage

STAGE = "qa"
EVALUATED = ("dev", "test")
"""Splits that are answered once training is over. Nothing is chosen by either."""


def train_qa(stage: Stage, *, deepspeed_json: Mapping[str, Any], resume: bool) -> dict[str, dict[str, Any]]:
    """Train to qa.steps, then answer dev and test questions; returns their scores, on every trainer.

    Writes `export/` (query tower and reader), `qa/SPLIT.json` (scores) and `qa/SPLIT.jsonl` (a row for each question).
    """
    settings = stage.config.qa
    train = load_questions(_data(settings) / "train.jsonl")
    model, corpus = _model_and_corpus(stage)
    finder = PassageFinder(train, corpus, tokenizer=stage.tokenizer, settings=settings, sizes=_sizes(stage))
    engine = Engine(
        QaObjective(model, find=finder),
        stage=settings,
        optimizer=stage.config.optimizer,
        deepspeed_json=deepspeed_json,
        num_trainers=stage.trainers.size,
    )
    first_step = 0
    if resume:
        first_step = checkpoint.load(engine, checkpoint.find(stage.folder), stage=STAGE, trainers=stage.trainers).step
    steps = _steps(stage, engine, train, finder, first_step=first_step)
    run_steps(steps, name=STAGE, stage=stage, engine=engine, settings=settings, first_step=first_step)
    trained = _whole_copy(stage, engine, model)
    if stage.trainers.rank == 0:
        trained.save(stage.folder / "export")
    return {split: evaluate_split(stage, trained, corpus, train, split=split) for split in EVALUATED}


class PassageFinder:
    """Finds passages for questions of the training set and marks what in them is right, all from wordpieces in memory.

    Right is what stands there word for word, as in ORQA: answers in titles do not count, since the reader sees none.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        corpus: CorpusIndex,
        *,
        tokenizer: Tokenizer,
        settings: QaConfig,
        sizes: ReadingSizes,
    ) -> None:
        self._corpus, self._settings, self._sizes = corpus, settings, sizes
        self._special = tokenizer.special
        self.question_ids = tokenizer.encode_all([question.question for question in questions])
        self._answers = [tokenizer.encode_all(question.answers) for question in questions]
        pieces = tokenizer.tokens(range(tokenizer.vocab_size))
        self._continues_word_V = np.array([piece.startswith("##") for piece in pieces])

    def __call__(self, batch: QaBatch, query_BP: Tensor) -> FoundPassages:
        """The `retrieve` best passages of each question, and of these the `read` to read."""
        settings, device = self._settings, query_BP.device
        places_BN = self._corpus.search(query_BP.float().cpu().numpy(), num_hits=settings.retrieve).places_BK
        spans_B = [self._spans(number, places) for number, places in zip(batch.numbers, places_BN, strict=True)]
        holds_BN = np.zeros(places_BN.shape, dtype=bool)
        for row, spans in enumerate(spans_B):
            holds_BN[row, spans.row_S] = True
        read_BK = np.stack([choose_read(holds, self._sizes.read, settings.read_one_with_answer) for holds in holds_BN])
        tokens, is_gold_RLW = self._joint(batch, np.take_along_axis(places_BN, read_BK, axis=1), read_BK, spans_B)
        return FoundPassages(
            vectors_BNP=torch.from_numpy(self._corpus.vectors_NP[places_BN]).to(device),
            holds_answer_BN=torch.from_numpy(holds_BN).to(device),
            read_BK=torch.from_numpy(read_BK).to(device),
            joint=tensors(tokens, device),
            is_gold_BKLW=torch.from_numpy(is_gold_RLW).unflatten(0, read_BK.shape).to(device),
        )

    def _spans(self, number: int, places: np.ndarray) -> AnswerSpans:
        """Answers of one question in the bodies of some passages; `row_S` counts those passages."""
        tokens_T, offsets = self._corpus.tokens(places)
        spans = find_answer_spans(tokens_T, offsets, self._answers[number], continues_word_V=self._continues_word_V)
        in_body = spans.row_S % 2 == 1
        return AnswerSpans(
            row_S=spans.row_S[in_body] // 2, start_S=spans.start_S[in_body], stop_S=spans.stop_S[in_body]
        )

    def _joint(
        self, batch: QaBatch, places_BK: np.ndarray, read_BK: np.ndarray, spans_B: Sequence[AnswerSpans]
    ) -> tuple[Any, np.ndarray]:
        """Joint sequences of all pairs, and which of their spans are answers."""
        tokens, body_starts_R = joint_tokens(
            [self.question_ids[number] for number in batch.numbers],
            [self._corpus.bodies(places) for places in places_BK],
            special=self._special,
            sizes=self._sizes,
        )
        read = read_BK.shape[1]
        parts = [_of_read(spans, read_BK[row], first_row=row * read) for row, spans in enumerate(spans_B)]
        spans = AnswerSpans(
            row_S=np.concatenate([part.row_S for part in parts]),
            start_S=np.concatenate([part.start_S for part in parts]),
            stop_S=np.concatenate([part.stop_S for part in parts]),
        )
        is_gold_RLW = gold_span_mask(
            spans,
            body_starts_R,
            num_tokens=tokens.ids_BL.shape[1],
            max_span_tokens=self._settings.max_span_tokens,
        )
        return tokens, is_gold_RLW


def choose_read(holds_answer_N: np.ndarray, read: int, read_one_with_answer: bool) -> np.ndarray:
    """Which of N retrieved passages, best first, to read: the first K; if asked for, with one that holds an answer."""
    chosen = np.arange(min(read, len(holds_answer_N)))
    if read_one_with_answer and holds_answer_N.any() and not holds_answer_N[: len(chosen)].any():
        chosen[-1] = holds_answer_N.argmax()
    return chosen


def question_order(count: int, *, start: int, stop: int, seed: int) -> list[int]:
    """Questions start..stop-1 of an endless order in which every epoch is a permutation of all, by seed and epoch."""
    orders = {epoch: permutation(count, seed, epoch, "questions") for epoch in range(start // count, -(-stop // count))}
    return [int(orders[place // count][place % count]) for place in range(start, stop)]


def evaluate_split(
    stage: Stage, model: QaModel, corpus: CorpusIndex, train: Sequence[Question], *, split: str
) -> dict[str, Any]:
    """Answer a split's questions, dealt out to the trainers, and write rows and scores. Collective."""
    settings, trainers = stage.config.qa, stage.trainers
    questions = load_questions(_data(settings) / f"{split}.jsonl")
    own = questions[trainers.rank :: trainers.size]
    rows = answer_questions(
        model,
        own,
        corpus,
        folder=stage.config.data.corpus,
        manifest=stage.corpus,
        tokenizer=stage.tokenizer,
        sizes=_sizes(stage),
        majority=majority_answers(train),
        seed=stage.config.runtime.seed,
    )
    every = _gather_rows(rows, trainers)
    in_order = [every[number % trainers.size][number // trainers.size] for number in range(len(questions))]
    scores = summarise(in_order)
    if trainers.rank == 0:
        _write(stage.folder / "qa" / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in in_order))
        _write(stage.folder / "qa" / f"{split}.json", json.dumps(scores, indent=1) + "\n")
        numbers: dict[str, Any] = {name: value for name, value in scores.items() if isinstance(value, int | float)}
        stage.sinks.write("result", split=split, **numbers)
    return scores


def _steps(
    stage: Stage, engine: Engine, train: Sequence[Question], finder: PassageFinder, *, first_step: int
) -> Iterator[StepInfo]:
    settings, seed, trainers = stage.config.qa, stage.config.runtime.seed, stage.trainers
    collator = stage.collator()
    size, accumulated = settings.micro_batch_size, settings.gradient_accumulation_steps
    for step in range(first_step, settings.steps):
        seed_step(seed, trainer_rank=trainers.rank, step=step)
        batches = []
        for micro_step in range(step * accumulated, (step + 1) * accumulated):
            start = (micro_step * trainers.size + trainers.rank) * size
            numbers = question_order(len(train), start=start, stop=start + size, seed=seed)
            ids = [finder.question_ids[number] for number in numbers]
            questions = collator.queries(ids, max_tokens=settings.question_tokens)
            batches.append(QaBatch(questions=questions, numbers=tuple(numbers)))
        measures = engine.train_step(batches, step=step)
        epoch, position = divmod((step + 1) * accumulated * trainers.size * size, len(train))
        yield StepInfo(
            step=step + 1,
            stream=StreamState(epoch=epoch, position=position),
            measures=measures,
        )


def _model_and_corpus(stage: Stage) -> tuple[QaModel, CorpusIndex]:
    """The networks to fine-tune, and the corpus as the passage tower sees it before that."""
    config = stage.config
    realm = stage.model()
    vectors_NP = _embed_corpus(stage, realm.passage_tower)
    passages = load_shard(config.data.corpus, stage.corpus, shard_rank=0, num_shards=1)
    model = _qa_model(stage, realm).train()
    return model, CorpusIndex(passages, vectors_NP)


def _qa_model(stage: Stage, realm: Any) -> QaModel:
    settings = stage.config.qa
    return build_qa_model(
        realm,
        span_hidden_size=settings.span_hidden_size,
        max_span_tokens=settings.max_span_tokens,
        seed=stage.config.runtime.seed,
    ).to(stage.device)


def _embed_corpus(stage: Stage, tower: Embedder) -> np.ndarray:
    """Vectors of all passages, each trainer embedding its part of the corpus, float32 (N, P)."""
    config, trainers = stage.config, stage.trainers
    part = load_shard(config.data.corpus, stage.corpus, shard_rank=trainers.rank, num_shards=trainers.size)
    own_NP = embed_passages(tower.eval(), part, config=config, special=stage.tokenizer.special)
    parts = [
        trainers.broadcast_bytes(own_NP.tobytes() if rank == trainers.rank else None, source=rank)
        for rank in range(trainers.size)
    ]
    return np.concatenate([np.frombuffer(data, dtype=np.float32).reshape(-1, own_NP.shape[1]) for data in parts])


def _whole_copy(stage: Stage, engine: Engine, model: QaModel) -> QaModel:
    """The trained networks outside ZeRO, whole on every trainer. Collective."""
    weights = engine.copy_weights(model)
    copy = _qa_model(stage, stage.model())
    copy.load_state_dict(weights)
    return copy.eval()


def _of_read(spans: AnswerSpans, read_K: np.ndarray, *, first_row: int) -> AnswerSpans:
    """Spans in the passages that are read, with rows counted in the joint batch."""
    is_read_SK = spans.row_S[:, None] == read_K
    kept = is_read_SK.any(axis=1)
    return AnswerSpans(
        row_S=first_row + is_read_SK[kept].argmax(axis=1), start_S=spans.start_S[kept], stop_S=spans.stop_S[kept]
    )


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


def _data(settings: QaConfig) -> Path:
    if settings.data is None:
        raise ConfigError("qa.data is not set: name the folder of train.jsonl, dev.jsonl and test.jsonl")
    return settings.data


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
