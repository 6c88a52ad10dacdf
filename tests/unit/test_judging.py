"""Exports judged on question files: what answering and retrieving them in one go gives, and what people are told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from realm_ds.config.load import dump
from realm_ds.data.question_files import load_questions
from realm_ds.data.shards import open_shards
from realm_ds.errors import CheckpointError, ConfigError, DataError
from realm_ds.eval import qa
from realm_ds.eval.bm25 import Bm25
from realm_ds.eval.exported import AnswerSettings, open_export, write_qa_export
from realm_ds.eval.qa import answer_questions, by_tower, by_words
from realm_ds.eval.reading import ReadingSizes
from realm_ds.eval.scores import summarise
from realm_ds.launch.ask import open_answerer
from realm_ds.launch.judging import judge_answers, judge_retrieval
from realm_ds.models.names import READER
from realm_ds.models.qa import QaModel, build_qa_model
from realm_ds.models.realm import build_model
from realm_ds.reports.scores import describe_judged, read_scores
from realm_ds.sealed import MANIFEST, seal
from realm_ds.train.manifest import step_folder
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_corpus, make_questions

SIZES = ReadingSizes(question_tokens=16, passage_tokens=32, read=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions, and a fine-tuned export that has learnt nothing."""
    folder = tmp_path_factory.mktemp("judged")
    tokenizer = make_data(folder)
    make_questions(folder)
    config = tiny_config(folder)
    realm = build_model(config.model, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0)
    model = build_qa_model(realm, span_hidden_size=8, max_span_tokens=4, seed=1)
    settings = AnswerSettings(
        sizes=SIZES, null_passage=False, temperature=1.0, tokenizer_fingerprint=tokenizer.fingerprint
    )
    corpus = make_corpus(folder, width=config.model.projection_size)
    write_qa_export(
        folder / "export", model.eval(), shards=open_shards(folder / "corpus", kind="corpus", fingerprint=None),
        vectors=[corpus.vectors_NP], tokenizer_folder=folder / "tokenizer", settings=settings,
    )  # fmt: skip
    return folder


def test_answers_are_those_of_all_questions_at_once(data: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("bm25s")
    monkeypatch.setattr(qa, "QUESTIONS_AT_ONCE", 5)
    rows_file = tmp_path / "rows.jsonl"
    judged = judge_answers(data / "export", data / "qa" / "train.jsonl", with_bm25=True, rows_file=rows_file)
    exported, questions = open_export(data / "export"), load_questions(data / "qa" / "train.jsonl")
    model = QaModel.load(data / "export").eval()
    tools = {"shards": exported.shards, "tokenizer": exported.tokenizer, "sizes": SIZES}
    wanted = answer_questions(model, questions, by_tower(exported.corpus), **tools)
    assert judged["retriever"] == summarise(wanted)
    find = by_words(Bm25(list(exported.shards.passages())), exported.corpus)
    of_bm25 = answer_questions(model, questions, find, **tools)
    assert judged["bm25"] == summarise(of_bm25)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    assert [(row["finder"], row["id"], row["prediction"]) for row in rows] == [
        (name, row["id"], row["prediction"]) for name, found in (("retriever", wanted), ("bm25", of_bm25))
        for row in found
    ]  # fmt: skip
    assert judged["bm25"]["recall"][1] == 1.0  # the words of these questions stand in their passages alone
    difference = judged["differences"]["recall@1"]["mean"]
    assert difference == pytest.approx(judged["retriever"]["recall"][1] - 1)
    told = describe_judged(judged).split("\n")
    assert told[0] == "passages of the retriever"
    assert "passages of BM25" in told
    assert any(line.startswith(f"recall@1           {100 * difference:+6.1f}  [") for line in told)


def test_retrieval_needs_no_reader_and_answers_do(data: Path, tmp_path: Path) -> None:
    questions = data / "qa" / "test.jsonl"
    answered = judge_answers(data / "export", questions, with_bm25=False, rows_file=None)
    bare = tmp_path / "bare"
    _copy_without_reader(data / "export", bare)
    found = judge_retrieval(bare, questions, with_bm25=False, rows_file=None)
    assert "em" not in found
    assert {score: answered[score] for score in ("recall", "answer_recall", "mrr")} == {
        score: found[score] for score in ("recall", "answer_recall", "mrr")
    }
    with pytest.raises(CheckpointError, match="has no reader, so it answers nothing: `realm-ds qa train` makes one"):
        judge_answers(bare, questions, with_bm25=False, rows_file=None)
    with pytest.raises(DataError, match=r"none.jsonl cannot be read .*: --questions names a file of them"):
        judge_retrieval(bare, tmp_path / "none.jsonl", with_bm25=False, rows_file=None)


def test_a_run_that_is_not_finished_is_to_be_gone_on_with(data: Path, tmp_path: Path) -> None:
    run, questions = tmp_path / "run", data / "qa" / "test.jsonl"
    step_folder(run, 39).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=f"no scores in .*: `realm-ds qa train --run {run}` writes them at its"):
        read_scores(run, split="test")
    (step_folder(run, 39) / "weights").touch()
    seal(step_folder(run, 39), stage="qa", step=39)
    (run / "config.yaml").write_text(dump(tiny_config(data, **{"qa.steps": 40})))
    message = rf"run is not finished yet \(step 39 of 40\): `realm-ds qa train --run {run} --resume` goes on and writes"
    with pytest.raises(CheckpointError, match=message):
        open_answerer(run)
    for judge in (judge_answers, judge_retrieval):
        with pytest.raises(CheckpointError, match=message):
            judge(run, questions, with_bm25=False, rows_file=None)
    with pytest.raises(CheckpointError, match=f"no scores in .*: `realm-ds qa train --run {run} --resume` writes them"):
        read_scores(run, split="test")
    shutil.copytree(data / "export", run / "export")  # of fewer steps
    open_answerer(run)


def _copy_without_reader(export: Path, out: Path) -> None:
    shutil.copytree(export, out)
    shutil.rmtree(out / READER)
    (out / MANIFEST).unlink()
    seal(out, kind="export")


@pytest.mark.parametrize("judge", [judge_answers, judge_retrieval])
def test_rows_that_cannot_be_written_are_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Callable[..., object]
) -> None:
    def refused(rows_file: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            judge(tmp_path / "no-export", tmp_path / "none.jsonl", with_bm25=False, rows_file=rows_file)
        return str(caught.value)

    advice = "; name a file in a folder that takes one"
    assert refused(tmp_path) == f"--rows {tmp_path} is a folder{advice}"
    lost = tmp_path / "lost" / "rows.jsonl"
    assert refused(lost) == f"--rows {lost} cannot be written: {lost.parent} is no folder{advice}"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    rows = tmp_path / "rows.jsonl"
    assert refused(rows) == f"--rows {rows} cannot be written: {tmp_path} takes no files{advice}"
    assert not lost.parent.exists()
