"""Question sets: each format as its authors write it, what is left out of it, and what comes out."""

import errno
import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.question_files import load_questions, write_questions
from realm_ds.data.records import Question
from realm_ds.data.shards import Shards
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.qa import QuestionSet, checked, read_question_set, split_by_hash
from realm_ds.prepare.qa_formats import Asked, Columns, detect
from realm_ds.prepare.qa_job import prepare_qa, read_prepared
from realm_ds.prepare.unfinished import GO_ON
from tests.support.records import make_passage, write_corpus

TRIVIA = {
    "Question": "Who?", "QuestionId": "tc_1",
    "Answer": {"Value": "Abe", "Aliases": ["Abe", "A. Lincoln"], "NormalizedAliases": ["a lincoln"],
               "HumanAnswers": ["Honest Abe"]},
}  # fmt: skip
SQUAD = {
    "title": "x",
    "paragraphs": [
        {"context": "c", "qas": [
            {"id": "s1", "question": "Who?", "answers": [{"text": "Abe", "answer_start": 1}] * 2},
            {"id": "s2", "question": "Why?", "answers": [], "is_impossible": True},
        ]}
    ],
}  # fmt: skip
WHERE = '(list (description Peru) (description "Costa \\"Rica\\" (x)"))'


def _one(id: str, answers: tuple[str, ...], **more: Any) -> Question:
    return Question(id=id, question="Who?", answers=answers, **more)


@pytest.mark.parametrize(
    ("name", "text", "form", "wanted"),
    [
        ("nq.jsonl", '{"question": "Who?", "answer": ["Abe", "Abe"]}', "nq_open", _one("1", ("Abe",))),
        ("wq.json", [{"utterance": "Who?", "targetValue": WHERE}], "webquestions",
         _one("1", ("Peru", 'Costa "Rica" (x)'))),
        ("wq.json", [{"qId": "wqr1", "qText": "Who?", "answers": ["Abe"]}], "webquestions", _one("wqr1", ("Abe",))),
        ("CuratedTrec-train.txt", '{"question": "Who?", "answer": ["A(be)?"]}', "curatedtrec",
         _one("1", ("A(be)?",), is_regex=True)),
        ("q.json", [{"qId": "trec-7", "qText": "Who?", "answers": ["A.*"]}], "curatedtrec",
         _one("trec-7", ("A.*",), is_regex=True)),
        ("t.json", {"Data": [TRIVIA], "Version": 1.0}, "triviaqa",
         _one("tc_1", ("Abe", "A. Lincoln", "a lincoln", "Honest Abe"))),
        ("s.json", {"version": "v2.0", "data": [SQUAD]}, "squad", _one("s1", ("Abe",))),
        ("own.jsonl", '{"question": "Who?", "answers": "Abe", "id": 7, "gold_uids": [3], "field": "f"}', "jsonl",
         _one("7", ("Abe",), gold_uids=(3,), field="f")),
        ("re.jsonl", '{"question": "Who?", "answers": ["A|B"], "regex": true}', "jsonl",
         _one("1", ("A|B",), is_regex=True)),
        ("c.csv", 'answers,question\n"[""Abe"", ""Lincoln""]",Who?\n', "csv", _one("2", ("Abe", "Lincoln"))),
        ("c.tsv", "question\tanswers\nWho?\t['Abe', \"O'B\"]\n", "csv", _one("2", ("Abe", "O'B"))),
        ("c.csv", "id,question,answers\nx,Who?,Abe\n", "csv", _one("x", ("Abe",))),
        ("c.csv", "question,answers\nWho?,[broken\n", "csv", _one("2", ("[broken",))),
    ],
)  # fmt: skip
def test_every_format_is_known_and_read(tmp_path: Path, name: str, text: Any, form: str, wanted: Question) -> None:
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    assert detect(path) == form
    for asked in (None, form):
        assert read_question_set([path], form=asked, split="dev").splits == {"dev": [wanted]}  # type: ignore[arg-type]


def test_columns_by_their_names(tmp_path: Path) -> None:
    columns = Columns(question="q", answers="a")
    (tmp_path / "x.csv").write_text("q,a\nWho?,Abe\n")
    (tmp_path / "x.jsonl").write_text('{"q": "Who?", "a": ["Abe"]}\n')
    for path, form in ((tmp_path / "x.csv", None), (tmp_path / "x.jsonl", "jsonl")):
        (found,) = read_question_set([path], form=form, split="dev", columns=columns).splits["dev"]  # type: ignore[arg-type]
        assert (found.question, found.answers) == ("Who?", ("Abe",))
    with pytest.raises(DataError, match="x.csv:1: no column 'question' among q, a"):
        read_question_set([tmp_path / "x.csv"], form=None, split="dev")


def test_what_fits_no_format_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "", "title": ""}\n')
    with pytest.raises(DataError, match=r"no format known here \(first record: text, title\); say --format"):
        read_question_set([tmp_path / "x.jsonl"], form=None, split="dev")
    with pytest.raises(DataError, match="no file .*nowhere: name the files of a question set"):
        read_question_set([tmp_path / "nowhere"], form=None, split="dev")


def test_bad_records_are_counted_with_the_place_of_the_first(tmp_path: Path) -> None:
    lines = [
        '{"question": "Who?", "answers": ["Abe"]}', "[1]", "{", '{"question": 3, "answers": ["x"]}',
        '{"question": " \\u0000", "answers": ["x"]}', '{"question": "a", "answers": []}', '{"question": "b"}',
        '{"question": "c", "answers": [1, " "]}', '{"question": "d", "answers": ["(", "x"], "is_regex": true}',
        '{"question": "e", "answers": ["x"], "is_regex": "yes"}', '{"question": "WHO", "answers": ["The"]}',
        '{"question": "f", "answers": ["x"], "gold_uids": ["y"]}', '{"question": "\\ud800 g", "answers": ["x"]}',
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    found = read_question_set([tmp_path / "x.jsonl"], form="jsonl", split="train")
    assert [question.question for question in found.splits["train"]] == ["Who?", "d", "WHO", "f", "? g"]
    assert list(found.tally.lines()) == [
        "answers of which scoring sees nothing (\"the\", \"?\"), kept: 1 (first: x.jsonl:11)",
        "answers that are no texts, left out: 1 (first: x.jsonl:8)",
        "answers that should be regular expressions and are none, left out: 1 (first: x.jsonl:9)",
        "gold_uids that are no passage uids, left out: 1 (first: x.jsonl:12)",
        "lines that are no JSON, or too long, left out: 1 (first: x.jsonl:3)",
        "questions asked before, kept: 1 (first: x.jsonl:11, as x.jsonl:1)",
        "questions whose is_regex is neither true nor false, left out: 1 (first: x.jsonl:10)",
        "questions without a text, left out: 2 (first: x.jsonl:4)",
        "questions without an answer, left out: 3 (first: x.jsonl:6)",
        "records that are no JSON objects, left out: 1 (first: x.jsonl:2)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '{"question": "a", "answers": ["b"], "positive_ids": []}\n'
                    '{"question": "c", "answers": ["d"], "gold_uids": [1], "silver_ids": [7]}\n'),
        ("x.csv", "question,answers,positive_ids\na,b,\nc,d,[7]\n"),
    ],
)  # fmt: skip
def test_gold_passages_of_another_corpus_are_counted(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (line,) = read_question_set([tmp_path / name], form=None, split="dev").tally.lines()
    place = {"x.jsonl": 2, "x.csv": 3}[name]
    assert line == (
        f"questions whose gold passages are named by ids of another corpus, these left out: 1 (first: {name}:{place})"
    )


def test_what_sets_leave_open_is_counted(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"data": [SQUAD, {"paragraphs": [3, {"qas": "x"}]}]}))
    found = read_question_set([tmp_path / "s.json"], form=None, split="dev")
    (line,) = found.tally.lines()
    assert line == (
        "questions that have no answer on purpose (is_impossible), left out: 1 (first: s.json, record 1, question s2)"
    )
    (tmp_path / "w.json").write_text('[{"utterance": "Who?", "targetValue": "Peru"}]')
    with pytest.raises(
        DataError, match=r"no question for dev in .*w.json: questions with a targetValue that is no list"
    ):
        read_question_set([tmp_path / "w.json"], form=None, split="dev")
    (tmp_path / "t.json").write_text(json.dumps({"Data": [{"Question": "?", "QuestionId": "1"}]}))
    (tmp_path / "one.jsonl").write_text('{"question": "q 0", "answer": ["Lima"]}\n')
    with pytest.raises(DataError, match=r"no question for dev in .*one.jsonl: the rule gave all 1 to train$"):
        read_question_set([tmp_path / "one.jsonl"], form=None, split=None)
    with pytest.raises(DataError, match=r"no question for test in .*t.json: questions without an answer, left out: 1 "):
        read_question_set([tmp_path / "t.json"], form=None, split="test")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("a( \0\ud800\u2028", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@given(id=_JSON, question=st.just("a") | _JSON, answers=_JSON, is_regex=st.booleans() | _JSON, gold_uids=_JSON)
def test_whatever_a_record_holds_it_is_a_question_that_can_be_read_or_counted(id: Any, **members: Any) -> None:
    tally = Tally()
    question = checked(Asked(id=str(id), where="here", **members), tally=tally)
    if question is None:
        assert tally.counts
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dev.jsonl"
        write_questions(path, [question])
        assert load_questions(path) == [question]


def test_the_hash_is_that_of_the_original() -> None:
    import farmhash

    # TensorFlow's documentation of to_hash_bucket_fast has this example.
    assert [farmhash.fingerprint64(word) % 3 for word in ("Hello", "TensorFlow", "2.x")] == [0, 2, 2]
    questions = [f"question {number}" for number in range(5000)]
    dev = [question for question in questions if split_by_hash(question) == "dev"]
    assert 400 < len(dev) < 600
    assert all(str(farmhash.fingerprint64(question) % 100_000).endswith("0") for question in dev)


def _write_lines(path: Path, questions: list[str]) -> Path:
    path.write_text("".join(json.dumps({"question": text, "answer": ["Lima"]}) + "\n" for text in questions))
    return path


def test_splits_and_what_they_share(tmp_path: Path) -> None:
    out = tmp_path / "qa"
    test = _write_lines(tmp_path / "test.jsonl", ["question 1", "other", "other"])
    prepare_qa(read_question_set([test], form=None, split="test"), out)
    train = _write_lines(tmp_path / "train.jsonl", [f"Question {number}?" for number in range(40)])
    found = read_question_set([train], form=None, split=None)
    written = prepare_qa(found, out)
    prepared = read_prepared(out)
    assert list(prepared) == ["train", "dev", "test"]
    assert written.splits == {name: prepared[name] for name in ("train", "dev")}
    for split in ("train", "dev"):
        questions = load_questions(out / f"{split}.jsonl")
        assert questions == found.splits[split]  # type: ignore[index]
        assert {split_by_hash(question.question) for question in questions} == {split}
        assert prepared[split]["questions"] == len(questions)
    assert prepared["train"]["also_in"]["test"] + prepared["dev"]["also_in"]["test"] == 1
    assert prepared["test"]["counted"] == {
        "questions asked before, kept": {"count": 1, "first": "test.jsonl:3, as test.jsonl:2"}
    }
    (source,) = prepared["test"]["sources"]
    assert (source["name"], source["format"]) == ("test.jsonl", "nq_open")
    with pytest.raises(ConfigError, match="test.jsonl is there already, and a run may be reading it"):
        prepare_qa(read_question_set([test], form=None, split="test"), out)
    assert sorted(path.name for path in out.iterdir()) == ["dev.jsonl", "prepared.json", "test.jsonl", "train.jsonl"]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    train = _write_lines(tmp_path / "train.jsonl", [f"Question {number}?" for number in range(40)])
    for name in ("a", "b"):
        prepare_qa(read_question_set([train], form=None, split=None), tmp_path / name)
    assert [(tmp_path / "a" / name).read_bytes() for name in ("train.jsonl", "dev.jsonl", "prepared.json")] == [
        (tmp_path / "b" / name).read_bytes() for name in ("train.jsonl", "dev.jsonl", "prepared.json")
    ]


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    for text in ('{"settings": {}}', '{"dev": 5}', '{"dev": {"coverage": 5}}', "[]"):
        (tmp_path / "prepared.json").write_text(text)
        with pytest.raises(DataError, match="prepared.json is not of `prepare qa`; name another folder"):
            read_prepared(tmp_path)
    (tmp_path / "prepared.json").write_text("{")
    with pytest.raises(DataError, match="prepared.json is no JSON .*; remove it"):
        read_prepared(tmp_path)


def _asked_of_corpus(folder: Path) -> tuple[QuestionSet, Shards]:
    """Questions, and six passages ("text 0" and so on) in three tar shards."""
    corpus = write_corpus(folder / "corpus", [make_passage(number) for number in range(6)], per_shard=2)
    asked = [
        {"question": "a", "answers": ["text"]}, {"question": "b", "answers": ["nowhere"]},
        {"question": "c", "answers": ["text [35]"], "is_regex": True},
        {"question": "d", "answers": ["text 1"], "gold_uids": [77]},
    ]  # fmt: skip
    (folder / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    return read_question_set([folder / "dev.jsonl"], form=None, split="dev"), corpus


def test_coverage_and_links(tmp_path: Path) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    unlinked = prepare_qa(found, tmp_path / "a", corpus=corpus)
    assert load_questions(tmp_path / "a" / "dev.jsonl") == found.splits["dev"]
    coverage = unlinked.splits["dev"]["coverage"]
    assert (coverage["questions_with_answer"], coverage["share"], coverage["passages"]) == (3, 0.75, 6)
    linked = prepare_qa(found, tmp_path / "b", corpus=corpus, link=2)
    assert linked.splits["dev"]["coverage"] == coverage
    assert [question.gold_uids for question in load_questions(tmp_path / "b" / "dev.jsonl")] == [
        (1, 2), (), (4, 6), (77,),
    ]  # fmt: skip
    assert linked.splits["dev"]["linked_questions"] == 3
    assert read_prepared(tmp_path / "b") == linked.splits


# Stopped and gone on with.


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _is_stopped(found: QuestionSet, out: Path, *, at: int, **options: Any) -> bool:
    """By a full disk at that call of fsync, of which each file that is written has two."""
    fsync, calls, told = os.fsync, iter(range(at)), ""

    def fsync_or_stop(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync_or_stop)
        try:
            prepare_qa(found, out, **options)
        except DataError as error:
            told = str(error)
    assert told in ("", f"cannot write to {out}: No space left on device; {GO_ON}")
    return told != ""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_search_that_was_stopped_goes_on_behind_its_last_shard(tmp_path: Path, workers: int) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    prepare_qa(found, tmp_path / "whole", corpus=corpus, link=2)
    out, read = tmp_path / "out", list[int]()
    out.mkdir()
    assert _is_stopped(found, out, at=6, corpus=corpus, link=2)  # journal and two shards
    with pytest.raises(ConfigError, match="out holds a job that was stopped: go on with --resume, name another folder"):
        prepare_qa(found, out, corpus=corpus, link=2)
    with pytest.raises(ConfigError, match="out was begun otherwise: settings.link was 2 and is now 1; give what"):
        prepare_qa(found, out, corpus=corpus, link=1, resume=True)
    prepare_qa(found, out, corpus=corpus, link=2, workers=workers, resume=True, on_progress=read.append)
    assert read == [4, 6]
    assert _content(out) == _content(tmp_path / "whole")


def test_stopped_at_any_file_and_gone_on_with(tmp_path: Path) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    prepare_qa(found, tmp_path / "whole", corpus=corpus)
    for at in range(12):  # the journal, three shards, two files
        out = tmp_path / f"out-{at}"
        assert _is_stopped(found, out, at=at, corpus=corpus)
        _is_stopped(found, out, at=at, corpus=corpus, resume=True)
        prepare_qa(found, out, corpus=corpus, resume=True)
        assert _content(out) == _content(tmp_path / "whole")


def test_stopped_between_splits_beside_another(tmp_path: Path) -> None:
    test = _write_lines(tmp_path / "test.jsonl", ["Question 1"])
    train = _write_lines(tmp_path / "train.jsonl", [f"Question {number}?" for number in range(40)])
    found = read_question_set([train], form=None, split=None)
    contents = []
    for at in range(9):  # the journal, three files; not stopped
        out = tmp_path / f"out-{at}"
        prepare_qa(read_question_set([test], form=None, split="test"), out)
        assert _is_stopped(found, out, at=at) == (at < 8)
        prepare_qa(found, out, resume=True)
        contents.append(_content(out))
    assert contents == contents[-1:] * 9


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    first = prepare_qa(found, tmp_path / "qa", corpus=corpus)
    before = _content(tmp_path / "qa")
    again = prepare_qa(found, tmp_path / "qa", corpus=corpus, resume=True)
    assert (again.was_done, again.splits) == (True, first.splits)
    for changes, message in (
        ({"corpus": None}, "dev.jsonl was begun otherwise: corpus was '[0-9a-f]{64}' and is now None; give what"),
        ({"corpus": corpus, "link": 3}, "dev.jsonl was begun otherwise: settings.link was 0 and is now 3; give what"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare_qa(found, tmp_path / "qa", resume=True, **changes)
    assert _content(tmp_path / "qa") == before
    (tmp_path / "qa" / "prepared.json").unlink()  # a file of somebody else's, for all we know
    with pytest.raises(ConfigError, match="dev.jsonl was begun otherwise: corpus was None"):
        prepare_qa(found, tmp_path / "qa", corpus=corpus, resume=True)


def test_a_damaged_split_beside_is_told_before_the_search(tmp_path: Path) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "train.jsonl").write_text("{")
    searched: list[int] = []
    with pytest.raises(DataError, match="train.jsonl"):
        prepare_qa(found, tmp_path / "qa", corpus=corpus, on_progress=searched.append)
    assert searched == []


def test_other_splits_are_left_alone(tmp_path: Path) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    test = _write_lines(tmp_path / "test.jsonl", ["other"])
    prepare_qa(read_question_set([test], form=None, split="test"), tmp_path / "qa")
    (tmp_path / "corpus" / "shard-00000.tar").write_bytes(bytes(10240))
    with pytest.raises(DataError, match="shard-00000.tar: sha256 is"):
        prepare_qa(found, tmp_path / "qa", corpus=corpus)
    assert sorted(path.name for path in (tmp_path / "qa").iterdir()) == ["prepared.json", "test.jsonl"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("journal.json", "{", "journal.json: cannot be read .*; remove .*qa/unfinished and begin again"),
        ("journal.json", "[" * 100_000, "journal.json: cannot be read .*; remove .*qa/unfinished and begin again"),
        ("journal.json", '{"job": 1}', "journal.json: cannot be read \\(it names no job\\); remove"),
        ("answers-00001.npy", "numpy", "answers-00001.npy: cannot be read .*; remove .*qa/unfinished and begin again"),
    ],
)
def test_a_damaged_journal_is_not_gone_on_from(tmp_path: Path, name: str, text: str, message: str) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    assert _is_stopped(found, tmp_path / "qa", at=6, corpus=corpus)
    (tmp_path / "qa" / "unfinished" / name).write_text(text)
    with pytest.raises(DataError, match=message):
        prepare_qa(found, tmp_path / "qa", corpus=corpus, resume=True)
    shutil.rmtree(tmp_path / "qa" / "unfinished")  # as it says
    assert prepare_qa(found, tmp_path / "qa", corpus=corpus).splits


def test_answers_that_are_no_pairs(tmp_path: Path) -> None:
    found, corpus = _asked_of_corpus(tmp_path)
    assert _is_stopped(found, tmp_path / "qa", at=6, corpus=corpus)
    np.save(tmp_path / "qa" / "unfinished" / "answers-00000.npy", np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(DataError, match="answers-00000.npy: cannot be read \\(an array of int64 \\(2, 3\\), no pairs"):
        prepare_qa(found, tmp_path / "qa", corpus=corpus, resume=True)


def test_a_set_that_is_cut_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    data = gzip.compress("".join(f'{{"question": "q {n}", "answer": ["a"]}}\n' for n in range(9999)).encode())
    (tmp_path / "nq.jsonl.gz").write_bytes(data)
    assert len(read_question_set([tmp_path / "nq.jsonl.gz"], form=None, split="dev").splits["dev"]) == 9999
    (tmp_path / "nq.jsonl.gz").write_bytes(data[:-100])
    with pytest.raises(DataError, match="nq.jsonl.gz is cut off: its compressed data ends too early"):
        read_question_set([tmp_path / "nq.jsonl.gz"], form=None, split="dev")
