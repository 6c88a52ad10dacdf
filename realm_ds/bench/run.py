"""Runs the measures of a verb one after the other and says what they gave, to people or to machines."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from realm_ds.bench.measure import Measure, table
from realm_ds.errors import ConfigError
from realm_ds.observe.progress import Bar, Progress

MISSED = 1
"""Exit code when a bar is missed."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Measures that come out of one run of something."""

    title: str
    names: tuple[str, ...]
    """Of the measures, in order; scale.py makes up more of them as it goes, which begin with one of these."""
    run: Callable[[Bar], Sequence[Measure]]


def run_groups(groups: Sequence[Group], *, only: str | None, as_json: bool, out: TextIO | None = None) -> int:
    """Run the groups that have a measure whose name contains `only`; the exit code. Results go to `out`, progress to
    stderr."""
    out = out or sys.stdout
    chosen = [group for group in groups if only is None or any(only in name for name in group.names)]
    if not chosen:
        names = ", ".join(name for group in groups for name in group.names)
        raise ConfigError(f"--only {only}: no measure of this verb has that in its name; there are {names}")
    measures: list[Measure] = []
    with Progress() as progress:
        for group in chosen:
            bar = progress.stage(group.title)
            found = [measure for measure in group.run(bar) if only is None or only in measure.name]
            bar.finish("; ".join(map(_in_short, found)))
            measures += found
            if as_json:
                for measure in found:
                    print(measure.to_json(), file=out, flush=True)
    if not as_json:
        print(table(measures), file=out, flush=True)
    return MISSED if any(measure.is_ok is False for measure in measures) else 0


def _in_short(measure: Measure) -> str:
    verdict = {True: ", ok", False: ", MISSED", None: ""}[measure.is_ok]
    return f"{measure.name} {measure.value:.4g} {measure.unit}{verdict}"
