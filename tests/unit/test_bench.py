"""Benchmarks: what a measure says, how sides take turns, the cost model's fit, corpora from seeds."""

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from realm_ds.bench.corpora import (
    FIRST_UID,
    SPECIAL,
    VectorsOf,
    embed_places,
    is_best,
    numbered_passages,
    queries_of,
    seed_in,
    seed_snapshot,
)
from realm_ds.bench.measure import Bar, Measure, alternate, percentile, spread, table
from realm_ds.bench.run import Group, run_groups
from realm_ds.bench.scale import full_grid
from realm_ds.data.batches import passage_batch
from realm_ds.errors import ConfigError, DataError
from realm_ds.planning.cost import FACTORS, CostModel, Point, Setting, factors, fit, non_negative_least_squares, predict


def _measure(**changes: object) -> Measure:
    return Measure(**{"name": "speed", "value": 9.0, "reference": 10.0, "unit": "queries/s", **changes})


@pytest.mark.parametrize(
    ("changes", "is_ok"),
    [
        ({}, None),
        ({"bar": Bar(limit=0.9)}, True),
        ({"bar": Bar(limit=0.91)}, False),
        ({"bar": Bar(limit=0.9, side="<=")}, True),
        ({"bar": Bar(limit=8.9, of="value", side="<=")}, False),
        ({"bar": Bar(limit=0.12, side="within")}, True),
        ({"bar": Bar(limit=0.11, side="within")}, False),
        ({"value": 11.0, "bar": Bar(limit=0.1, side="within")}, True),
        ({"value": 12.0, "bar": Bar(limit=0.1, side="within")}, False),
        ({"value": float("nan"), "bar": Bar(limit=0.1, side="within")}, False),
        ({"bar": Bar(limit=9.0, of="value", side="<=")}, True),
        ({"bar": Bar(limit=0.9), "is_judged": False}, None),
        ({"bar": Bar(limit=0.9), "reference": None}, False),
        ({"bar": Bar(limit=0.9), "value": float("nan")}, False),
        ({"bar": Bar(limit=0.9, side="<="), "value": float("nan")}, False),
    ],
)
def test_a_measure_is_judged_by_its_bar(changes: dict[str, object], is_ok: bool | None) -> None:
    assert _measure(**changes).is_ok is is_ok


def test_a_measure_is_one_line_of_json() -> None:
    line = _measure(bar=Bar(limit=0.95), note="reference: FAISS").to_json()
    assert "\n" not in line
    assert json.loads(line) == {
        "measure": "speed", "value": 9.0, "reference": 10.0, "ratio": 0.9, "bar": 0.95, "ok": False,
        "unit": "queries/s", "note": "bar: ratio >= 0.95; reference: FAISS",
    }  # fmt: skip
    bare = json.loads(_measure(reference=None, value=float("inf")).to_json())
    assert (bare["value"], bare["reference"], bare["ratio"], bare["bar"], bare["ok"]) == (None, None, None, None, None)


def test_sides_take_turns() -> None:
    turns: list[str] = []

    def side(name: str) -> int:
        turns.append(name)
        return len(turns)

    found = alternate({"a": lambda: side("a"), "b": lambda: side("b")}, blocks=3)
    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [1, 1, 50, 99, 100]
    assert spread([1.0, 3.0], [2.0, 2.0]) == "2 rounds, ratios 0.5 to 1.5"


def test_people_see_bar_and_verdict() -> None:
    text = table(
        [
            _measure(name="fast", value=12_345.6, bar=Bar(limit=0.95), note="reference: FAISS"),
            _measure(name="slow", bar=Bar(limit=0.95)),
            _measure(name="quick", bar=Bar(limit=0.95), is_judged=False),
            _measure(name="told", reference=None),
        ]
    )
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert "12,346 queries/s" in rows["fast"]
    assert rows["fast"].endswith("ratio >= 0.95  ok")
    assert rows["slow"].endswith("ratio >= 0.95  MISSED")
    assert rows["quick"].endswith("not judged")
    assert rows["told"].split() == ["told", "9", "queries/s"]
    assert "fast: reference: FAISS" in text


def _groups() -> list[Group]:
    good = Group(title="Good", names=("good_speed",), run=lambda bar: [_measure(name="good_speed", bar=Bar(limit=0.5))])
    bad = Group(
        title="Bad", names=("bad_speed", "told"),
        run=lambda bar: [_measure(name="bad_speed", bar=Bar(limit=0.95)), _measure(name="told")],
    )  # fmt: skip
    return [good, bad]


@pytest.mark.parametrize(("only", "names", "code"), [(None, ["good_speed", "bad_speed", "told"], 1),
                                                     ("good", ["good_speed"], 0), ("told", ["told"], 0)])  # fmt: skip
def test_exit_code_tells_whether_a_bar_was_missed(only: str | None, names: list[str], code: int) -> None:
    out = io.StringIO()
    assert run_groups(_groups(), only=only, as_json=True, out=out) == code
    assert [json.loads(line)["measure"] for line in out.getvalue().splitlines()] == names


def test_an_unknown_measure_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="--only fast: no measure .* good_speed, bad_speed, told"):
        run_groups(_groups(), only="fast", as_json=False)


BASE = Setting(passages=100_000, shards=2, queries=16, hits=8, tokens=140, cores=2)
MODEL = CostModel(fixed=0.2, per_message=0.1, per_scanned=2e-5, per_hit=1e-4, per_token=2e-6)


def _points(model: CostModel, noise: float = 0.0) -> list[Point]:
    grid = full_grid()
    random = np.random.default_rng(0)
    settings = [replace(BASE, passages=number) for number in grid.passages]
    settings += [replace(BASE, shards=number, replies=mode, hits=hits) for number in grid.shards
                 for mode in ("whole", "two_phase") for hits in grid.hits]  # fmt: skip
    settings += [replace(BASE, clients=number) for number in grid.clients]
    return [
        Point(setting=setting, ours_ms=model.of(setting) * (1 + noise * random.standard_normal()), raw_ms=1.0)
        for setting in settings
    ]


def test_the_fit_finds_the_costs_it_was_made_from() -> None:
    model, error = fit(_points(MODEL))
    assert asdict(model) == pytest.approx(asdict(MODEL), rel=1e-6)
    assert error.worst < 1e-9
    noisy, error = fit(_points(MODEL, noise=0.05))
    assert noisy.per_scanned == pytest.approx(MODEL.per_scanned, rel=0.1)
    assert 0.005 < error.median < 0.06 < error.worst < 0.3


def test_no_cost_is_negative() -> None:
    matrix = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert non_negative_least_squares(matrix, np.array([3.0, 2.0, 1.0])).tolist() == pytest.approx([2.0, 0.0])
    assert non_negative_least_squares(matrix, np.array([-1.0, -2.0, -3.0])).tolist() == [0.0, 0.0]


def test_too_few_measurements_are_told() -> None:
    with pytest.raises(DataError, match="4 measurements cannot tell 5 factors apart"):
        fit(_points(MODEL)[:4])


def test_what_a_search_is_counted_as() -> None:
    counted = dict(zip(FACTORS, factors(BASE), strict=True))
    assert counted == {"fixed": 1, "per_message": 4, "per_scanned": 800_000, "per_hit": 256, "per_token": 35_840}
    in_two = dict(zip(FACTORS, factors(replace(BASE, replies="two_phase")), strict=True))
    assert (in_two["per_message"], in_two["per_token"]) == (8, 17_920)
    crowded = dict(zip(FACTORS, factors(replace(BASE, shards=8, clients=2)), strict=True))
    assert crowded["per_scanned"] == 1_600_000


def test_predictions_for_a_cluster_give_every_shard_its_cores(tmp_path: Path) -> None:
    asked = {"passages": 1_000_000, "queries": 16, "hits": 8, "tokens": 140}
    assert predict(MODEL, shards=8, **asked) < predict(MODEL, shards=1, **asked) / 4
    assert predict(MODEL, shards=8, cores=2, **asked) > predict(MODEL, shards=2, **asked)
    MODEL.save(tmp_path / "scale.json", points=_points(MODEL), error=fit(_points(MODEL))[1])
    assert CostModel.load(tmp_path / "scale.json") == MODEL
    with pytest.raises(DataError, match="holds no cost model .*bench scale"):
        CostModel.load(tmp_path / "other.json")


def test_planning_needs_no_heavy_library() -> None:
    heavy = ("torch", "faiss", "mpi4py")
    program = f"import realm_ds.planning.cost, sys; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_vectors_are_the_same_in_whatever_pieces() -> None:
    vectors = VectorsOf(seed=3, width=4)
    whole = vectors(0, 9000)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(vectors(4000, 8500), whole[4000:8500])
    places = np.array([8999, 0, 4096, 17])
    np.testing.assert_array_equal(vectors.at(places), whole[places])
    assert not np.array_equal(VectorsOf(seed=4, width=4)(0, 5), whole[:5])


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_a_stand_in_for_a_tower_finds_the_place_in_the_wordpieces(tokens: int) -> None:
    start = 60_000 if tokens == 1 else 200_000
    passages = numbered_passages(start, start + 50, tokens=tokens)
    assert (passages.uids_N == np.arange(start, start + 50) + FIRST_UID).all()
    assert (passages.lengths_N == tokens).all()
    vectors = VectorsOf(seed=3, width=4)
    rows = np.array([7, 3, 49])
    batch = passage_batch(passages.pairs(rows), special=SPECIAL, max_tokens=min(tokens, 2) + 3)
    found = embed_places(vectors, tokens=tokens)(batch)
    np.testing.assert_array_equal(found, vectors.at(rows + start))
    assert (seed_in(seed_snapshot(12)), seed_in(b"weights")) == (12, None)


def test_one_wordpiece_cannot_tell_more_places_than_it_has_values() -> None:
    with pytest.raises(ValueError, match="1 wordpieces cannot tell 70000 places"):
        numbered_passages(0, 70_000, tokens=1)


def test_wrong_hits_are_noticed() -> None:
    vectors, queries = VectorsOf(seed=3, width=8)(0, 200), queries_of(1, count=5, width=8)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert is_best(best, queries, vectors)
    assert not is_best(best[:, ::-1], queries, vectors)
    assert not is_best(np.argsort(queries @ vectors.T, axis=1)[:, :10], queries, vectors)
    assert not is_best(np.repeat(best[:, :1], 10, axis=1), queries, vectors)
