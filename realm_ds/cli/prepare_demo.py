"""`realm-ds prepare demo`: the CIA World Factbook as all that a run needs."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import verb


@verb
def prepare_demo_data(
    folder: Annotated[Path, typer.Argument(help="Where to write tokenizer/, corpus/, pretrain/, held_out/, qa/.")],
    seed: Annotated[int, typer.Option(help="Of the split into train, dev and test.")] = 0,
) -> None:
    """Make tar shards, vocabulary and questions of the CIA World Factbook."""
    from realm_ds.factbook.prepare import check_is_free, prepare_demo

    check_is_free(folder.absolute())
    prepare_demo(folder.absolute(), seed=seed, on_progress=lambda doing: print(f"{doing} ...", flush=True))
    print(f"{folder}/prepared.json says what is there")
