"""Where the readers of a stream stand, and how another number of them shares what they left unread. No records here.

The order of an epoch is a line of `total` places. In a plain epoch each of R readers has total // R of them side by
side, and fewer than R are left over at its end. Readers may stand in different epochs, since some skip more records
than others. When their number changes, every place of these epochs that nobody has read, left over or not, goes into
one line, the earliest epoch first, which is cut into as many parts as there are readers now. So of an epoch in which
the number changed nothing is read twice and nothing is left out; the epochs after it are plain again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Places start..stop-1 of an epoch's order."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """Where a reader stands: after `position` records of its part of an epoch, or of its share of a rest."""

    epoch: int = 0
    """Of the record read last."""
    position: int = 0
    rest: tuple[Interval, ...] = ()
    """This reader's share of what was unread when the number of readers changed; then a plain epoch begins."""
    rest_until: int = 0
    """The newest epoch that was shared out with it, the readers' one and the same: the plain one is that after it."""


def redeal(states: Sequence[StreamState], *, total: int, num_readers: int) -> tuple[StreamState, ...]:
    """States of `num_readers` readers that go on together where those of `states`, of one stream, left off."""
    last = max(_epoch_begun(state) for state in states)
    unread = _in_line(_unread(states, total=total, last=last))
    count = sum(part.stop - part.start for part in unread)
    cuts = [count * number // num_readers for number in range(num_readers + 1)]
    return tuple(
        _state(_cut(unread, start, stop), last=last, num_records=total // num_readers) for start, stop in pairwise(cuts)
    )


def _epoch_begun(state: StreamState) -> int:
    """The newest epoch of which a reader has read, or was given, anything; -1 where it is at the very beginning."""
    if state.rest:
        return state.rest_until
    return state.epoch if state.position else state.epoch - 1


def _unread(states: Sequence[StreamState], *, total: int, last: int) -> Iterator[Interval]:
    """All that is unread of the epochs up to `last`, the newest that any reader has begun."""
    share = total // len(states)
    first_plain = last + 1
    for reader, state in enumerate(states):
        yield from _cut(state.rest, state.position, total * (len(state.rest) + 1))
        epoch, position = (state.rest_until + 1, 0) if state.rest else (state.epoch, state.position)
        if position == share:
            epoch, position = epoch + 1, 0
        first_plain = min(first_plain, epoch)
        for behind in range(epoch, last + 1):
            start = reader * share + (position if behind == epoch else 0)
            yield Interval(epoch=behind, start=start, stop=(reader + 1) * share)
    left_over = total - share * len(states)
    for epoch in range(first_plain, last + 1) if left_over else ():
        yield Interval(epoch=epoch, start=total - left_over, stop=total)


def _in_line(parts: Iterable[Interval]) -> list[Interval]:
    """By epoch and place; what stands side by side is one."""
    line: list[Interval] = []
    for part in sorted(parts, key=lambda part: (part.epoch, part.start)):
        if line and (line[-1].epoch, line[-1].stop) == (part.epoch, part.start):
            part = replace(line.pop(), stop=part.stop)
        line.append(part)
    return line


def _cut(parts: Sequence[Interval], start: int, stop: int) -> tuple[Interval, ...]:
    """Places start..stop-1 of the line that the parts make."""
    found, before = [], 0
    for part in parts:
        low = max(part.start, part.start + start - before)
        high = min(part.stop, part.start + stop - before)
        if low < high:
            found.append(Interval(epoch=part.epoch, start=low, stop=high))
        before += part.stop - part.start
    return tuple(found)


def _state(rest: tuple[Interval, ...], *, last: int, num_records: int) -> StreamState:
    if rest:
        return StreamState(epoch=rest[0].epoch, rest=rest, rest_until=last)
    return StreamState(epoch=last, position=num_records) if last >= 0 else StreamState()
