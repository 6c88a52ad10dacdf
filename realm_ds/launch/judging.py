"""An export judged on any question file, without training: its answers, or what it retrieves, and BM25 beside it.

Reading the scores of a run, and telling them, is scores.py's business.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from realm_ds.data.question_files import load_questions
from realm_ds.data.records import Question
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.bm25 import Bm25
from realm_ds.eval.corpus import device_of
from realm_ds.eval.exported import Exported, open_export
from realm_ds.eval.qa import Find, answer_questions, by_tower, by_words, in_batches, retrieve_for_questions
from realm_ds.eval.scores import Row, compare_rows, summarise
from realm_ds.files import write_durably
from realm_ds.models.names import QUERY_TOWER, READER
from realm_ds.models.qa import QaModel
from realm_ds.models.towers import Embedder
from realm_ds.observe.progress import Progress, number_of
from realm_ds.reports.scores import as_numbers
from realm_ds.train.manifest import refuse_unfinished

Rows = Callable[[Sequence[Question], Find], list[Row]]
"""Rows of questions whose passages are found so."""


def judge_answers(model: Path, questions: Path, *, with_bm25: bool, rows_file: Path | None) -> dict[str, Any]:
    """Scores of a fine-tuned export's answers; `rows_file` gets a line for each question.

    With BM25 also those of the same reader on the passages that it finds, scored by the same query tower, and the
    differences question by question: {"retriever": ..., "bm25": ..., "differences": ...}. `rows_file` has the
    lines of both then, which `finder` tells apart.
    """
    _check_rows_file(rows_file)
    refuse_unfinished(model)
    exported = open_export(model)
    if not (exported.folder / READER).is_dir():
        raise CheckpointError(
            f"{exported.folder} has no {READER}, so it answers nothing: `realm-ds qa train` makes one, and "
            "`realm-ds qa retrieval` judges what it finds without"
        )
    network = QaModel.load(exported.folder).eval().to(device_of(None))

    def rows_of(asked: Sequence[Question], find: Find) -> list[Row]:
        return answer_questions(network, asked, find, **_tools(exported))

    return _judge(rows_of, exported, questions, with_bm25=with_bm25, rows_file=rows_file)


def judge_retrieval(model: Path, questions: Path, *, with_bm25: bool, rows_file: Path | None) -> dict[str, Any]:
    """The same for what any export retrieves, also before fine-tuning: nothing is read."""
    _check_rows_file(rows_file)
    refuse_unfinished(model)
    exported = open_export(model)
    tower = Embedder.load(exported.folder / QUERY_TOWER).eval().to(device_of(None))

    def rows_of(asked: Sequence[Question], find: Find) -> list[Row]:
        return retrieve_for_questions(tower, asked, find, **_tools(exported))

    return _judge(rows_of, exported, questions, with_bm25=with_bm25, rows_file=rows_file)


def _check_rows_file(path: Path | None) -> None:
    """Before the work: what it found would else be lost."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir():
        why = "is a folder"
    elif not folder.is_dir():
        why = f"cannot be written: {folder} is no folder"
    elif not os.access(folder, os.W_OK):
        why = f"cannot be written: {folder} takes no files"
    else:
        return
    raise ConfigError(f"--rows {path} {why}; name a file in a folder that takes one")


def _judge(
    rows_of: Rows, exported: Exported, questions: Path, *, with_bm25: bool, rows_file: Path | None
) -> dict[str, Any]:
    asked = load_questions(questions, needed_by="--questions names a file of them")
    finders = {"retriever": by_tower(exported.corpus)}
    if with_bm25:
        finders["bm25"] = by_words(Bm25(list(exported.shards.passages(verify=False))), exported.corpus)
    rows: dict[str, list[Row]] = {}
    with Progress() as progress:
        for name, find in finders.items():
            bar = progress.stage(f"passages of the {name}", unit="questions")
            rows[name] = []
            for batch in in_batches(asked):
                rows[name] += rows_of(batch, find)
                bar.update(len(rows[name]))
            bar.finish(number_of(len(asked), "question"))
    if rows_file is not None:
        named = ({"finder": name, **row} for name, found in rows.items() for row in found)
        write_durably(rows_file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named))
    scores = {name: summarise(found) for name, found in rows.items()}
    if not with_bm25:
        return scores["retriever"]
    return {**scores, "differences": as_numbers(compare_rows(rows["retriever"], rows["bm25"]))}


def _tools(exported: Exported) -> dict[str, Any]:
    return {"shards": exported.shards, "tokenizer": exported.tokenizer, "sizes": exported.settings.sizes}
