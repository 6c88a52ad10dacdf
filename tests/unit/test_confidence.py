"""Intervals and comparisons against plain resampling, and against cases whose answer is known."""

import itertools

import numpy as np
import pytest

from realm_ds.eval.confidence import compare, interval


def test_an_interval_is_that_of_questions_drawn_one_by_one() -> None:
    random = np.random.default_rng(1)
    values = random.choice([0.0, 0.25, 2 / 3, 1.0], size=200, p=[0.5, 0.1, 0.1, 0.3])
    found = interval(values)
    drawn = values[random.integers(0, 200, size=(10_000, 200))].mean(axis=1)
    assert found.mean == values.mean()
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.004)


def test_an_interval_is_the_same_for_the_same_seed_and_has_no_width_where_all_agree() -> None:
    values = [0, 1, 1, 0, 1]
    assert interval(values, seed=3) == interval(values, seed=3)
    certain = interval([1.0] * 30)
    assert (certain.mean, certain.low, certain.high) == (1.0, 1.0, 1.0)


def test_p_is_that_of_all_exchanges() -> None:
    first, second = np.array([1, 1, 0, 1, 1, 0.5, 1, 0]), np.array([0, 1, 0, 0, 1, 0.75, 0, 0])
    differences = first - second
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    found = compare(first, second)
    assert found.difference.mean == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx(exact, abs=0.015)
    assert compare(second, first).difference.mean == pytest.approx(-differences.mean())


def test_runs_that_agree_do_not_differ_and_runs_that_never_do_differ() -> None:
    same = compare([1, 0, 1], [1, 0, 1])
    assert (same.difference.low, same.difference.high, same.p_value) == (0.0, 0.0, 1.0)
    apart = compare([1] * 40, [0] * 40)
    assert apart.difference.low == 1.0
    assert apart.p_value == pytest.approx(1 / 10_001)
