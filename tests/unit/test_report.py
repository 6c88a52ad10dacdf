"""report.json of a demo, and what is said of it, from a run and results written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from realm_ds.errors import DataError
from realm_ds.reports.demo import (
    DemoResults,
    build_report,
    choose_examples,
    demo_sections,
    read_report,
    recall_of,
    summarise_pretrain,
    write_report,
)
from realm_ds.reports.document import Document, markdown
from realm_ds.reports.history import RunHistory, read_history
from tests.support.run_folders import joined, start, step_row, write_run

Row = dict[str, Any]


def metrics() -> list[Row]:
    adopted = [{"event": "adopted", "version": version, "step": 50 * version} for version in range(4)]
    steps = [step_row(step, steps=200) for step in range(10, 210, 10)]
    done = {"event": "done", "searches": 200.0, "mixed_version_replies": 0}
    return [joined(), start(steps=200), *adopted, *steps, done]


@pytest.fixture
def run(tmp_path: Path) -> RunHistory:
    return run_of(tmp_path, metrics())


def run_of(folder: Path, events: list[Row]) -> RunHistory:
    return read_history(write_run(folder / "pretrain", events))


def text_of(folder: Path, report: Row) -> str:
    return markdown(Document(title="What this run reached", lead="", sections=tuple(demo_sections(folder, report))))


def evaluated(step: int, **changes: Any) -> Row:
    words = {"log_likelihood": -3.0 + step / 100, "retrieval_utility": step / 100, "null_share": 0.25}
    words |= {"recall_at_5": step / 400, "ru_doc": 1.0, **changes}
    row = {"event": "evaluated", "step": step, "version": step // 50, "evaluate_ms": 900.0}
    return {**row, **{f"held_out_{name}": value for name, value in words.items()}}


def stages(**recalls_at_5: float) -> dict[str, dict[int, float]]:
    return {stage: {1: recall / 2, 5: recall, 20: recall * 1.5} for stage, recall in recalls_at_5.items()}


def examples() -> list[Row]:
    hit = {"title": "Niger", "text": "The capital is Niamey. " * 30, "is_gold": True}
    capital = {"question": "What is the capital of Niger?", "field": "capital", "answers": ["Niamey"]}
    return [
        {**capital, "prediction": "Niamey", "is_exact": True, "retrieved": [hit]},
        {**capital, "question": "The capital of Mali?", "prediction": "Bamako", "is_exact": True, "retrieved": []},
        {**capital, "question": "Highest | point?", "field": "peak", "prediction": "no", "is_exact": False},
    ]


def results() -> DemoResults:
    return DemoResults(
        passages=4321,
        questions={"train": 1200, "dev": 150, "test": 200},
        trainers=2,
        index_ranks=2,
        zero_stage=2,
        ict_in_batch_accuracy=0.83,
        recall=stages(random_init=0.01, ict=0.2, realm=0.3),
        recall_unseen_passages=stages(random_init=0.01, ict=0.15, realm=0.25),
        question_recall=stages(random_init=0.01, ict=0.1, realm=0.2, qa=0.4),
        qa={"em": 0.3, "f1": 0.4, "em_no_retrieval": 0.02, "em_majority": 0.05},
        seconds={"prepare": 30.0, "pretrain": 500.0},
        peak_rss_gib=3.2,
    )


def test_the_report_has_every_key_that_was_promised(run: RunHistory) -> None:
    report = build_report(results(), run)
    assert set(report) >= {
        "passages", "questions", "trainers", "index_ranks", "zero_stage", "ict", "pretrain", "recall_at_1",
        "recall_at_5", "recall_at_20", "question_recall_at_5", "qa", "seconds", "peak_rss_gib",
    }  # fmt: skip
    assert set(report["pretrain"]) >= {
        "steps", "loss_first", "loss_last", "retrieval_utility_last", "versions_adopted", "mixed_version_replies",
        "trainer_wait_for_index_share", "searches",
    }  # fmt: skip
    assert report["recall_at_5"] == {"random_init": 0.01, "ict": 0.2, "realm": 0.3}
    assert report["question_recall_at_5"] == {"random_init": 0.01, "ict": 0.1, "realm": 0.2, "qa": 0.4}
    assert report["ict"] == {"in_batch_accuracy": 0.83}
    assert recall_of(report, "recall_at")[20]["realm"] == pytest.approx(0.45)
    assert list(recall_of(report, "question_recall_at")) == [1, 5, 20]


def test_pretraining_by_hand(run: RunHistory) -> None:
    summary = summarise_pretrain(run)
    assert summary["steps"] == 200
    assert summary["loss_first"] == pytest.approx((4.9 + 4.8) / 2)  # a tenth of 20 logged steps
    assert summary["loss_last"] == pytest.approx((3.1 + 3.0) / 2)
    assert summary["retrieval_utility_last"] == pytest.approx(0.195)
    assert summary["versions_adopted"] == 3
    assert summary["trainer_wait_for_index_share"] == pytest.approx(1 / 50)
    assert (summary["searches"], summary["mixed_version_replies"], summary["is_finished"]) == (200, 0, True)


def test_a_run_without_a_null_passage_has_no_retrieval_utility(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name not in ("retrieval_utility", "null_share")}
            for row in metrics()]  # fmt: skip
    report = build_report(results(), run_of(tmp_path, rows))
    assert report["pretrain"]["retrieval_utility_last"] is None
    assert "| retrieval utility, last tenth | none: no null passage |" in text_of(tmp_path, report)
    with pytest.raises(DataError, match="the metrics of step 200 hold no retrieval_utility"):  # in some steps only
        summarise_pretrain(run_of(tmp_path / "some", [*metrics()[:-2], *rows[-2:]]))


def test_what_was_not_counted_is_not_nought(tmp_path: Path) -> None:
    summary = summarise_pretrain(run_of(tmp_path, [step_row(10)]))
    assert summary["searches"] is None
    assert summary["mixed_version_replies"] is None
    assert not summary["is_finished"]


def test_metrics_without_steps_or_without_a_metric_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the metrics hold no step at all"):
        summarise_pretrain(run_of(tmp_path / "a", [{"event": "done"}]))
    with pytest.raises(DataError, match="the metrics of step 10 hold no loss"):
        summarise_pretrain(run_of(tmp_path / "b", [{"event": "step", "step": 10}]))


def test_what_was_held_out_is_a_table_by_steps(tmp_path: Path) -> None:
    """What was not measured is a gap, what is not finite a word."""
    without = {name: value for name, value in evaluated(200).items() if not name.endswith("recall_at_5")}
    rows = [*metrics(), evaluated(100), {**without, "held_out_log_likelihood": "nan"}]
    report = build_report(results(), run_of(tmp_path, rows))
    assert report["held_out"][0] == {
        "step": 100, "version": 2, "log_likelihood": -2.0, "retrieval_utility": 1.0, "null_share": 0.25,
        "recall_at_5": 0.25,
    }  # fmt: skip
    text = text_of(tmp_path, report)
    assert "| 100 | 2 | -2.000 | 1.000 | 25.0% | 25.0% |\n| 200 | 4 | nan | 2.000 | 25.0% |  |" in text
    assert "Held out" not in text_of(tmp_path, build_report(results(), run_of(tmp_path, metrics())))


def test_examples_are_right_ones_of_different_fields_then_wrong_ones() -> None:
    assert [row["question"] for row in choose_examples(examples())] == [
        "What is the capital of Niger?",
        "Highest | point?",
    ]


def test_written_report(run: RunHistory, tmp_path: Path) -> None:
    report = build_report(results(), run)
    assert read_report(tmp_path) is None
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    (tmp_path / "qa" / "qa").mkdir(parents=True)
    (tmp_path / "qa" / "qa" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples()))
    text = text_of(tmp_path, report)
    assert "| realm | 15.0% | 30.0% | 45.0% |" in text
    assert "| fine-tuned reader and retriever | 30.0% | 40.0% |" in text
    assert "1. *Niger*, holds the answer: The capital is Niamey." in text
    assert r"**Highest \| point?**" in text
    assert "![Recall after each stage](plots/recall.svg)" in text
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(DataError, match="report.json is damaged"):
        read_report(tmp_path)
