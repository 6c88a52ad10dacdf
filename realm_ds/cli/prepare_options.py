"""What several verbs of `realm-ds prepare` have: options, and that none of these is ignored without a word."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from realm_ds.prepare.corpus import Cutting

Format = Literal["auto", "wikipedia", "jsonl", "csv", "tsv", "parquet", "text", "hf"]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; left out: as many as there are CPU cores.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after a kill; finished shards stay as they are.")]
IdField = Annotated[str, typer.Option(help="Of tables, JSON lines: the column that names a document.")]
TitleField = Annotated[str, typer.Option(help="The column of its title.")]
TextField = Annotated[str, typer.Option(help="The column of its text.")]
DropTitle = Annotated[
    list[str] | None, typer.Option(help="Leave out documents by a regular expression of titles; may be repeated.")
]
KeepAllPages = Annotated[
    bool, typer.Option("--keep-all-pages", help="Of Wikipedia keep also lists, indexes, outlines, disambiguations.")
]
OnDamage = Annotated[
    Literal["stop", "skip"], typer.Option(help="A damaged file, behind what is whole of it: stop, or go on.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and write nothing.")]


def make_cutting(
    *, tokenizer: Path, passage_tokens: int, drop_title: list[str] | None, keep_all_pages: bool
) -> "Cutting":
    """How documents are cut, by the options of that; what people should know of it is said."""
    from realm_ds.prepare.corpus import Cutting

    cutting = Cutting(
        tokenizer=tokenizer, passage_tokens=passage_tokens, drop_titles=tuple(drop_title or ()),
        keep_all_pages=keep_all_pages,
    )  # fmt: skip
    if cutting.remark:
        print(f"note: {cutting.remark}", file=sys.stderr, flush=True)
    return cutting
