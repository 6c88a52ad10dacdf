"""`realm-ds prepare inspect`: a look at tar shards."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import FAILED, refuse_without_effect, verb
from realm_ds.cli.prepare_options import Workers


@verb
def prepare_inspect(
    context: typer.Context,
    pointed_at: Annotated[
        str, typer.Argument(metavar="DIR|URL|SHARD.tar", help="A folder of tar shards, here or elsewhere, or one here.")
    ],
    samples: Annotated[int, typer.Option(min=0, help="Records to show.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="To show spans in the text. Left out: one that lies beside the folder.")
    ] = None,
    every_record: Annotated[bool, typer.Option("--all", help="Measure all records, not some 20,000.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the lengths into this file (.png, .pdf, .svg).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Checksums, every record; exit code 1 for a fault.")] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Count records of the same text or words.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
    workers: Workers = None,
) -> None:  # fmt: skip
    """Show what is in tar shards.

    Counts, settings, lengths, and samples with their salient spans marked.

    \b
        realm-ds prepare inspect data/corpus
        realm-ds prepare inspect data/pretrain --samples 20 --seed 3
        realm-ds prepare inspect data/corpus --check --duplicates
        realm-ds prepare inspect data/corpus/shard-00007.tar
        realm-ds prepare inspect s3://bucket/corpus --tokenizer data/tokenizer
    """
    from realm_ds.prepare.inspect import InspectOptions
    from realm_ds.prepare.inspect_verb import inspect_verb
    from realm_ds.prepare.workers import available_cores

    asked = InspectOptions(samples=samples, seed=seed, every_record=every_record, check=check, duplicates=duplicates)
    if not asked.reads_all:
        refuse_without_effect(
            context, "workers",
            because="without --all, --check or --duplicates little is read, by this process; leave it out, or give one",
        )  # fmt: skip
    is_whole = inspect_verb(
        pointed_at, asked, tokenizer=tokenizer, plot=plot, print_json=as_json, workers=workers or available_cores()
    )  # fmt: skip
    if not is_whole:
        raise SystemExit(FAILED)
