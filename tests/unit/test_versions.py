"""The version rule, proved over many schedules: two versions are enough, and none is asked for before its launch."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from realm_ds.index.versions import age_in_steps, launch_at, oldest_kept, version_at

schedules = st.integers(1, 40).flatmap(lambda every: st.tuples(st.just(every), st.integers(1, every)))


@given(schedules, st.integers(0, 500))
def test_a_version_is_launched_before_it_is_asked_for_and_kept_until_nobody_asks(schedule: tuple[int, int], step: int):
    every, adopt_after = schedule
    launched = max(launch_at(s, every_steps=every) or 0 for s in range(step + 1))
    for ahead in range(adopt_after + 1):  # search_ahead is at most adopt_after_steps
        asked = version_at(step + ahead, every_steps=every, adopt_after_steps=adopt_after)
        assert oldest_kept(launched) <= asked <= launched
    assert launched - oldest_kept(launched) + 1 <= 2


@given(schedules)
def test_versions_are_adopted_one_by_one_at_their_step(schedule: tuple[int, int]):
    every, adopt_after = schedule
    asked = [version_at(step, every_steps=every, adopt_after_steps=adopt_after) for step in range(4 * every + 1)]
    assert asked[0] == 0
    assert all(later - sooner in (0, 1) for sooner, later in itertools.pairwise(asked))
    for version in range(1, 4):
        assert asked.index(version) == version * every + adopt_after


def test_launches_are_multiples():
    assert [launch_at(step, every_steps=3) for step in range(7)] == [0, None, None, 1, None, None, 2]


def test_age_counts_from_the_launch():
    ages = [age_in_steps(step, every_steps=4, adopt_after_steps=2) for step in range(12)]
    assert ages == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3]
