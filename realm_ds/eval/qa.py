"""Question answering, measured: predictions of a fine-tuned model and the baselines beside it, a row for each question.

Training is train/qa.py's business; rules of scoring are answers.py's, scores of many rows scores.py's.

Shapes: B questions, K passages read for each, R pairs of a question and a passage, L tokens, W span widths.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from realm_ds.data.answer_spans import span_text
from realm_ds.data.answers import holds_answer, normalise
from realm_ds.data.batches import Ids, Tokens, length_buckets, passage_batch
from realm_ds.data.chance import pick
from realm_ds.data.records import NUM_SPECIAL, Passage, Question, SpecialIds
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.answers import is_right, token_f1
from realm_ds.eval.corpus import CorpusIndex, embed_queries, passages_at, tensors
from realm_ds.eval.retrieval import NOT_FOUND
from realm_ds.eval.scores import QA_RECALL_AT, Row
from realm_ds.models.qa import QaModel
from realm_ds.models.reader import best_spans, reader_logits

SHOWN_PASSAGES = 5
TOKENS_AT_ONCE = 4096
"""Padded wordpieces that the reader reads in one pass."""
Pair = tuple[Ids, Ids]
"""A question and the body of a passage, as wordpieces."""


@dataclass(frozen=True, kw_only=True)
class ReadingSizes:
    """How much of questions and passages is read."""

    question_tokens: int
    passage_tokens: int
    read: int
    """Passages read for each question."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The best span of one question: the passage's place in the corpus, and wordpieces of its body."""

    place: int
    start: int
    stop: int


def joint_tokens(pairs: Sequence[Pair], *, special: SpecialIds, sizes: ReadingSizes) -> tuple[Tokens, np.ndarray]:
    """[CLS] question [SEP] body [SEP] of (question, body) pairs, and where each body begins."""
    cut = [(question[: sizes.question_tokens - 2], body[: sizes.passage_tokens - 2]) for question, body in pairs]
    body_starts_R = np.array([2 + len(question) for question, _ in cut], dtype=np.int64)
    # The format of a passage, with the question in the place of its title.
    return passage_batch(cut, special=special, max_tokens=sizes.question_tokens + sizes.passage_tokens), body_starts_R


@torch.inference_mode()
def predict(
    model: QaModel,
    questions: Sequence[Ids],
    places_BK: np.ndarray,
    scores_BK: np.ndarray,
    corpus: CorpusIndex,
    *,
    special: SpecialIds,
    sizes: ReadingSizes,
) -> list[Prediction]:
    """The best span of each question over the K passages given, whose scores count as in training.

    Pairs of all questions are read in batches of like length.
    """
    model.eval()
    device = next(model.parameters()).device
    num_read = places_BK.shape[1]
    pairs = [
        (question, body)
        for question, places in zip(questions, places_BK, strict=True)
        for body in corpus.bodies(places)
    ]
    logits_R, scores_R = np.empty(len(pairs), dtype=np.float32), scores_BK.ravel()
    starts_R, stops_R = np.empty(len(pairs), dtype=np.int64), np.empty(len(pairs), dtype=np.int64)
    longest = sizes.question_tokens + sizes.passage_tokens
    lengths_R = [min(longest, NUM_SPECIAL + len(question) + len(body)) for question, body in pairs]
    for rows in length_buckets(lengths_R, max_tokens=max(TOKENS_AT_ONCE, longest)):
        tokens, body_starts = joint_tokens([pairs[row] for row in rows], special=special, sizes=sizes)
        spans_RLW, possible_RLW = model.reader(tensors(tokens, device))
        scores_R1 = torch.from_numpy(scores_R[rows, None]).to(device)
        best = best_spans(reader_logits(spans_RLW[:, None], possible_RLW[:, None], scores_R1))
        logits_R[rows] = best.logit_B.cpu().numpy()
        starts_R[rows] = best.start_B.cpu().numpy() - body_starts
        stops_R[rows] = best.stop_B.cpu().numpy() - body_starts
    chosen_B = np.arange(len(questions)) * num_read + logits_R.reshape(-1, num_read).argmax(axis=1)
    return [
        Prediction(place=int(places_BK.ravel()[row]), start=int(starts_R[row]), stop=int(stops_R[row]))
        for row in chosen_B.tolist()
    ]


def answer_questions(
    model: QaModel,
    questions: Sequence[Question],
    corpus: CorpusIndex,
    *,
    shards: Shards,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
    majority: Mapping[str, str],
    seed: int,
) -> list[Row]:
    """A row of results for each question: predictions with and without retrieval, and what was retrieved.

    Without retrieval the same reader reads random passages of the corpus, all equally likely.
    """
    if not questions:  # A split with fewer questions than trainers.
        return []
    ids = tokenizer.encode_questions([question.question for question in questions])
    special = tokenizer.special
    queries_BP = embed_queries(model.query_tower, ids, special=special, max_tokens=sizes.question_tokens)
    hits = corpus.search(queries_BP, num_hits=max(*QA_RECALL_AT, sizes.read))
    read = min(sizes.read, hits.places_BK.shape[1])
    random_BK = np.array(
        [[pick(len(corpus), seed, "random passage", q.id, place) for place in range(read)] for q in questions]
    )
    found = predict(
        model, ids, hits.places_BK[:, :read], hits.scores_BK[:, :read], corpus, special=special, sizes=sizes
    )
    blind = predict(
        model, ids, random_BK, np.zeros(random_BK.shape, dtype=np.float32), corpus, special=special, sizes=sizes
    )
    places = {prediction.place for prediction in (*found, *blind)} | set(hits.places_BK.ravel().tolist())
    passages = passages_at(shards, places)
    return [
        _row(
            question,
            prediction=_text(found[number], passages, tokenizer),
            blind=_text(blind[number], passages, tokenizer),
            majority=majority.get(question.field, majority[""]),
            retrieved=[passages[place] for place in hits.places_BK[number].tolist()],
            scores=hits.scores_BK[number],
            num_read=read,
        )
        for number, question in enumerate(questions)
    ]


def majority_answers(questions: Sequence[Question]) -> dict[str, str]:
    """The most common normalised answer of each field, and of all under ""; the first in the alphabet where tied."""
    counts: dict[str, Counter[str]] = {"": Counter()}
    for question in questions:
        for answer in {normalise(answer) for answer in question.answers}:
            counts[""][answer] += 1
            if question.field:
                counts.setdefault(question.field, Counter())[answer] += 1
    return {field: min(counter, key=lambda answer: (-counter[answer], answer)) for field, counter in counts.items()}


def _row(
    question: Question,
    *,
    prediction: str,
    blind: str,
    majority: str,
    retrieved: Sequence[Passage],
    scores: np.ndarray,
    num_read: int,
) -> Row:
    is_gold = [passage.uid in question.gold_uids for passage in retrieved]
    holds = [holds_answer(passage.text, question) for passage in retrieved]
    return {
        "id": question.id,
        "question": question.question,
        "field": question.field,
        "answers": list(question.answers),
        "prediction": prediction,
        "is_exact": is_right(prediction, question),
        "f1": token_f1(prediction, question),
        "prediction_no_retrieval": blind,
        "is_exact_no_retrieval": is_right(blind, question),
        "is_exact_majority": is_right(majority, question),
        # Where nobody has said which passages are gold, those that hold an answer are.
        "found_place": _first(is_gold if question.gold_uids else holds),
        "answer_place": _first(holds),
        "is_answer_read": any(holds[:num_read]),
        "retrieved": [
            {
                "uid": passage.uid,
                "title": passage.title,
                "text": passage.text,
                "score": float(scores[place]),
                "is_gold": is_gold[place] if question.gold_uids else holds[place],
            }
            for place, passage in enumerate(retrieved[:SHOWN_PASSAGES])
        ],
    }


def _text(prediction: Prediction, passages: Mapping[int, Passage], tokenizer: Tokenizer) -> str:
    passage = passages[prediction.place]
    return span_text(
        passage.body_ids,
        prediction.start,
        prediction.stop,
        text=passage.text,
        encode_with_offsets=tokenizer.encode_with_offsets,
        decode=tokenizer.decode,
    )


def _first(flags: Sequence[bool]) -> int:
    return list(flags).index(True) if any(flags) else NOT_FOUND
