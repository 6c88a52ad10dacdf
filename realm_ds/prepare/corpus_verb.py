"""`realm-ds prepare corpus` as people see it. The work is corpus.py's, what all jobs say job_report.py's."""

import shlex
from functools import partial
from pathlib import Path

from realm_ds.observe.progress import Progress
from realm_ds.prepare.corpus import Cutting, estimate_corpus, prepare_corpus
from realm_ds.prepare.job import check_is_free
from realm_ds.prepare.job_report import estimate_lines, tell_job
from realm_ds.prepare.sources import Source


def write_corpus(
    source: Source, out: Path, cutting: Cutting, *, per_shard: int, workers: int, resume: bool
) -> None:  # fmt: skip
    """Write the shards, and say what came of it."""
    run = partial(prepare_corpus, source, out, cutting, per_shard=per_shard, workers=workers, resume=resume)
    with Progress() as progress:
        tell_job(run, progress, title="prepare corpus", reading=source, record="passage", out=out)
    options = {"--corpus": out, "--tokenizer": cutting.tokenizer, "--out": out.parent / "pretrain"}
    given = shlex.join(str(part) for option in options.items() for part in option)
    print(f"next: realm-ds prepare pretrain {given}")


def tell_estimate(source: Source, out: Path, cutting: Cutting, *, workers: int, resume: bool) -> None:
    """Say what it would take, and write nothing."""
    check_is_free(out, identity=source.identity(), resume=resume)
    estimate = estimate_corpus(source, cutting)
    counts = {"passage": estimate.num_records}
    for line in estimate_lines(estimate, source.name, counts=counts, workers=workers):
        print(line)
