"""`realm-ds bench qa`: what it says of what was measured, and what is called the same answer. That it runs beside
transformers is tests/ranks/test_bench.py's."""

import json
from pathlib import Path

import pytest

from realm_ds.bench import qa, qa_jobs
from realm_ds.bench.measure import Measure
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import LaunchError
from realm_ds.eval.exported import AnswerSettings, write_qa_export
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.models.hf_block_records import BLOCK_RECORDS
from realm_ds.models.qa import build_qa_model
from tests.support.hf_realm import SIZES, small_realm
from tests.support.tiny import make_data
from tests.support.tiny_qa import make_corpus, make_questions

FOUND = {
    "fp32": [30.0, 40.0, 50.0], "bf16": [90.0, 100.0, 120.0], "retrieve": [2.0, 3.0, 1.0], "read": [20.0, 25.0, 10.0],
    "num_same": {"fp32": 198, "bf16": 197}, "num_told": 200, "passages": 7000, "num_read": 5, "wordpieces": 32.0,
}  # fmt: skip


ONE_OF_EACH = {"ours": 1, "retrieve": 1, "read": 1}


class Bar:
    def update(self, *_: object, **__: object) -> None: ...


def measured(monkeypatch: pytest.MonkeyPatch, found: dict, *, is_quick: bool = False) -> list[Measure]:
    monkeypatch.setattr(qa, "peer_environment", lambda: Path("python"))
    monkeypatch.setattr(qa, "run_alone", lambda job, options, *, threads, bar: found)
    (group,) = qa.qa_groups(is_quick=is_quick, layers=1, hidden=64)
    measures = list(group.run(Bar()))  # type: ignore[arg-type]
    assert tuple(measure.name for measure in measures) == group.names
    return measures


def test_both_settings_and_the_answers_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    retrieves, reads, same, reads_bf16, same_bf16 = measured(monkeypatch, FOUND)
    assert (retrieves.ratio, retrieves.is_ok) == (20.0, True)
    assert "searcher_beam_size 5000" in retrieves.note
    assert "3 rounds, ratios 13.3 to 50" in retrieves.note
    assert (reads.ratio, reads.is_ok) == (2.0, False)
    assert (same.value, same.is_ok) == (99.0, True)
    assert (reads_bf16.ratio, reads_bf16.is_ok) == (5.0, True)
    assert (same_bf16.value, same_bf16.is_ok) == (98.5, False)
    assert [measure.is_ok for measure in measured(monkeypatch, FOUND, is_quick=True)] == [None] * 5


def test_without_transformers_the_bars_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> Path:
        raise LaunchError("transformers 4.57.6 could not be installed (no network)")

    monkeypatch.setattr(qa, "peer_environment", offline)
    measures = qa.beside_transformers(qa.FULL, {}, bar=Bar())  # type: ignore[arg-type]
    assert [measure.is_ok for measure in measures] == [False] * 5
    assert "not measured: transformers 4.57.6 could not be installed (no network)" in measures[1].to_json()


def test_the_same_answer_in_other_signs(tmp_path: Path) -> None:
    make_data(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert qa_jobs.alike("The tower. Of Brest", "tower . of brest", tokenizer)
    assert qa_jobs.alike("Br\u00e9st", "brest", tokenizer)
    assert not qa_jobs.alike("brest", "ghent", tokenizer)
    assert not qa_jobs.alike("", "brest", tokenizer)


def test_every_side_is_asked_the_same_questions_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' side stands in here, and knows our answers to the questions that it finds."""
    fingerprint = make_data(tmp_path).fingerprint
    questions = make_questions(tmp_path)["train"]
    model = build_qa_model(small_realm(tmp_path, share_towers=True), span_hidden_size=8, max_span_tokens=4, seed=1)
    write_qa_export(
        tmp_path / "export", model.eval(), shards=open_shards(tmp_path / "corpus", kind="corpus", fingerprint=None),
        vectors=[make_corpus(tmp_path, width=SIZES["projection_size"]).vectors_NP],
        tokenizer_folder=tmp_path / "tokenizer", settings=AnswerSettings(
            sizes=ReadingSizes(question_tokens=20, passage_tokens=30, read=3), null_passage=False, temperature=1.0,
            tokenizer_fingerprint=fingerprint,
        ),
    )  # fmt: skip
    asked: list[tuple[str, int, int]] = []

    class Peer:
        def __init__(self, python: Path, folder: Path, *, program: str) -> None:
            assert (python, program) == (Path("python"), "peer_qa.py")
            assert (folder / "openqa" / BLOCK_RECORDS).is_file()
            work = json.loads((folder / "work.json").read_text())
            assert (work["threads"], len(work["questions"])) in {(1, 8), (1, len(questions))}
            assert set(work["questions"]) <= {question.question for question in questions}

        def __enter__(self) -> "Peer":
            return self

        def __exit__(self, *_: object) -> None: ...

        def ask(self, line: str) -> dict[str, object]:
            mode, first, end = line.split()
            asked.append((mode, int(first), int(end)))
            said = {"retrieve": "no answer at all", "read": "as we do"}[mode]
            return {"took_s": 0.5, "answers": [said] * (int(end) - int(first))}

    monkeypatch.setattr(qa_jobs, "Peer", Peer)
    monkeypatch.setattr(qa_jobs, "alike", lambda ours, theirs, tokenizer: theirs == "as we do")
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    options = {
        "model": str(tmp_path / "export"), "questions": str(tmp_path / "qa" / "train.jsonl"), "threads": 1, "rounds": 2,
        "at_once": {"ours": 4, "retrieve": 2, "read": 3}, "python": "python",
    }  # fmt: skip
    found = qa_jobs.answer(options, folder=tmp_path)
    warm_up = [("retrieve", 0, 2), ("read", 0, 2)]
    assert asked == [*warm_up, ("retrieve", 0, 2), ("read", 0, 3), ("retrieve", 4, 6), ("read", 4, 7)]
    assert (found["retrieve"], found["read"]) == ([4.0, 4.0], [6.0, 6.0])
    assert (len(found["fp32"]), len(found["bf16"])) == (2, 2)
    assert found["num_same"] == {"fp32": 6, "bf16": 6}
    assert (found["num_told"], found["num_read"], found["passages"]) == (10, 3, 72)
    assert len(qa_jobs.answer({**options, "rounds": 99, "at_once": ONE_OF_EACH}, folder=tmp_path)["read"]) == len(
        questions
    )
