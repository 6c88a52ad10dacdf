"""`realm-ds prepare inspect` as people see it: progress, then what was found. The work is inspect.py's."""

import json
from pathlib import Path

from realm_ds.observe.inspection import show_shards
from realm_ds.observe.progress import Progress, number_of
from realm_ds.prepare.inspect import InspectOptions, as_json, find_target, find_tokenizer, inspect


def inspect_verb(
    pointed_at: str, asked: InspectOptions, *, tokenizer: Path | None, plot: Path | None, print_json: bool, workers: int
) -> bool:
    """Look at a place of shards or one of them, and show it. Returns whether nothing is wrong with it."""
    target = find_target(pointed_at)
    known = find_tokenizer(target, tokenizer)
    is_much = asked.reads_all and len(target.shards) > 1
    with Progress() as progress:
        bar = progress.stage("reading")
        view = inspect(
            target, asked, tokenizer=known, workers=workers if is_much else 0,
            on_progress=lambda done, total: bar.update(done, total=total, now="tar shards"),
        )  # fmt: skip
        bar.finish(number_of(bar.done, "tar shard"))
    if plot is not None and view.distributions:
        from realm_ds.prepare.plots import draw_lengths

        draw_lengths(plot, view.distributions, title=str(target))
    print(json.dumps(as_json(view))) if print_json else show_shards(view)
    return not view.faults
