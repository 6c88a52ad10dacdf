"""Keys that came before, compared with a set."""

import random

from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare.key_set import KeySet


@given(keys=st.lists(st.integers(0, 40) | st.integers(0, 2**63 - 1) | st.sampled_from([0, 1, 1023, 2**63 - 1])))
def test_like_a_set(keys: list[int]) -> None:
    seen, expected = KeySet(), set[int]()
    for key in keys:
        assert seen.add(key) == (key not in expected)
        expected.add(key)


def test_it_grows() -> None:
    seen, chance = KeySet(), random.Random(1)
    keys = [*range(3000), *(chance.getrandbits(63) for _ in range(3000))]
    assert all(map(seen.add, keys))
    assert not any(map(seen.add, keys))
