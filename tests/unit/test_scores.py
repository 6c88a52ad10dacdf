"""Scores of rows by hand, what is said of them, and two runs compared."""

import json
from pathlib import Path

import numpy as np
import pytest

from realm_ds.errors import CheckpointError, DataError
from realm_ds.eval.scores import Row, compare_rows, summarise
from realm_ds.reports.scores import compare_runs, describe, describe_comparison


def _row(number: int, *, is_exact: bool = True, found_place: int = 0, answer_place: int = 0, **changes: object) -> Row:
    return {
        "id": str(number), "question": f"question {number}?", "answers": ["x"], "field": "a", "is_exact": is_exact,
        "f1": float(is_exact), "found_place": found_place, "answer_place": answer_place,
        "is_answer_read": 0 <= answer_place < 3, **changes,
    }  # fmt: skip


def test_scores_by_hand() -> None:
    baselines = {"is_exact_no_retrieval": False, "is_exact_majority": True}
    rows = [
        _row(1, answer_place=4, **baselines),
        _row(2, is_exact=False, f1=0.5, found_place=5, answer_place=-1, **baselines),
    ]
    scores = summarise(rows)
    assert (scores["em"], scores["f1"], scores["em_no_retrieval"], scores["em_majority"]) == (0.5, 0.75, 0.0, 1.0)
    assert (scores["reader_oracle"], scores["answer_coverage"]) == (0.0, 0.5)
    assert scores["mrr"] == pytest.approx((1 + 1 / 6) / 2)
    assert scores["recall"] == {1: 0.5, 5: 0.5, 10: 1.0, 20: 1.0, 50: 1.0, 100: 1.0}
    assert scores["answer_recall"] == {1: 0.0, 5: 0.5, 10: 0.5, 20: 0.5, 50: 0.5, 100: 0.5}
    assert scores["fields"] == {"a": {"questions": 2, "em": 0.5, "recall_at_5": 0.5}}
    # Two of two questions drawn anew: both wrong a quarter of the time, both right a quarter.
    assert scores["intervals"]["em"] == [0.0, 1.0]
    assert scores["intervals"]["em_majority"] == [1.0, 1.0]
    assert scores["intervals"]["recall"][10] == [1.0, 1.0]
    assert json.loads(json.dumps(scores))["recall"]["5"] == 0.5


def test_baselines_may_be_missing_and_no_rows_are_refused() -> None:
    assert "em_majority" not in summarise([_row(1)])
    with pytest.raises(DataError, match="there is no answered question to score"):
        summarise([])


def test_a_comparison_pairs_questions_whatever_their_order() -> None:
    random = np.random.default_rng(0)
    first = [_row(number, is_exact=bool(random.random() < 0.7)) for number in range(200)]
    second = [_row(number, is_exact=bool(random.random() < 0.4), found_place=3) for number in range(200)]
    found = compare_rows(first, list(random.permutation(np.array(second, dtype=object))))
    wanted = np.mean([row["is_exact"] for row in first]) - np.mean([row["is_exact"] for row in second])
    assert found["em"].difference.mean == pytest.approx(wanted)
    assert found["em"].difference.low < wanted < found["em"].difference.high
    assert found["em"].p_value < 0.01
    assert found["recall@1"].difference.mean == 1.0
    assert found["recall@5"].difference.mean == 0.0
    assert found["recall@5"].p_value == 1.0
    assert "em_majority" not in found


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ([_row(1)], "one run answered 2 questions, the other 1: compare runs that answered the same question file"),
        ([_row(1), _row(1)], "some questions of a run have the same id"),
        ([_row(1), _row(3)], r"question 2 \('question 2\?'\) was answered by one run alone"),
        ([_row(1), _row(2, answers=["y"])], r"question 2 is 'question 2\?' with the answers \['x'\] in one run"),
    ],
)
def test_other_questions_are_refused(second: list[Row], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        compare_rows([_row(1), _row(2)], second)


def test_scores_are_told_with_their_intervals() -> None:
    shown = describe(json.loads(json.dumps(summarise([_row(1), _row(2, is_exact=False)])))).split("\n")
    assert "em               50.0%  [0.0%, 100.0%]" in shown
    assert "  100  100.0%  [100.0%, 100.0%]" in shown
    assert shown[-1] == "in brackets: 95% intervals, by 10,000 resamples of the questions"


def test_runs_are_compared_by_their_folders(tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for run, rights in zip(runs, (30, 10), strict=True):
        (run / "qa").mkdir(parents=True)
        rows = [_row(number, is_exact=number < rights) for number in range(40)]
        (run / "qa" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compared = compare_runs(runs[0], runs[1], split="dev")
    assert compared["questions"] == 40
    assert compared["differences"]["em"]["mean"] == pytest.approx(0.5)
    lines = describe_comparison(compared).split("\n")
    assert lines[0] == f"40 questions, differences from {runs[1]} in percentage points"
    assert lines[2].startswith("em                  +50.0  [+3")
    assert lines[2].endswith("p = 0.0001")


def test_rows_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no answers in .*test.jsonl: `realm-ds qa train --run .* writes them"):
        compare_runs(tmp_path, tmp_path, split="test")
    (tmp_path / "qa").mkdir()
    for text, complaint in (("{", "is damaged"), ("[]\n", "holds something else than answered questions")):
        (tmp_path / "qa" / "test.jsonl").write_text(text)
        with pytest.raises(CheckpointError, match=complaint):
            compare_runs(tmp_path, tmp_path, split="test")
