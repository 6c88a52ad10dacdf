"""Recall against cases worked by hand and against a double loop."""

import numpy as np
import pytest

from realm_ds.errors import DataError
from realm_ds.eval.retrieval import gold_hits, recall_at, recalls

HITS_NK = np.array([[7, 3, 9], [4, 7, -1], [-1, -1, -1]], dtype=np.int64)


def test_gold_hits_by_hand() -> None:
    found_NK = gold_hits(HITS_NK, [[9, 100], [7, 4], []])
    assert found_NK.tolist() == [[False, False, True], [True, True, False], [False] * 3]
    assert recall_at(found_NK, 1) == pytest.approx(1 / 3)
    assert recall_at(found_NK, 3) == pytest.approx(2 / 3)


def test_an_empty_place_is_never_gold() -> None:
    assert not gold_hits(HITS_NK, [[-1], [-1], [-1]]).any()


def test_recalls_against_a_double_loop() -> None:
    random = np.random.default_rng(0)
    hits_NK = np.stack([random.permutation(50)[:20] for _ in range(40)])
    gold = [random.choice(50, size=random.integers(0, 4), replace=False).tolist() for _ in range(40)]
    wanted = {k: sum(any(uid in gold[n] for uid in hits_NK[n][:k]) for n in range(40)) / 40 for k in (1, 5, 20)}
    assert recalls(gold_hits(hits_NK, gold)) == pytest.approx(wanted)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="3 rows of hits but 1 gold lists"):
        gold_hits(HITS_NK, [[1]])
    with pytest.raises(DataError, match="recall@20 needs as many hits per query, but 3"):
        recalls(gold_hits(HITS_NK, [[], [], []]))
    with pytest.raises(DataError, match="recall@5 of no queries"):
        recall_at(np.zeros((0, 5), dtype=bool), 5)
