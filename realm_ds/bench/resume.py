"""`realm-ds bench resume`: how long training stands still for a checkpoint and for a snapshot of the towers, and how
soon it goes on after a restart. What trainers do for it is train_jobs.py's business.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realm_ds.bench.demo_run import DemoRuns
from realm_ds.bench.measure import Bar, Measure, median
from realm_ds.bench.run import Group
from realm_ds.observe import progress

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    is_quick: bool
    steps: int
    save_every: int
    launch_every: int
    adopt_after: int
    """Less than launch_every: adoptions have costs of their own, which must not fall on steps that launch."""
    steps_after: int
    """Of the run that goes on."""


FULL = Sizes(is_quick=False, steps=250, save_every=14, launch_every=40, adopt_after=35, steps_after=2)
QUICK = Sizes(is_quick=True, steps=12, save_every=4, launch_every=5, adopt_after=4, steps_after=1)


def resume_groups(*, is_quick: bool) -> list[Group]:
    """What the verb can measure."""
    sizes, runs = QUICK if is_quick else FULL, DemoRuns(is_quick=is_quick)
    names = ("checkpoint_stall", "checkpoint_slowdown", "snapshot_stall", "resume_first_step")
    return [
        Group(title="Saving, launching and resuming", names=names, run=functools.partial(stalls, sizes, runs)),
    ]


def stalls(sizes: Sizes, runs: DemoRuns, bar: progress.Bar) -> Sequence[Measure]:
    """One run that saves and launches often, and one that goes on from its last checkpoint."""
    settings = {
        "pretrain.steps": sizes.steps, "pretrain.save_every_steps": sizes.save_every,
        "refresh.every_steps": sizes.launch_every, "refresh.adopt_after_steps": sizes.adopt_after,
    }  # fmt: skip
    rows = runs.run("observed", settings, bar=bar)["steps"][1:]  # the first waits for the first index
    started_at = time.time()
    settings["pretrain.steps"] = sizes.steps + sizes.steps_after
    resumed = runs.run("observed", settings, bar=bar, resume=True)["steps"]
    found = stalls_of(rows, save_every=sizes.save_every, launch_every=sizes.launch_every)
    usual_s = found["usual_s"]
    of_step = functools.partial(Measure, unit="ms", reference=1e3 * usual_s, is_judged=not sizes.is_quick)
    size = "demo recipe, one trainer under ZeRO-0"
    return [
        of_step(
            name="checkpoint_stall", value=1e3 * median(found["save_s"]), bar=Bar(limit=2, side="<="),
            note=f"reference: a step of the same run; what the loop stands still for a save; median of "
            f"{len(found['save_s'])}, the longest {1e3 * max(found['save_s']):.0f} ms; {size}",
        ),
        of_step(
            name="checkpoint_slowdown", value=1e3 * median(found["lost_s"]),
            note="the time lost by a save in all, from it to the next: the stall, and what writing in the background "
            "takes from the steps behind it",
        ),
        of_step(
            name="snapshot_stall", value=1e3 * median(found["launch_s"]), bar=Bar(limit=1, side="<="),
            note=f"what a step that launches an index version takes more than a step without; median of "
            f"{len(found['launch_s'])}, the longest {1e3 * max(found['launch_s']):.0f} ms; {size}",
        ),
        Measure(
            name="resume_first_step", value=resumed[0]["ended_at"] - started_at, unit="s", is_judged=not sizes.is_quick,
            note="from starting the processes to the end of the first step, building the index anew included",
        ),
    ]  # fmt: skip


def stalls_of(rows: Sequence[Row], *, save_every: int, launch_every: int) -> dict[str, Any]:
    """Seconds of an undisturbed step, and lists of what each save and each launch took.

    A save happens after its step is drawn, a launch while its step is: they are told apart even in one step. Waiting
    for the index is neither's.
    """
    own_s = [row["drawn_s"] - row["wait_s"] for row in rows]
    is_save = [row["step"] % save_every == 0 for row in rows]
    is_launch = [(row["step"] - 1) % launch_every == 0 for row in rows]
    # A step behind a save is disturbed where files are written in the background.
    is_usual = [not (save or launch or after) for save, launch, after in
                zip(is_save, is_launch, [False, *is_save], strict=False)]  # fmt: skip
    drawn_s = median([own for own, usual in zip(own_s, is_usual, strict=True) if usual])
    after_s = median([row["after_s"] for row, usual in zip(rows, is_usual, strict=True) if usual])
    lost_s = []
    for place in (place for place, save in enumerate(is_save) if save):
        until = next((later for later in range(place + 1, len(rows)) if is_save[later]), None)
        if until is not None:
            behind = [own_s[later] for later in range(place + 1, until) if not is_launch[later]]
            lost_s.append(rows[place]["after_s"] - after_s + sum(own - drawn_s for own in behind))
    return {
        "usual_s": drawn_s + after_s,
        "save_s": [row["after_s"] - after_s for row, save in zip(rows, is_save, strict=True) if save],
        "launch_s": [own - drawn_s for own, launch in zip(own_s, is_launch, strict=True) if launch],
        "lost_s": lost_s,
    }
