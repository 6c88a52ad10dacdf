"""The best models of a run so far, in RUN/best. What they are judged by is measured in evaluate.py.

    best/{query_tower, passage_tower, encoder, tokenizer}/    best/best.json: step, measure, value    best/manifest.json

The networks are as an export has them, so the folder can be named as model.start_from of another run.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from realm_ds.comm.trainers import Trainers
from realm_ds.errors import CheckpointError
from realm_ds.files import recover_folder, write_durably
from realm_ds.observe.sinks import Sinks
from realm_ds.sealed import sealed_folder
from realm_ds.train.writer import Writer

log = logging.getLogger(__name__)

FOLDER, RECORD = "best", "best.json"
JUDGED_BY = ("held_out_retrieval_utility", "held_out_log_likelihood", "held_out_recall_at_5")
"""The first of these that is measured decides, and more is better. Utility first: it foretells answers better than the
likelihood does (REALM, appendix D). It is absent without a null passage, and both are without held-out sentences."""


@dataclass(frozen=True, kw_only=True)
class BestRecord:
    """What best.json holds."""

    step: int
    """Optimizer steps done."""
    measure: str
    value: float
    measured_on: str
    """Values of other sentences cannot be compared with these."""
    corpus: str
    """How the digest of the passages begins that it was trained over."""
    metrics: Mapping[str, float]
    """Everything that was measured then."""


class BestModels:
    """Keeps RUN/best. Every method is a collective of all trainers, which are told the same numbers."""

    def __init__(
        self,
        run_folder: Path,
        *,
        first_step: int,
        measured_on: str,
        corpus: str,
        trainers: Trainers,
        writer: Writer,
        sinks: Sinks,
        copy_weights: Callable[[], dict[str, Tensor]],
        write: Callable[[Mapping[str, Tensor], Path], None],
    ) -> None:
        """`first_step` steps are done already. `copy_weights` is a collective; what it returns on trainer 0, `write`
        puts into a folder, in the writer's thread: it must draw no random number."""
        self._folder = run_folder / FOLDER
        self._measured_on, self._corpus = measured_on, corpus
        self._trainers, self._writer, self._sinks = trainers, writer, sinks
        self._copy_weights, self._write = copy_weights, write
        self._best = self._known(first_step)

    def offer(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the models as they are after `step` if nothing before them was as good.

        They are copied at once and written behind the training, before any checkpoint that is saved later on.
        """
        measure = next((name for name in JUDGED_BY if name in metrics), None)
        if measure is None or not self._is_best(measure, metrics[measure]):
            return
        started_at = time.perf_counter()
        weights = self._copy_weights()
        best = BestRecord(
            step=step, measure=measure, value=metrics[measure], measured_on=self._measured_on, corpus=self._corpus,
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        )  # fmt: skip
        if self._trainers.rank == 0:
            self._writer.submit("best models", partial(self._replace, weights, best))
        self._best = best
        took_ms = 1e3 * (time.perf_counter() - started_at)
        self._sinks.write("best", step=step, measure=measure, best_value=best.value, best_ms=took_ms)
        log.info("step %d is the best so far by %s: %s", step, measure, self._folder)

    def _is_best(self, measure: str, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return self._best is None or self._best.measure != measure or value > self._best.value

    def _replace(self, weights: Mapping[str, Tensor], best: BestRecord) -> None:
        remedy = "free space there, or set evaluate.keep_best=false, then go on with --resume"
        with sealed_folder(
            self._folder, what="the best models", remedy=remedy, kind=FOLDER, step=best.step
        ) as unfinished:
            self._write(weights, unfinished)
            write_durably(unfinished / RECORD, json.dumps(asdict(best), indent=1) + "\n")

    def _known(self, first_step: int) -> BestRecord | None:
        """The best of the steps that this run stands on; trainer 0 looks and tells the others."""
        told = b""
        if self._trainers.rank == 0:
            recover_folder(self._folder)
            best = read_best(self._folder)
            if best is not None and (reason := self._not_to_beat(best, first_step)):
                log.warning("%s is of step %d and %s: the next that is measured replaces it",
                            self._folder, best.step, reason)  # fmt: skip
                best = None
            told = json.dumps(asdict(best) if best is not None else None).encode()
        data = json.loads(self._trainers.broadcast_bytes(told if self._trainers.rank == 0 else None))
        return None if data is None else BestRecord(**data)

    def _not_to_beat(self, best: BestRecord, first_step: int) -> str:
        """Why another run's best, or that of steps which are done again, is no measure for this one; '' if it is."""
        if best.step > first_step:
            return f"this run goes on from step {first_step}"
        if best.measured_on != self._measured_on:
            return f"was measured on {best.measured_on}, now it is {self._measured_on}"
        return ""


def read_best(folder: Path) -> BestRecord | None:
    """What RUN/best says of itself; None where there is none. Raises CheckpointError if it cannot be read."""
    path = folder / RECORD
    if not folder.exists():
        return None
    try:
        return BestRecord(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): remove {folder}, then go on with --resume") from error
