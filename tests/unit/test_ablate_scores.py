"""What a study found: means, differences, the table, the picture."""

import statistics
from pathlib import Path

import pytest

from realm_ds.ablate.plots import draw_study
from realm_ds.ablate.scores import STUDENT_T, Score, as_json, mean_of, read_score, rows_of, scores_in, table
from realm_ds.errors import DataError
from tests.support.ablated import cell, scored


def test_means_and_margins_are_students() -> None:
    values = [0.31, 0.36, 0.32]
    found = mean_of(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.margin == pytest.approx(4.303 * statistics.stdev(values) / 3**0.5)
    assert mean_of([0.5]).margin is None
    many = [number / 100 for number in range(40)]
    assert mean_of(many).margin == pytest.approx(STUDENT_T[-1] * statistics.stdev(many) / 40**0.5)


def test_differences_are_paired_by_seed() -> None:
    scores = {
        cell("realm", 0): Score(em=0.5, recall=0.4), cell("realm", 1): Score(em=0.7, recall=0.4),
        cell("stale", 1): Score(em=0.6, recall=0.1), cell("stale", 2): Score(em=0.1, recall=0.2),
    }  # fmt: skip
    realm, stale = rows_of(scores)
    assert realm.em_to_realm is None
    assert stale.em_to_realm is not None
    assert stale.em_to_realm.mean == pytest.approx(-0.1)
    assert stale.em_to_realm.seeds == 1
    assert stale.em.mean == pytest.approx(0.35)


def test_the_table_says_both_scores_both_differences_and_the_papers() -> None:
    scores = {
        cell("realm", 0): Score(em=0.5, recall=0.4), cell("realm", 1): Score(em=0.7, recall=0.4),
        cell("trivial", 1): Score(em=0.6, recall=0.1),
    }  # fmt: skip
    rows = rows_of(scores)
    first, second, _, reading = table(rows).splitlines()[2:]
    assert first == "| REALM | 60.0 ± 127.1 |  | 40.0 ± 0.0 |  | 38.2, 38.5 |"
    assert second == "| trivial retrieval allowed (1 of 2 seeds) | 60.0 | -10.0 | 10.0 | -30.0 |  |"
    assert reading.endswith("± is half of a 95% interval by Student's t over a row's seeds.")
    one_seed = table(rows_of({cell("realm"): Score(em=0.5, recall=0.4)}))
    assert one_seed.endswith("One seed tells nothing of how sure they are: --resume --seeds 3 gives intervals.\n")
    numbers = as_json(rows, scores, costs={cell("realm", 0): {"took_s": 5.0}})
    assert numbers["rows"][0]["paper"] == {"em": 38.2, "recall": 38.5}
    assert numbers["rows"][1]["em_to_realm"] == {"mean": pytest.approx(-0.1), "margin": None, "seeds": 1}
    assert numbers["cells"][0] == {"cell": "realm:0", "em": 0.5, "recall_at_5": 0.4, "took_s": 5.0}


def test_a_cell_without_scores_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert read_score(tmp_path, cell("realm")) is None
    scored(tmp_path, cell("realm"), 0.25, 0.5)
    assert read_score(tmp_path, cell("realm")) == Score(em=0.25, recall=0.5)
    (tmp_path / "qa/realm-seed-0/qa/dev.json").write_text("{}")
    with pytest.raises(DataError, match=r"qa/realm-seed-0/qa holds no scores .*KeyError.*remove .*realm-seed-0, and"):
        read_score(tmp_path, cell("realm"))


def test_the_picture_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    rows = rows_of({cell(name, seed): Score(em=0.1, recall=0.2) for name in ("realm", "no-ict") for seed in (0, 1)})
    for name in ("a.svg", "b.svg"):
        draw_study(tmp_path / name, rows)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "retriever without ICT" in text
    assert "the paper's" in text


def test_a_difference_over_fewer_seeds_than_its_row_is_marked() -> None:
    scores = {
        cell("realm", 0): Score(em=0.5, recall=0.4), cell("trivial", 0): Score(em=0.4, recall=0.3),
        cell("trivial", 1): Score(em=0.4, recall=0.3),
    }  # fmt: skip
    assert "| 40.0 ± 0.0 | -10.0 (1 of 2 seeds) | 30.0 ± 0.0 | -10.0 (1 of 2 seeds) |" in table(rows_of(scores))


def test_all_cells_on_disk_are_found_but_damaged_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for one in (cell("realm-encoder", 3), cell("realm", 10), cell("realm", 9), cell("stale")):
        scored(tmp_path, one, 0.25, 0.5)
    (tmp_path / "qa/realm-seed-old").mkdir()
    (tmp_path / "qa/stale-seed-0/qa/dev.json").write_text("{")
    assert [str(one) for one in scores_in(tmp_path)] == ["realm:9", "realm:10", "realm-encoder:3"]
    assert "stale:0 is left out of the table: " in caplog.text
