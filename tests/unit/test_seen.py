"""Keys that came before, compared with a set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare import seen
from realm_ds.prepare.seen import SeenKeys


@given(batches=st.lists(st.lists(st.integers(0, 40) | st.integers(0, 2**63 - 1), max_size=12), max_size=30))
def test_like_a_set(batches: list[list[int]]) -> None:
    keys, expected = SeenKeys(), set[int]()
    for batch in batches:
        is_new = []
        for key in batch:
            is_new.append(key not in expected)
            expected.add(key)
        assert keys.add(batch).tolist() == is_new
    assert len(keys) == len(expected)


def test_eight_bytes_a_key_in_few_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "LARGEST_MERGE", 4096)
    keys = SeenKeys()
    for first in range(0, 20_000, 100):
        assert keys.add(np.arange(first, first + 100, dtype=np.int64)).all()
        assert not keys.add([first, first // 2]).any()
    assert keys.num_bytes == 8 * len(keys) == 160_000
    assert keys.num_arrays <= 20_000 // 2048 + 12
