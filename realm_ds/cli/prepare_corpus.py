"""`realm-ds prepare corpus`: documents to passages."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import verb
from realm_ds.cli.prepare_options import (
    DropTitle,
    DryRun,
    Format,
    IdField,
    KeepAllPages,
    OnDamage,
    Resume,
    TextField,
    TitleField,
    Workers,
    make_cutting,
)  # fmt: skip


@verb
def prepare_corpus(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs; - for stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the shards: a folder that is not there.")],
    tokenizer: Annotated[Path, typer.Option(help="The folder of a WordPiece tokenizer.")],
    passage_tokens: Annotated[
        int,
        typer.Option(
            help="Wordpieces at most, title, [CLS] and [SEP] counted; runs need data.passage_tokens at least that."
        ),
    ] = 288,
    per_shard: Annotated[int, typer.Option(min=1, help="Passages in a tar shard.")] = 10_000,
    format: Annotated[
        Format,
        typer.Option(metavar="FORMAT", help="wikipedia, jsonl, csv, tsv, parquet, text, hf; auto: by the file's name."),
    ] = "auto",
    id_field: IdField = "id", title_field: TitleField = "title", text_field: TextField = "text",
    drop_title: DropTitle = None, keep_all_pages: KeepAllPages = False, on_damage: OnDamage = "stop",
    workers: Workers = None, resume: Resume = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Cut documents into the passages that REALM retrieves.

    Passages are of whole sentences, and are written as tar shards.

    \b
        realm-ds prepare corpus enwiki-pages-articles.xml.bz2 --tokenizer data/tokenizer --out data/corpus --dry-run
        realm-ds prepare corpus articles/*.jsonl.gz --tokenizer data/tokenizer --out data/corpus
        zcat news.gz | realm-ds prepare corpus - --format jsonl --tokenizer data/tokenizer --out data/corpus

    Reads dumps of Wikipedia (.xml), JSON lines, CSV, TSV, Parquet, text files and datasets on disk of Hugging Face's
    library, compressed or not (.gz, .bz2, .zst, .xz). The same input gives the same bytes, whatever the number of
    workers, and also after a kill and --resume. A passage never crosses documents; a title and text that came before
    are left out. What was left out is counted, told at the end and kept in OUT/manifest.json.
    """
    from realm_ds.prepare.corpus_verb import tell_estimate, write_corpus
    from realm_ds.prepare.rows import Fields
    from realm_ds.prepare.sources import open_source
    from realm_ds.prepare.workers import available_cores

    fields = Fields(id=id_field, title=title_field, text=text_field)
    source = open_source(inputs, format=format, fields=fields, on_damage=on_damage)
    cutting = make_cutting(
        tokenizer=tokenizer, passage_tokens=passage_tokens, drop_title=drop_title, keep_all_pages=keep_all_pages
    )
    workers = workers or available_cores()
    if dry_run:
        tell_estimate(source, out, cutting, workers=workers, resume=resume)
    else:
        write_corpus(source, out, cutting, per_shard=per_shard, workers=workers, resume=resume)
