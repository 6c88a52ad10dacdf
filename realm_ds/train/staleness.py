"""How much index versions differ: the same sentences searched in every version at its adoption. By it an auto schedule
decides its next launch (index/versions.py).

Shapes: Q probe queries of this trainer, P embedding, K hits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.comm.trainers import Trainers
from realm_ds.data.masking import MaskedExample
from realm_ds.index.client import IndexClient
from realm_ds.index.exclusion import Exclusion
from realm_ds.index.messages import NO_HIT
from realm_ds.index.versions import Schedule
from realm_ds.models.towers import embed
from realm_ds.observe.sinks import Sinks
from realm_ds.train.checkpoint import IndexState
from realm_ds.train.collate import Collator
from realm_ds.train.refresh import QueryTowers


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A search that every version is put to."""

    examples: Sequence[MaskedExample]
    """The same for the whole run; none measures nothing."""
    collator: Collator
    exclude: Callable[[Sequence[MaskedExample]], Exclusion]
    num_hits: int


class Staleness:
    """Asks at the adoption of a version, compares at the end of that step: the search hides behind the training."""

    def __init__(
        self,
        *,
        probe: Probe,
        schedule: Schedule,
        towers: QueryTowers,
        client: IndexClient,
        trainers: Trainers,
        sinks: Sinks,
        state: IndexState | None,
    ) -> None:
        """`state` is that of the checkpoint to go on from."""
        self._probe, self._schedule, self._towers, self._client = probe, schedule, towers, client
        self._trainers, self._sinks = trainers, sinks
        self._request: int | None = None
        self.changed_share = state.changed_share if state else None
        """Share of the hits that the newest adoption changed, over all trainers; None where nothing was compared."""
        self._uids_QK = np.array(state.probe_uids if state else (), dtype=np.int64)

    def state(self) -> IndexState:
        """What a resumed run needs in order to decide as this one would."""
        uids = tuple(map(tuple, self._uids_QK.tolist()))
        return IndexState(launches=self._schedule.launches, probe_uids=uids, changed_share=self.changed_share)

    def ask(self, step: int) -> None:
        """Send the search, if `step` is the first of a version. After the step's own answers have come: it must not
        stand in their way."""
        if self._schedule.adoption_at(step) is None or not self._probe.examples:
            return
        version, tower = self._towers.at(step)
        self._request = self._client.submit(
            embed(tower, self._probe.collator.masked_queries(self._probe.examples)).numpy(),
            exclusion=self._probe.exclude(self._probe.examples), num_hits=self._probe.num_hits, step=step,
            version=version, ids_only=True,
        )  # fmt: skip

    def measure(self, step: int) -> float:
        """Once `step` is trained: compare, settle the next launch, write the adoption down. Collective of trainers.

        Returns the seconds that the answer was waited for.
        """
        version = self._schedule.adoption_at(step)
        if version is None:
            return 0.0
        wait_s = self._compare() if self._request is not None else 0.0
        self._schedule.decide(version, self.changed_share)
        self._sinks.write(
            "adopted", step=step, version=version, changed_share=self.changed_share,
            mean_age_steps=self._schedule.mean_age_until(version),
            interval_steps=self._schedule.interval_after(version),
        )  # fmt: skip
        return wait_s

    def _compare(self) -> float:
        assert self._request is not None
        candidates = self._client.collect(self._request)
        self._request = None
        # Also where there is nothing to compare with: the sum holds the trainers in step, so that none launches a
        # version while another still waits for the answer of the one before it.
        changed, compared = self._trainers.all_reduce_sum(count_changed(candidates.uids_BK, self._uids_QK))
        self.changed_share = changed / compared if compared else None
        self._uids_QK = candidates.uids_BK
        return candidates.wait_s


def count_changed(new_QK: np.ndarray, old_QK: np.ndarray) -> tuple[int, int]:
    """How many of the new hits are not among the old ones of the same query, and how many hits were compared.

    None is where the searches differ in size: there is no earlier one, or a resumed run asks for more candidates.
    """
    if new_QK.shape != old_QK.shape:
        return 0, 0
    is_hit_QK = new_QK != NO_HIT
    is_old_QK = (new_QK[:, :, None] == old_QK[:, None, :]).any(axis=2)
    return int((is_hit_QK & ~is_old_QK).sum()), int(is_hit_QK.sum())
