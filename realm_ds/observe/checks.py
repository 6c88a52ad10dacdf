"""What was checked before a run, as people see it. What there is to check is cluster/'s business."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

CheckState = Literal["ok", "warn", "fail", "skip"]
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing."""

    name: str
    state: CheckState
    found: str
    fix: str = ""
    """What to do; empty where nothing is to be done or `found` says it."""


def print_checks(checks: Sequence[Check], *, out: TextIO | None = None) -> None:
    """A line for each, what to do below it, and one that counts them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out or sys.stdout)
    if not console.is_terminal:
        console.width = 160  # A log has no width.
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        words = Text(check.found)
        if check.fix and check.state != "ok":
            words.append(f"\n-> {check.fix}", style="bold")
        table.add_row(Text(check.state, style=_COLOURS[check.state]), check.name, words)
    console.print(table)
    console.print(Text(summary(checks)))


def summary(checks: Sequence[Check]) -> str:
    """How many of each state, in one line."""
    counts = {state: sum(check.state == state for check in checks) for state in _COLOURS}
    words = {"ok": "as it should be", "warn": "to look at", "fail": "to mend first", "skip": "not looked at"}
    return ", ".join(f"{count} {words[state]}" for state, count in counts.items() if count)
