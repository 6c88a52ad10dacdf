"""Which index version belongs to which step: the whole rule, as arithmetic. Building and serving are elsewhere.

Version v is launched (its snapshot taken) just before step launch_step(v), and every trainer asks for it from
adopt_after_steps later on; version 0 is asked for from the start. With a fixed interval, launch_step(v) is
v * every_steps. With `every_steps: auto` the launch of v + 1 is decided once v is adopted, by what all trainers have
measured together.

Why every version that can be asked for has been launched: at step s trainers ask for steps up to s + search_ahead, and
search_ahead <= adopt_after_steps. A version asked for at s + search_ahead was launched adopt_after_steps before that or
earlier, so at s at the latest. An auto launch that is not yet decided at s lies behind s (it is after the adoption that
decides it), so its version is asked for only behind s + adopt_after_steps: that it is not known yet changes no answer.

Why two versions at a time are enough: v + 1 is launched no sooner than v is adopted. See oldest_kept.
"""

from bisect import bisect_right
from collections.abc import Sequence

from realm_ds.config.index import RefreshConfig

STRETCH = 2
"""An auto interval is at most so many times the last one, and the last at most so many times it: one odd measurement
must not carry the schedule away."""


def oldest_kept(launched: int) -> int:
    """The oldest version that can still be asked for once `launched` is being built.

    Trainers are in lockstep: whoever launches v at step launch_step(v) has seen all of them finish the step before,
    answers included, and from that step on nobody asks for less than v - 1, which is adopted by then.
    """
    return max(0, launched - 1)


class Schedule:
    """The launches of one run. Told the same settings and measurements, it is the same on every trainer and resume."""

    def __init__(
        self, refresh: RefreshConfig, *, launches: Sequence[int] = (), num_steps: int | None = None
    ) -> None:  # fmt: skip
        """`launches` are those of a schedule to go on with. Of a run of `num_steps`, no version is launched that none
        of its steps would ask for: what is launched after the last step would have to wait for it."""
        self._refresh = refresh
        self._last_launch = None if num_steps is None else num_steps - 1 - refresh.adopt_after_steps
        self._fixed = None if refresh.every_steps == "auto" else refresh.every_steps
        self._launches = list(launches) or [0, refresh.first_interval]

    @classmethod
    def of_one_version(cls) -> "Schedule":
        """Version 0 and no other: an auto schedule whose next launch nobody decides."""
        return cls(RefreshConfig(every_steps="auto"), launches=[0])

    @property
    def launches(self) -> tuple[int, ...]:
        """What a checkpoint must hold: the launch steps that do not follow from the settings, by version."""
        return () if self._fixed else tuple(self._launches)

    def version_at(self, step: int) -> int:
        """The version that every trainer asks for at `step`."""
        return self._newest(step - self._refresh.adopt_after_steps)

    def launch_at(self, step: int) -> int | None:
        """The version whose snapshot is taken just before `step`, if one is."""
        version = self._newest(step)
        return version if self.launch_step(version) == step else None

    def adoption_at(self, step: int) -> int | None:
        """The version that `step` is the first to ask for, if it is."""
        version = self.version_at(step)
        return version if self.adoption_step(version) == step else None

    def launch_step(self, version: int) -> int:
        return version * self._fixed if self._fixed else self._launches[version]

    def adoption_step(self, version: int) -> int:
        """The first step that asks for `version`."""
        return self.launch_step(version) + self._refresh.adopt_after_steps if version else 0

    def age_in_steps(self, step: int) -> int:
        """How many steps old the weights are that the index of `step` was built with."""
        return step - self.launch_step(self.version_at(step))

    def mean_age_until(self, version: int) -> float | None:
        """Mean age, in steps, of the index that answered from the adoption before that of `version` up to it."""
        if version == 0:
            return None
        first, last = self.adoption_step(version - 1), self.adoption_step(version) - 1
        return (self.age_in_steps(first) + self.age_in_steps(last)) / 2

    def interval_after(self, version: int) -> int:
        """Steps from the launch of `version` to the next."""
        return self.launch_step(version + 1) - self.launch_step(version)

    def needed_versions(self, step: int) -> range:
        """Versions that a run resumed after `step` optimizer steps still asks for and has already launched."""
        return range(self.version_at(step), self._newest(step - 1) + 1) if step else range(0)

    def next_version(self, step: int) -> int:
        """That of a launch that is no part of the schedule, just before `step`."""
        return self._newest(step - 1) + 1 if step else 0

    def decide(self, version: int, changed_share: float | None) -> None:
        """Once `version` is adopted: settle the launch of the next by the share of hits that differ from the version
        before. None, where nothing could be compared, keeps the interval. Does nothing where intervals are fixed."""
        if self._fixed or version + 2 <= len(self._launches):
            return
        refresh, last = self._refresh, self.interval_after(version - 1)
        # The change is taken to grow in proportion to the interval. No change at all: as far as allowed.
        wanted = last if changed_share is None else last * refresh.target_change / max(changed_share, 1e-9)
        wanted = min(max(wanted, last / STRETCH), last * STRETCH)
        interval = min(max(round(wanted), refresh.shortest_steps), refresh.longest_steps)
        # Behind the adoption that decided it, also where the shortest interval is adopt_after_steps itself.
        self._launches.append(max(self.adoption_step(version) + 1, self.launch_step(version) + interval))

    def _newest(self, step: int) -> int:
        """The newest version launched at `step` or before; version 0 before its launch."""
        if self._last_launch is not None:
            step = min(step, self._last_launch)
        return max(0, step // self._fixed if self._fixed else bisect_right(self._launches, step) - 1)
