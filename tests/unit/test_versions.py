"""The version rule, proved over many schedules: two versions are enough, and none is asked for before its launch."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.config.index import RefreshConfig
from realm_ds.index.versions import STRETCH, Schedule, oldest_kept

fixed_settings = st.integers(1, 40).flatmap(
    lambda every: st.builds(RefreshConfig, every_steps=st.just(every), adopt_after_steps=st.integers(1, every))
)
auto_settings = st.tuples(st.integers(1, 20), st.integers(0, 10), st.integers(0, 60)).flatmap(
    lambda sizes: st.builds(
        RefreshConfig,
        every_steps=st.just("auto"),
        adopt_after_steps=st.just(sizes[0]),
        shortest_steps=st.just(sizes[0] + sizes[1]),
        longest_steps=st.just(sizes[0] + sizes[1] + sizes[2]),
        target_change=st.floats(0.01, 0.9),
    )
)
changes = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=8)
NUM_STEPS = 160


class Followed:
    """A schedule as trainers follow it: what each step saw launched, adopted and asked for."""

    def __init__(self, refresh: RefreshConfig, changed: Sequence[float | None], *, stop_at: int = 0) -> None:
        self.refresh = refresh
        self.schedule = Schedule(refresh)
        self.launched_by_step: list[int] = []
        self.asked: dict[int, int] = {}
        launched = -1
        for step in range(NUM_STEPS):
            if step == stop_at:
                self.schedule = Schedule(refresh, launches=self.schedule.launches)
            version = self.schedule.launch_at(step)
            assert version in (None, launched + 1)
            launched = launched if version is None else version
            self.launched_by_step.append(launched)
            for ahead in range(refresh.adopt_after_steps + 1):  # search_ahead is at most adopt_after_steps
                asked = self.schedule.version_at(step + ahead)
                assert oldest_kept(launched) <= asked <= launched
                assert self.asked.setdefault(step + ahead, asked) == asked  # and no later step changes it
            adopted = self.schedule.adoption_at(step)
            if adopted is not None:
                assert step == 0 or self.asked[step - 1] == adopted - 1
                self.schedule.decide(adopted, changed[adopted % len(changed)])

    def intervals(self) -> list[int]:
        return [self.schedule.interval_after(version) for version in range(self.launched_by_step[-1])]


@given(st.one_of(fixed_settings, auto_settings), changes)
def test_a_version_is_launched_before_it_is_asked_for_and_kept_until_nobody_asks(
    refresh: RefreshConfig, changed: list[float | None]
) -> None:
    followed = Followed(refresh, changed)
    for step, launched in enumerate(followed.launched_by_step):
        assert followed.schedule.next_version(step) == (followed.launched_by_step[step - 1] + 1 if step else 0)
        # Alive: from the version of this step to the newest. A shard keeps no more than that.
        assert launched - oldest_kept(launched) + 1 <= 2
        assert followed.schedule.age_in_steps(step) == step - followed.schedule.launch_step(followed.asked[step])
        resumed = followed.schedule.needed_versions(step)
        assert list(resumed) == (list(range(followed.asked[step], followed.launched_by_step[step - 1] + 1))
                                 if step else [])  # fmt: skip


@given(fixed_settings, changes)
def test_a_fixed_schedule_is_arithmetic(refresh: RefreshConfig, changed: list[float | None]) -> None:
    schedule = Followed(refresh, changed).schedule
    every = refresh.first_interval
    for step in range(NUM_STEPS):
        assert schedule.launch_at(step) == (step // every if step % every == 0 else None)
        assert schedule.version_at(step) == max(0, (step - refresh.adopt_after_steps) // every)
    assert schedule.launches == ()


@given(auto_settings, changes)
def test_an_auto_interval_stays_within_its_bounds(refresh: RefreshConfig, changed: list[float | None]) -> None:
    intervals = Followed(refresh, changed).intervals()
    # Behind the adoption that decides it, which may be one step more than the longest.
    longest = max(refresh.longest_steps, refresh.adopt_after_steps + 1)
    assert all(refresh.shortest_steps <= interval <= longest for interval in intervals)
    for last, interval in itertools.pairwise(intervals):
        within = max(STRETCH * last + 1, refresh.shortest_steps, refresh.adopt_after_steps + 1)
        assert last // STRETCH <= interval <= within


@given(auto_settings, changes, st.integers(0, NUM_STEPS))
def test_the_same_measurements_make_the_same_schedule_stopped_or_not(
    refresh: RefreshConfig, changed: list[float | None], stop_at: int
) -> None:
    whole, resumed = Followed(refresh, changed), Followed(refresh, changed, stop_at=stop_at)
    assert whole.schedule.launches == resumed.schedule.launches
    assert whole.asked == resumed.asked


AUTO = RefreshConfig(every_steps="auto", adopt_after_steps=50, shortest_steps=100, longest_steps=400, target_change=0.1)


@pytest.mark.parametrize(
    ("changed", "interval"), [(0.1, 100), (0.05, 200), (0.08, 125), (0.0, 200), (0.2, 100), (None, 100)]
)
def test_twice_the_change_wanted_is_half_the_interval(changed: float | None, interval: int) -> None:
    schedule = Schedule(AUTO)
    schedule.decide(0, None)
    assert schedule.launches == (0, 100)
    schedule.decide(1, changed)
    assert schedule.launches == (0, 100, 100 + interval)
    schedule.decide(1, 0.5)  # once decided, it stays
    assert schedule.launches == (0, 100, 100 + interval)


def test_a_long_interval_shrinks_by_half_at_most() -> None:
    schedule = Schedule(AUTO, launches=[0, 100, 500])
    schedule.decide(2, 1.0)
    assert schedule.interval_after(2) == 200


def test_ages_count_from_the_launch() -> None:
    schedule = Schedule(RefreshConfig(every_steps=4, adopt_after_steps=2))
    ages = [schedule.age_in_steps(step) for step in range(12)]
    assert ages == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3]
    assert [schedule.mean_age_until(version) for version in range(3)] == [None, sum(ages[:6]) / 6, sum(ages[6:10]) / 4]


@given(st.integers(0, 10**6))
def test_a_schedule_of_one_version_has_no_other(step: int) -> None:
    schedule = Schedule.of_one_version()
    assert (schedule.version_at(step), schedule.launch_at(step)) == (0, None if step else 0)
    assert schedule.adoption_at(step) == (None if step else 0)
    assert schedule.age_in_steps(step) == step
    assert list(schedule.needed_versions(step)) == ([0] if step else [])


def test_launches_are_multiples() -> None:
    schedule = Schedule(RefreshConfig(every_steps=3, adopt_after_steps=2))
    assert [schedule.launch_at(step) for step in range(7)] == [0, None, None, 1, None, None, 2]
    assert [schedule.adoption_at(step) for step in range(9)] == [0, None, None, None, None, 1, None, None, 2]


@given(fixed_settings, st.integers(1, NUM_STEPS))
def test_a_run_launches_what_one_of_its_steps_asks_for_and_nothing_else(refresh: RefreshConfig, num_steps: int) -> None:
    endless, ending = Schedule(refresh), Schedule(refresh, num_steps=num_steps)
    asked = [endless.version_at(step) for step in range(num_steps)]
    assert [ending.version_at(step) for step in range(num_steps)] == asked
    launched = [version for step in range(num_steps) if (version := ending.launch_at(step)) is not None]
    assert launched == sorted(set(asked))
    assert ending.next_version(num_steps) == launched[-1] + 1
    for step in range(num_steps):
        needed = [version for version in endless.needed_versions(step) if version in launched]
        assert list(ending.needed_versions(step)) == needed


@pytest.mark.parametrize(
    ("step", "expected"), [(0, []), (1, [0]), (3, [0]), (4, [0, 1]), (5, [1]), (6, [1]), (7, [1, 2])]
)
def test_versions_needed_after_a_resume(step: int, expected: list[int]) -> None:
    schedule = Schedule(RefreshConfig(every_steps=3, adopt_after_steps=2))
    assert list(schedule.needed_versions(step)) == expected
