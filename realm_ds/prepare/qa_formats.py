"""Question sets as their authors publish them, read one question at a time. What is made of them is qa.py's.

    nq_open        a JSON object a line: question, answer (a list); DrQA's files of WebQuestions are the same
    webquestions   a JSON array: utterance, targetValue "(list (description Peru) (description \\"Costa Rica\\"))"; or
                   brmson's: qId, qText, answers
    curatedtrec    DrQA's lines or brmson's array; every answer is a regular expression
    triviaqa       an object with Data: Question, QuestionId, Answer (Value, Aliases, NormalizedAliases, HumanAnswers)
    squad          an object with data, of versions 1.1 and 2: articles, paragraphs, qas
    jsonl, csv     members or columns by name; what prepare qa writes is jsonl

What cannot be used is counted, with the place of the first, and left out.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from realm_ds.errors import DataError
from realm_ds.prepare.compressed import InputFile
from realm_ds.prepare.csv_files import csv_rows
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.json_values import json_values
from realm_ds.prepare.rows import Rows

Format = Literal["nq_open", "webquestions", "curatedtrec", "triviaqa", "squad", "jsonl", "csv"]
WITH_COLUMNS: frozenset[Format] = frozenset({"jsonl", "csv"})
_DESCRIPTION = re.compile(r'\(description\s+("(?:[^"\\]|\\.)*"|[^()"]*)\)')
_OTHER_GOLD = re.compile(r"(?:gold|positive|silver|relevant)_(?:ids?|pids?|ctxs|contexts|docs|documents|passages)")
"""What members are called that name or hold passages which answer a question."""
_TABLES = {".csv": ",", ".tsv": "\t"}
"""What stands between the cells."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What members or columns are called; those of WITH_COLUMNS alone are asked for."""

    question: str = "question"
    answers: str = "answers"

    @property
    def unusual(self) -> dict[str, str]:
        """Those that somebody named otherwise than they are called as usual."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Columns, name)}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as its file has it."""

    id: str
    question: Any
    answers: Any
    """A list of texts, where all is well."""
    is_regex: Any = False
    gold_uids: Any = ()
    field: str = ""
    where: str


def read_asked(path: Path, *, form: Format, columns: Columns, tally: Tally) -> Iterator[Asked]:
    """The questions of a file, in order, unchecked; lines and rows that are none are counted."""
    file = InputFile(path, name=path.name)
    if form == "csv":
        yield from _csv(file, columns, tally)
        return
    read = _READERS[form]
    for number, (item, where) in enumerate(json_values(file, tally=tally), start=1):
        if isinstance(item, dict):
            _count_other_gold(item, where, tally)
            yield from read(item, columns, str(number), where, tally)
        else:
            tally.add("records that are no JSON objects, left out", where=where)


def detect(path: Path) -> Format:
    """The format of a file, by its name and its first record. Raises DataError where nothing fits."""
    if _delimiter(path):
        return "csv"
    values = json_values(InputFile(path, name=path.name), tally=Tally())
    first = next((value for value, _ in values if isinstance(value, dict)), {})
    is_trec = "trec" in path.name.lower() or str(first.get("qId", "")).startswith("trec")
    kinds: list[tuple[Format, bool]] = [
        ("triviaqa", {"Question", "QuestionId"} <= set(first)),
        ("squad", "paragraphs" in first),
        ("curatedtrec", is_trec and ({"qText", "answers"} <= set(first) or {"question", "answer"} <= set(first))),
        ("webquestions", "utterance" in first or "qText" in first),
        ("nq_open", {"question", "answer"} <= set(first)),
        ("jsonl", {"question", "answers"} <= set(first)),
    ]
    found = [form for form, fits in kinds if fits]
    if not found:
        shown = ", ".join(sorted(map(str, first))) or "no JSON object"
        raise DataError(f"{path}: a question set of no format known here (first record: {shown}); say --format")
    return found[0]


def _drqa(item: Mapping[str, Any], columns: Columns, number: str, where: str, tally: Tally) -> Iterator[Asked]:
    """A line of NQ-open, and of DrQA's files."""
    yield Asked(
        id=str(item.get("id", number)), question=item.get("question"), answers=_listed(item.get("answer")), where=where
    )


def _webquestions(item: Mapping[str, Any], columns: Columns, number: str, where: str, tally: Tally) -> Iterator[Asked]:
    if "qText" in item:
        yield Asked(
            id=str(item.get("qId", number)), question=item["qText"], answers=_listed(item.get("answers")), where=where
        )
        return
    answers = _descriptions(item.get("targetValue"))
    if answers is None:
        tally.add("questions with a targetValue that is no list of descriptions, left out", where=where)
    else:
        yield Asked(id=str(item.get("id", number)), question=item.get("utterance"), answers=answers, where=where)


def _curatedtrec(item: Mapping[str, Any], columns: Columns, number: str, where: str, tally: Tally) -> Iterator[Asked]:
    yield Asked(
        id=str(item.get("qId", item.get("id", number))),
        question=item.get("qText", item.get("question")),
        answers=_listed(item.get("answers", item.get("answer"))),
        is_regex=True,
        where=where,
    )


def _triviaqa(item: Mapping[str, Any], columns: Columns, number: str, where: str, tally: Tally) -> Iterator[Asked]:
    answer = item.get("Answer")
    answer = answer if isinstance(answer, dict) else {}  # of test sets
    names = ("Value", "Aliases", "NormalizedAliases", "HumanAnswers")
    answers = [text for name in names for text in _listed(answer.get(name)) or ()]
    yield Asked(
        id=str(item.get("QuestionId", number)), question=item.get("Question"), answers=answers, where=where
    )  # fmt: skip


def _squad(article: Mapping[str, Any], columns: Columns, number: str, where: str, tally: Tally) -> Iterator[Asked]:
    for paragraph in _objects(article.get("paragraphs")):
        for asked in _objects(paragraph.get("qas")):
            here = f"{where}, question {asked.get('id')}"
            if asked.get("is_impossible"):
                tally.add("questions that have no answer on purpose (is_impossible), left out", where=here)
                continue
            answers = [answer.get("text") for answer in _objects(asked.get("answers"))]
            yield Asked(id=str(asked.get("id")), question=asked.get("question"), answers=answers, where=here)


def _jsonl(item: Mapping[str, Any], columns: Columns, number: str, where: str, tally: Tally) -> Iterator[Asked]:
    yield Asked(
        id=str(item.get("id", number)),
        question=item.get(columns.question),
        answers=_listed(item.get(columns.answers)),
        is_regex=item.get("is_regex", item.get("regex", False)),
        gold_uids=item.get("gold_uids", ()),
        field=str(item.get("field", "")),
        where=where,
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], Columns, str, str, Tally], Iterator[Asked]]] = {
    "nq_open": _drqa, "webquestions": _webquestions, "curatedtrec": _curatedtrec, "triviaqa": _triviaqa,
    "squad": _squad, "jsonl": _jsonl,
}  # fmt: skip


def _csv(file: InputFile, columns: Columns, tally: Tally) -> Iterator[Asked]:
    needed = (columns.question, columns.answers)
    rows = csv_rows(file, Rows(tally=tally), needed=needed, delimiter=_delimiter(file.path) or ",")
    for row, where in rows:
        number = where.rpartition(":")[2]
        _count_other_gold(row, where, tally)
        yield Asked(
            id=row.get("id") or number, question=row[columns.question], answers=_cell(row[columns.answers]), where=where
        )


def _count_other_gold(members: Mapping[str, Any], where: str, tally: Tally) -> None:
    """Count a question that names its passages otherwise than by our gold_uids."""
    if any(value and _OTHER_GOLD.fullmatch(name) for name, value in members.items()):
        tally.add("questions whose gold passages are named by ids of another corpus, these left out", where=where)


def _delimiter(path: Path) -> str | None:
    """Of a table, by its name."""
    return next((_TABLES[suffix] for suffix in path.suffixes if suffix in _TABLES), None)


def _cell(text: str) -> Any:
    """A cell of answers: a list as JSON or as Python writes it (DPR's files), or else one answer."""
    if not text.lstrip().startswith("["):
        return [text]
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return [text]


def _descriptions(value: Any) -> list[str] | None:
    """The answers in "(list (description Peru) (description \"Costa Rica\"))"; None if it is nothing like that."""
    if not isinstance(value, str) or not value.startswith("(list"):
        return None
    quoted = _DESCRIPTION.findall(value)
    return [re.sub(r"\\(.)", r"\1", text.strip().removeprefix('"').removesuffix('"')) for text in quoted]


def _listed(value: Any) -> Any:
    """A text alone is a list of one."""
    return [value] if isinstance(value, str) else value


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []
