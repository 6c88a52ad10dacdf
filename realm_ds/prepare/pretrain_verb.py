"""`realm-ds prepare pretrain` as people see it. The work is pretrain.py's, what all jobs say job_report.py's."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from realm_ds.data.places import MANIFEST
from realm_ds.errors import ConfigError
from realm_ds.observe.progress import Progress
from realm_ds.prepare.examples import READ
from realm_ds.prepare.job import check_is_free
from realm_ds.prepare.job_report import estimate_lines, tell_job
from realm_ds.prepare.passages import PassageSource
from realm_ds.prepare.pretrain import Making, estimate_pretrain, prepare_pretrain


def write_pretrain(
    open_source: Callable[[], PassageSource],
    out: Path,
    making: Making,
    *,
    corpus: str | None,
    held_out: Path | None,
    per_shard: int,
    workers: int,
    resume: bool,
) -> None:
    """Write what is held out, if anything is, then all other examples, and say what came of it."""
    _check_folders(open_source, out, held_out, resume=resume)
    making = replace(making, finder=making.finder.at_hand())
    parts = [(out, making)] if held_out is None else [(held_out, replace(making, is_held_out=True)), (out, making)]
    with Progress() as progress:
        for folder, part in parts:
            source = open_source()
            run = partial(
                prepare_pretrain, source, folder, part, per_shard=per_shard, workers=workers, resume=resume
            )  # fmt: skip
            title = "prepare pretrain, held out" if part.is_held_out else "prepare pretrain"
            tell_job(run, progress, title=title, reading=source, record="example", out=folder)
    data = {
        "corpus": corpus or "CORPUS", "pretrain": out, "held_out": held_out, "tokenizer": making.tokenizer,
        "passage_tokens": source.passage_tokens,
    }  # fmt: skip
    given = shlex.join(f"data.{name}={value}" for name, value in data.items() if value is not None)
    before = "" if corpus else "make CORPUS, the passages to retrieve, with prepare corpus; then "
    print(f"next: {before}train a small model (--config realm-base: the paper's, for GPUs):")
    print(f"    realm-ds ict --config demo --run runs/ict {given}")


def _check_folders(open_source: Callable[[], PassageSource], out: Path, held_out: Path | None, *, resume: bool) -> None:
    """Before hours of work, not behind those of the first of them."""
    if held_out is not None:
        one, other = out.resolve(), held_out.resolve()
        if one == other:
            raise ConfigError(f"--held-out {held_out} is --out as well: name two folders")
        if one in other.parents or other in one.parents:
            raise ConfigError(
                f"of --held-out {held_out} and --out {out} one is in the other: name two beside each other"
            )
        if not resume and (held_out / MANIFEST).exists() and not (out / MANIFEST).exists():
            raise ConfigError(
                f"{held_out} is finished and {out} is not: go on with --resume, or name other folders for both"
            )
    identity = open_source().identity
    for folder in (out,) if held_out is None else (held_out, out):
        check_is_free(folder, identity=identity, resume=resume)


def tell_estimate(
    open_source: Callable[[], PassageSource],
    out: Path,
    making: Making,
    *,
    held_out: Path | None,
    workers: int,
    resume: bool,
) -> None:
    """Say what it would take, and write nothing."""
    _check_folders(open_source, out, held_out, resume=resume)
    source, making = open_source(), replace(making, finder=making.finder.at_hand())
    estimate = estimate_pretrain(source, making)
    counts = {"example": estimate.num_records, "passage": estimate.tally.counts[READ]}
    for line in estimate_lines(estimate, source.name, counts=counts, workers=workers):
        print(line)
