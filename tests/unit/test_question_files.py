"""Question files: what is written is read, and what is wrong is named with its line."""

from pathlib import Path

import pytest

from realm_ds.data.question_files import load_questions, refuse_regexes, write_questions
from realm_ds.data.records import Question
from realm_ds.errors import DataError


def test_round_trip(tmp_path: Path) -> None:
    questions = [
        Question(id="q1", question="Capital of Peru?", answers=("Lima",), gold_uids=(3, 2**62), field="capital"),
        Question(id="2", question="¿Río?", answers=("Amazonas", "Amazon\u2028Rain")),
        Question(id="3", question="How high?", answers=(r"20,?320\s*f(ee|oo)t",), is_regex=True),
    ]
    path = tmp_path / "qa" / "train.jsonl"
    assert write_questions(path, questions) == 3
    assert load_questions(path) == questions
    assert [entry.name for entry in path.parent.iterdir()] == ["train.jsonl"]


def test_the_least_that_a_line_may_be(tmp_path: Path) -> None:
    path = tmp_path / "dev.jsonl"
    path.write_text('{"question": "Who?", "answers": ["I", " "]}\n')
    assert load_questions(path) == [Question(id="1", question="Who?", answers=("I",))]


def test_what_is_only_put_to_an_index_needs_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text('{"question": "Its capital is [MASK]."}\n{"question": "Who?", "answers": ["I"]}\n')
    assert [found.answers for found in load_questions(path, are_answered=False)] == [(), ("I",)]
    path.write_text('{"question": "Who?", "answers": "I"}\n')
    with pytest.raises(DataError, match="has no answers"):
        load_questions(path, are_answered=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is not JSON"),
        pytest.param("[" * 100_000, "is not JSON", id="nested"),
        pytest.param("9" * 5000, "is not JSON", id="a long number"),
        ("[1]", "has no question"),
        ('{"question": " ", "answers": ["x"]}', "has no question"),
        ('{"question": "x"}', "has no answers"),
        ('{"question": "x", "answers": []}', "has no answers"),
        ('{"question": "x", "answers": "y"}', "has no answers"),
        ('{"question": "x", "answers": ["y"], "gold_uids": ["z"]}', "gold_uids is not a list of passage uids"),
        ('{"question": "x", "answers": ["y"], "is_regex": 1}', "is_regex is 1, not true or false"),
        ('{"question": "x", "answers": ["("], "is_regex": true}', r"the answer '\(' is no regular expression"),
        ('{"question": "x", "answers": ["("], "regex": true}', r"the answer '\(' is no regular expression"),
        (r'{"question": "\ud800 x", "answers": ["y"]}', r"'\\ud800' is no character: half a surrogate pair"),
        (r'{"question": "x", "answers": ["y", "\udcff"]}', r"'\\udcff' is no character: half a surrogate pair"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "x", "answers": ["y"]}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"test\.jsonl:2.* {message}|test\.jsonl:2: {message}"):
        load_questions(path)


def test_absent_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read .*qa.data"):
        load_questions(tmp_path / "train.jsonl")
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no question"):
        load_questions(tmp_path / "train.jsonl")
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        load_questions(tmp_path / "train.jsonl")


def test_regexes_are_refused_where_words_are_needed() -> None:
    plain = Question(id="1", question="x", answers=("y",))
    refuse_regexes([plain], why="no")
    regex = Question(id="2", question="x", answers=("y",), is_regex=True)
    with pytest.raises(DataError, match="no regexes here, but the answers of 1 of 2 questions are; leave these out"):
        refuse_regexes([plain, regex], why="no regexes here")
