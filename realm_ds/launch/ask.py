"""What `realm-ds ask` does: read questions from wherever they come, have them answered, print the answers as they come.

Who answers is eval/'s; how an answer looks on a terminal is observe/answers.py's.
"""

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from realm_ds.errors import ConfigError, DataError
from realm_ds.eval.answerer import RealmForQA
from realm_ds.eval.asking import QUESTIONS_AT_ONCE, Answerer
from realm_ds.eval.cloze import RealmForCloze
from realm_ds.eval.exported import Tell, find_export, tell_nobody
from realm_ds.models.names import READER
from realm_ds.models.qa import Dtype
from realm_ds.observe.answers import Answered, show_answers
from realm_ds.observe.progress import Progress, number_of
from realm_ds.train.manifest import refuse_unfinished

STDIN = "-"
_KEPT = "surrogateescape"
"""Bytes that are no UTF-8 are the fault of their question alone, which says so; replaced, it would be another one."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A question as it was read, or, in place of it, why none could be."""

    question: object
    id: str | None = None
    where: str = ""
    """File and line, for people; nothing where it came from neither."""
    problem: str = ""


def ask(
    model: Path, *, questions: Sequence[str], file: Path | None, top: int, as_json: bool, dtype: Dtype = "fp32",
    out: TextIO | None = None,
) -> bool:  # fmt: skip
    """Answer them all on standard output; False where there was no answer to any of them.

    Raises ConfigError where nothing is asked, DataError for a file that cannot be read, CheckpointError for the model.
    """
    out, at_terminal = out or sys.stdout, sys.stdin.isatty()
    if not questions and file is None and at_terminal:
        raise ConfigError("nothing is asked: give a question, --jsonl FILE, or questions on standard input, one a line")
    answerer = open_answerer(model, dtype=dtype)
    lines = _lines(questions or (STDIN,)) if file is None else _json_lines(file)
    # Who types a question waits for its answer; what is there already is answered many at once.
    is_typed = at_terminal and (STDIN in questions or str(file) == STDIN)
    num_asked = num_skipped = 0
    with ExitStack() as stack:
        bar = stack.enter_context(Progress()).stage("asking", unit="questions") if file is not None else None
        for line, answered in _answered(answerer, lines, top=top, at_once=1 if is_typed else QUESTIONS_AT_ONCE):
            num_asked += 1
            num_skipped += bool(answered.problem)
            if as_json or file is not None:
                text = json.dumps(_as_json(line, answered), ensure_ascii=False)
                # Half a surrogate pair, which no file of UTF-8 holds, goes out as JSON's own escape of it.
                print(text.encode(errors="backslashreplace").decode(), file=out, flush=True)
            else:
                show_answers(answered, out=out)
            if bar is not None:
                bar.update(num_asked)
        if bar is not None:
            bar.finish(f"{number_of(num_asked, 'question')}, {num_skipped} skipped")
    if not num_asked:
        raise DataError("there was no question to answer: write one a line")
    if num_skipped:
        print(f"realm-ds: {num_skipped} of {number_of(num_asked, 'question')} skipped", file=sys.stderr, flush=True)
    return num_skipped < num_asked


def open_answerer(folder: Path, *, dtype: Dtype = "fp32", tell: Tell = tell_nobody) -> Answerer:
    """The model of an export, or of a run's: one that answers questions, or one that fills in masked words.

    Raises ConfigError for one that fills them in, if it is to read in 16 bits.
    """
    refuse_unfinished(folder)
    folder = find_export(folder)
    if (folder / READER).is_dir():
        return RealmForQA.from_pretrained(folder, dtype=dtype, tell=tell)
    if dtype != "fp32":
        raise ConfigError(
            f"--dtype {dtype} is for models that answer questions, and {folder} fills in [MASK]: leave it out"
        )
    return RealmForCloze.from_pretrained(folder, tell=tell)


def _answered(answerer: Answerer, lines: Iterable[Line], *, top: int, at_once: int) -> Iterator[tuple[Line, Answered]]:
    """Each line with its answers, in order; those without a question are passed by the model."""
    waiting: list[Line] = []

    def asked() -> Iterator[object]:
        for line in lines:
            waiting.append(line)
            yield line.question

    for answered in answerer.answer_each(asked(), top=top, at_once=at_once):
        line = waiting.pop(0)
        if problem := line.problem or answered.problem:
            told = f"{line.where}: {problem}" if line.where else problem
            answered = Answered(question=answered.question, problem=told)
        yield line, answered


def _lines(questions: Sequence[str]) -> Iterator[Line]:
    """Those given, and in place of "-" those of standard input, one a line; empty lines there are none."""
    for question in questions:
        if question == STDIN:
            yield from (Line(question=line.rstrip("\n")) for line in _stdin() if line.strip())
        else:
            yield Line(question=question)


def _json_lines(file: Path) -> Iterator[Line]:
    """Questions of a file of {"question": TEXT}, or of standard input; what is none is told in its place."""
    if str(file) == STDIN:
        yield from _parsed(_stdin(), name="standard input")
        return
    with file.open(encoding="utf-8", errors=_KEPT) as lines:
        yield from _parsed(lines, name=str(file))


def _stdin() -> TextIO:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors=_KEPT)
    return sys.stdin


def _parsed(lines: Iterable[str], *, name: str) -> Iterator[Line]:
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        where = f"{name}:{number}"
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Line(question="", where=where, problem=f"not JSON ({error})")
            continue
        row = data if isinstance(data, dict) else {}
        question, given_id = row.get("question"), str(row["id"]) if "id" in row else None
        if isinstance(question, str):
            yield Line(question=question, id=given_id, where=where)
        else:
            yield Line(question="", id=given_id, where=where, problem='does not look like {"question": TEXT}')


def _as_json(line: Line, answered: Answered) -> dict[str, Any]:
    told = asdict(answered)
    kept = {name: value for name, value in told.items() if value != "" or name == "question"}
    return kept if line.id is None else {"id": line.id, **kept}
