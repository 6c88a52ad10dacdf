"""Question answering, measured: predictions of a fine-tuned model and the baselines beside it, a row for each question.

Training is train/qa.py's business, reading reading.py's; rules of scoring are answers.py's, scores scores.py's.

Shapes: B questions, K passages found for each, P embedding.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from realm_ds.data.answers import AnswerFinder, normalise
from realm_ds.data.batches import Ids
from realm_ds.data.chance import pick
from realm_ds.data.records import Passage, Question
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.answers import is_right, token_f1
from realm_ds.eval.bm25 import Bm25
from realm_ds.eval.corpus import CorpusIndex, embed_queries
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.eval.reading import are_answerable, read_answers
from realm_ds.eval.retrieval import NOT_FOUND
from realm_ds.eval.scores import QA_RECALL_AT, Row
from realm_ds.models.qa import QaModel
from realm_ds.models.towers import Embedder

SHOWN_PASSAGES = 5
MOST_HITS = max(QA_RECALL_AT)
QUESTIONS_AT_ONCE = 256
"""Whose passages are in memory together, up to MOST_HITS each of some 13 KB, and are searched for in one request."""
Find = Callable[[Sequence[Question], np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Places [B, K] of passages for questions, their vectors [B, P] and a number of hits, and the inner products of these
vectors with those of the passages."""


def in_batches(questions: Sequence[Question], *, num_answering: int = 1) -> Iterator[Sequence[Question]]:
    """Questions in batches to be answered together: QUESTIONS_AT_ONCE for each of those who deal a batch out."""
    at_once = QUESTIONS_AT_ONCE * num_answering
    for start in range(0, len(questions), at_once):
        yield questions[start : start + at_once]


def answer_questions(
    model: QaModel,
    questions: Sequence[Question],
    find: Find,
    *,
    shards: Shards,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
) -> list[Row]:
    """A row of results for each question: the prediction, and what was retrieved.

    Wherever `find` has passages from, the first of them are read with the tower's scores, as in training.
    """
    if not questions:  # A split with fewer questions than trainers.
        return []
    ids = _encode(questions, tokenizer)
    queries_BP = _embed(model.query_tower, ids, tokenizer, sizes)
    places_BK, scores_BK = find(questions, queries_BP, max(MOST_HITS, sizes.read))
    read = min(sizes.read, places_BK.shape[1])
    passages = shards.passages_at(places_BK.ravel().tolist())
    readings = read_answers(
        model.reader, ids, places_BK[:, :read], scores_BK[:, :read], passages, tokenizer=tokenizer, sizes=sizes
    )
    holding = _holding(questions, places_BK, passages, at_least=read)
    rows = [
        {
            **found_row(question, [passages[place] for place in places.tolist()], scores, holds),
            **_judged(best.text, question),
            "is_answer_read": any(holds[:read]),
        }
        for question, places, scores, holds, (best,) in zip(
            questions, places_BK, scores_BK, holding, readings, strict=True
        )
    ]
    for row, is_answerable in zip(rows, are_answerable(model.reader, questions, tokenizer) or (), strict=False):
        row["is_answerable"] = is_answerable
    return rows


def retrieve_for_questions(
    tower: Embedder,
    questions: Sequence[Question],
    find: Find,
    *,
    shards: Shards,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
) -> list[Row]:
    """A row for each question of what was retrieved, without reading it."""
    queries_BP = _embed(tower, _encode(questions, tokenizer), tokenizer, sizes)
    places_BK, scores_BK = find(questions, queries_BP, MOST_HITS)
    passages = shards.passages_at(places_BK.ravel().tolist())
    holding = _holding(questions, places_BK, passages, at_least=SHOWN_PASSAGES)
    return [
        found_row(question, [passages[place] for place in places.tolist()], scores, holds)
        for question, places, scores, holds in zip(questions, places_BK, scores_BK, holding, strict=True)
    ]


def baselines(
    model: QaModel,
    questions: Sequence[Question],
    *,
    shards: Shards,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
    majority: Mapping[str, str],
    seed: int,
) -> list[Row]:
    """What to add to the row of each question: the prediction of the same reader over random passages of the corpus,
    all equally likely, and whether the most common training answer would be right."""
    if not questions:
        return []
    read = min(sizes.read, shards.count)
    random_BK = np.array(
        [[pick(shards.count, seed, "random passage", q.id, place) for place in range(read)] for q in questions]
    )
    alike_BK = np.zeros(random_BK.shape, dtype=np.float32)
    passages = shards.passages_at(random_BK.ravel().tolist())
    readings = read_answers(
        model.reader, _encode(questions, tokenizer), random_BK, alike_BK, passages, tokenizer=tokenizer, sizes=sizes
    )
    return [
        {
            "prediction_no_retrieval": blind.text,
            "is_exact_no_retrieval": is_right(blind.text, question),
            "is_exact_majority": is_right(majority.get(question.field, majority[""]), question),
        }
        for question, (blind,) in zip(questions, readings, strict=True)
    ]


def by_tower(corpus: CorpusIndex) -> Find:
    """The passages whose vectors are nearest."""

    def find(questions: Sequence[Question], queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        hits = corpus.search(queries_BP, num_hits=num_hits)
        return hits.places_BK, hits.scores_BK

    return find


def by_words(bm25: Bm25, corpus: CorpusIndex) -> Find:
    """The passages that BM25 finds."""

    def find(questions: Sequence[Question], queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        places_BK = bm25.search([question.question for question in questions], num_hits=num_hits)
        return places_BK, corpus.scores(queries_BP, places_BK)

    return find


def majority_answers(questions: Sequence[Question]) -> dict[str, str]:
    """The most common normalised answer of each field, and of all under ""; the first in the alphabet where tied."""
    counts: dict[str, Counter[str]] = {"": Counter()}
    for question in questions:
        for answer in {normalise(answer) for answer in question.answers}:
            counts[""][answer] += 1
            if question.field:
                counts.setdefault(question.field, Counter())[answer] += 1
    return {field: min(counter, key=lambda answer: (-counter[answer], answer)) for field, counter in counts.items()}


def found_row(
    question: Question, retrieved: Sequence[Passage], scores_K: np.ndarray, holds: Sequence[bool]
) -> Row:  # fmt: skip
    """What was retrieved for a question, best first, and where in it the first right passages stand. `holds` says which
    hold an answer: of those shown, and up to the first that does."""
    # Where nobody has said which passages are gold, those that hold an answer are.
    is_gold = [passage.uid in question.gold_uids for passage in retrieved] if question.gold_uids else holds
    return {
        "id": question.id,
        "question": question.question,
        "field": question.field,
        "answers": list(question.answers),
        "found_place": _first(is_gold),
        "answer_place": _first(holds),
        "retrieved": [
            {
                "uid": passage.uid,
                "title": passage.title,
                "text": passage.text,
                "score": float(score),
                "is_gold": is_right_one,
            }
            for passage, score, is_right_one in zip(retrieved[:SHOWN_PASSAGES], scores_K, is_gold, strict=False)
        ],
    }


def _judged(prediction: str, question: Question) -> Row:
    return {
        "prediction": prediction,
        "is_exact": is_right(prediction, question),
        "f1": token_f1(prediction, question),
    }


def _holding(
    questions: Sequence[Question], places_BK: np.ndarray, passages: Mapping[int, Passage], *, at_least: int
) -> list[list[bool]]:  # fmt: skip
    """Of each question, which of the passages at its places hold an answer: up to the first, all that are shown, and
    `at_least` so many."""
    finder = AnswerFinder({place: passage.text for place, passage in passages.items()})
    at_least = max(SHOWN_PASSAGES, at_least)
    return [
        finder.holding(places, question, at_least=at_least)
        for question, places in zip(questions, places_BK.tolist(), strict=True)
    ]


def _encode(questions: Sequence[Question], tokenizer: Tokenizer) -> list[list[int]]:
    return tokenizer.encode_questions([question.question for question in questions])


def _embed(tower: Embedder, ids: Sequence[Ids], tokenizer: Tokenizer, sizes: ReadingSizes) -> np.ndarray:
    return embed_queries(tower, ids, special=tokenizer.special, max_tokens=sizes.question_tokens)


def _first(flags: Sequence[bool]) -> int:
    return list(flags).index(True) if any(flags) else NOT_FOUND
