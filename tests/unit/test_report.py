"""report.json, report.md and the plots from rows and results written by hand."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from realm_ds.errors import ConfigError, DataError
from realm_ds.launch.plots import CURVES, draw_plots, running_mean
from realm_ds.launch.report import (
    DemoResults,
    build_report,
    choose_examples,
    pretrain_rows,
    recall_of,
    report_markdown,
    summarise_pretrain,
    write_report,
)

Row = dict[str, Any]


def step_row(step: int, **changes: float) -> Row:
    row = {"event": "step", "step": step, "loss": 5.0 - step / 100, "retrieval_utility": step / 1000, "null_share": 0.5}
    times = {"staleness_steps": step % 50, "search_ms": 4.0, "wait_for_index_ms": 1.0, "step_ms": 50.0}
    return {**row, **times, "version": max(0, (step - 25) // 50), **changes}


def metrics() -> list[Row]:
    steps = [step_row(step) for step in range(10, 210, 10)]
    return [*steps, {"event": "done", "searches": 200.0, "mixed_version_replies": 0}]


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


def test_the_report_has_every_key_that_was_promised() -> None:
    report = build_report(results(), metrics())
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


def test_pretraining_by_hand() -> None:
    summary = summarise_pretrain(metrics())
    assert summary["steps"] == 200
    assert summary["loss_first"] == pytest.approx((4.9 + 4.8) / 2)  # a tenth of 20 logged steps
    assert summary["loss_last"] == pytest.approx((3.1 + 3.0) / 2)
    assert summary["retrieval_utility_last"] == pytest.approx(0.195)
    assert summary["versions_adopted"] == 3
    assert summary["trainer_wait_for_index_share"] == pytest.approx(1 / 50)
    assert (summary["searches"], summary["mixed_version_replies"]) == (200, 0)


def test_a_run_without_a_null_passage_has_no_retrieval_utility(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name not in ("retrieval_utility", "null_share")}
            for row in metrics()]  # fmt: skip
    report = build_report(results(), rows)
    assert report["pretrain"]["retrieval_utility_last"] is None
    write_report(tmp_path, report, examples=examples())
    assert "| retrieval utility, last tenth | none: no null passage |" in (tmp_path / "report.md").read_text()
    with pytest.raises(DataError, match="the metrics of step 200 hold no retrieval_utility"):  # in some steps only
        summarise_pretrain([*metrics()[:-2], *rows[-2:]])


def test_a_step_done_again_after_a_resume_counts_once_as_it_was_last() -> None:
    summary = summarise_pretrain([step_row(10), step_row(20, loss=99.0), step_row(20, loss=1.0)])
    assert summary["loss_last"] == 1.0


def test_what_was_not_counted_is_not_nought() -> None:
    summary = summarise_pretrain([step_row(10)])
    assert summary["searches"] is None
    assert summary["mixed_version_replies"] is None
    assert not summary["is_finished"]


def test_metrics_without_steps_or_without_a_metric_are_named() -> None:
    with pytest.raises(DataError, match="the metrics hold no step at all"):
        summarise_pretrain([{"event": "done"}])
    with pytest.raises(DataError, match="the metrics of step 10 hold no loss"):
        summarise_pretrain([{"event": "step", "step": 10}])


def test_rows_come_from_trainer_0_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="metrics/trainer-0.jsonl is missing"):
        pretrain_rows(tmp_path)
    path = tmp_path / "metrics" / "trainer-0.jsonl"
    path.parent.mkdir()
    path.write_text(
        '{"event":"step","stage":"ict","step":1}\n{"event":"step","stage":"pretrain","step":2}\n{"event":"st'
    )
    assert [row["step"] for row in pretrain_rows(tmp_path)] == [2]


def test_what_was_held_out_is_a_table_by_steps(tmp_path: Path) -> None:
    """A step done again after a resume counts once; what was not measured is a gap, what is not finite a word."""
    without = {name: value for name, value in evaluated(200).items() if not name.endswith("recall_at_5")}
    rows = [*metrics(), evaluated(100, null_share=0.9), evaluated(100), {**without, "held_out_log_likelihood": "nan"}]
    report = build_report(results(), rows)
    assert report["held_out"][0] == {
        "step": 100, "version": 2, "log_likelihood": -2.0, "retrieval_utility": 1.0, "null_share": 0.25,
        "recall_at_5": 0.25,
    }  # fmt: skip
    write_report(tmp_path, report, examples=[])
    text = (tmp_path / "report.md").read_text()
    assert "| 100 | 2 | -2.000 | 1.000 | 25.0% | 25.0% |\n| 200 | 4 | nan | 2.000 | 25.0% |  |" in text
    assert "Held out" not in report_markdown(build_report(results(), metrics()))


def test_examples_are_right_ones_of_different_fields_then_wrong_ones() -> None:
    assert [row["question"] for row in choose_examples(examples())] == [
        "What is the capital of Niger?",
        "Highest | point?",
    ]


def test_written_report(tmp_path: Path) -> None:
    report = build_report(results(), metrics())
    write_report(tmp_path, report, examples=examples())
    assert json.loads((tmp_path / "report.json").read_text()) == report
    text = (tmp_path / "report.md").read_text()
    assert "| realm | 15.0% | 30.0% | 45.0% |" in text
    assert "| fine-tuned reader and retriever | 30.0% | 40.0% |" in text
    assert "- found 1: *Niger*, holds the answer: The capital is Niamey." in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_every_plot_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = build_report(results(), metrics())
    paths = draw_plots(tmp_path / "plots", report=report, rows=metrics())
    assert [path.name for path in paths] == [*(curve.file for curve in CURVES), "recall.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    rows = [*metrics(), evaluated(100), evaluated(200)]
    paths = draw_plots(tmp_path / "more", report=report, rows=rows)
    assert (tmp_path / "more" / "held_out.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in paths][-2:] == ["held_out.png", "recall.png"]


def test_plots_without_matplotlib_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report: Mapping[str, Any] = build_report(results(), metrics())
    with pytest.raises(ConfigError, match=r"pip install 'realm-ds\[demo\]'"):
        draw_plots(tmp_path, report=report, rows=metrics())


def test_running_mean_by_hand() -> None:
    assert running_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]
    assert running_mean([1.0, 3.0], 1) == [1.0, 3.0]
