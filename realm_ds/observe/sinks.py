"""What happened, for machines: one JSON line per event per rank, and TensorBoard from the leading trainer.

Events: `step` (step, steps, means), `result` (the closing numbers of a stage), `remark` (a text for people), `joined`
(the first of a rank in a world: its host and libraries), `alive` (every few seconds: pulse.py), `ended` (the last,
unless it was killed), and what else a caller names. A line is whole or absent, and is there as soon as it is written:
readers follow the file of a live run.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from realm_ds.errors import Preempted
from realm_ds.observe.trackers import Tracker

logger = logging.getLogger(__name__)

Value = float | int | str | bool | None | Sequence["Value"] | Mapping[str, "Value"]


def metrics_path(run_folder: Path, *, role: str, role_rank: int) -> Path:
    """The events of a rank."""
    return run_folder / "metrics" / f"{role}-{role_rank}.jsonl"


class Sinks:
    """The open files that one rank's events go to."""

    def __init__(
        self, run_folder: Path, *, role: str, role_rank: int, stage: str, tensorboard: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._path = metrics_path(run_folder, role=role, role_rank=role_rank)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(self._path)
        self._file = self._path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._stage = stage
        self._clock = clock
        self._board = _Board(run_folder / "events" / stage) if tensorboard else None
        self._tracker: Tracker | None = None

    def also_to(self, tracker: Tracker | None) -> None:
        """From now on curves go there as well; closed with these."""
        self._tracker = tracker

    def write(self, event: str, *, step: int | None = None, **values: Value) -> None:
        """One event; the numbers of some also become curves."""
        record: dict[str, Any] = {"event": event, "time": round(self._clock(), 3), "stage": self._stage}
        if step is not None:
            record["step"] = step
        record.update({name: _plain(value) for name, value in values.items()})
        try:
            line = f"{json.dumps(record, allow_nan=False)}\n".encode()
            with self._lock:  # The pulse's thread writes, too.
                while line:
                    line = line[self._file.write(line) :]
        except OSError as error:  # a full disk: say of which file
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        curves = _curves(record)
        if self._board is not None and curves:
            self._board.write(record["step"], curves, record["time"])
        if self._tracker is not None and curves:
            self._tracker.log(record["step"], curves)

    def close(self, *, failed: bool = False) -> None:
        """Close the files; events after this are an error. A tracker also learns whether the rank has failed."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._tracker is not None:
            self._tracker.close(failed=failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None and not issubclass(kind, Preempted))


def read_events(path: Path, *, event: str | None = None, stage: str | None = None) -> Iterator[dict[str, Any]]:
    """The events of a file, oldest first; a last line that is still being written is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = parse_event(line)
            if record is not None and event in (None, record["event"]) and stage in (None, record.get("stage")):
                yield record


def parse_event(line: str) -> dict[str, Any] | None:
    """One line as a record, or None when it was cut off (a killed writer)."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


def last_of_each_step(records: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps in order, each once: a resumed run repeats the steps after its checkpoint, and the later record counts."""
    return [record for _, record in sorted({record["step"]: record for record in records}.items())]


_MEASURES = ("step", "evaluated", "adopted")
"""Events whose numbers make curves over steps: those of the others are there once, or in `step` as well."""
_NO_CURVE = ("step", "steps", "time")


def _curves(record: Mapping[str, Any]) -> dict[str, float]:
    """The points that an event adds to curves, by their names; none from most events."""
    if record["event"] not in _MEASURES or "step" not in record:
        return {}
    numbers = {name: value for name, value in record.items() if name not in _NO_CURVE}
    return {
        f"{record['stage']}/{name}": value
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _plain(value: Any) -> Any:
    """Numbers as JSON has them; nan and inf, which it has not, as words, so that a diverged run shows it."""
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [_plain(part) for part in value]
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _end_torn_line(path: Path) -> None:
    """A writer that was killed may have left half a line: the next one must not be glued to it."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


class _Board:
    """TensorBoard's event file, where the library is installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            logger.info("no TensorBoard curves: pip install 'realm-ds[tracking]' adds them")
            self._writer: Any = None
            return
        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder), flush_secs=10)

    def write(self, step: int, curves: Mapping[str, float], at: float) -> None:
        if self._writer is None:
            return
        scalars = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in curves.items()]
        self._writer.add_event(self._event(step=step, wall_time=at, summary=self._summary(value=scalars)))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
