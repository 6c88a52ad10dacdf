"""Question answering, measured: predictions of a fine-tuned model, the baselines beside it, and their scores.

Training is train/qa.py's business, reading reading.py's; rules of scoring are answers.py's.

Shapes: B questions, K passages read for each.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from realm_ds.data.answers import holds_answer, normalise
from realm_ds.data.chance import pick
from realm_ds.data.records import Passage, Question
from realm_ds.data.shards import Shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.answers import is_right, token_f1
from realm_ds.eval.corpus import CorpusIndex, embed_queries
from realm_ds.eval.reading import ReadingSizes, SpanTexts, read_spans
from realm_ds.eval.retrieval import NOT_FOUND, RECALL_AT
from realm_ds.models.qa import QaModel

SHOWN_PASSAGES = 5
Row = dict[str, Any]


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
    hits = corpus.search(queries_BP, num_hits=max(*RECALL_AT, sizes.read))
    read = min(sizes.read, hits.places_BK.shape[1])
    random_BK = np.array(
        [[pick(len(corpus), seed, "random passage", q.id, place) for place in range(read)] for q in questions]
    )
    found = read_spans(
        model, ids, hits.places_BK[:, :read], hits.scores_BK[:, :read], corpus, special=special, sizes=sizes
    )
    blind = read_spans(
        model, ids, random_BK, np.zeros(random_BK.shape, dtype=np.float32), corpus, special=special, sizes=sizes
    )
    places = {spans[0].place for spans in (*found, *blind)} | set(hits.places_BK.ravel().tolist())
    passages = shards.passages_at(places)
    texts = SpanTexts(passages, tokenizer)
    return [
        _row(
            question,
            prediction=texts.text(found[number][0]),
            blind=texts.text(blind[number][0]),
            majority=majority.get(question.field, majority[""]),
            retrieved=[passages[place] for place in hits.places_BK[number].tolist()],
            scores=hits.scores_BK[number],
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


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Scores over all questions, and exact match and recall@5 of each field."""
    fields = sorted({row["field"] for row in rows})
    by_field = {field: [row for row in rows if row["field"] == field] for field in fields}
    return {
        "questions": len(rows),
        "em": _mean(rows, "is_exact"),
        "f1": _mean(rows, "f1"),
        "em_no_retrieval": _mean(rows, "is_exact_no_retrieval"),
        "em_majority": _mean(rows, "is_exact_majority"),
        "recall": {k: _share_within(rows, "found_place", k) for k in RECALL_AT},
        "answer_recall": {k: _share_within(rows, "answer_place", k) for k in RECALL_AT},
        "fields": {
            field: {
                "questions": len(part),
                "em": _mean(part, "is_exact"),
                "recall_at_5": _share_within(part, "found_place", 5),
            }
            for field, part in by_field.items()
        },
    }


def _row(
    question: Question,
    *,
    prediction: str,
    blind: str,
    majority: str,
    retrieved: Sequence[Passage],
    scores: np.ndarray,
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


def _first(flags: Sequence[bool]) -> int:
    return list(flags).index(True) if any(flags) else NOT_FOUND


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _share_within(rows: Sequence[Row], name: str, k: int) -> float:
    return sum(0 <= row[name] < k for row in rows) / len(rows)
