"""`realm-ds index`: the index alone, on disk, without a training run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import FAILED, Overrides, Source, group, verb

index = group("The index alone: build, ask, check it.")

Store = Annotated[Path, typer.Argument(help="A folder of `realm-ds index build`; or a run folder, for the run's own.")]
Version = Annotated[
    int | None, typer.Option(help="Which index version; left out: the newest whole one, for verify all.")
]


@index.command("build")
@verb
def index_build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the index.")],
    overrides: Overrides = None, config: Source = None,
    run: Annotated[Path | None, typer.Option("--run", "-r", help="A run: its settings, its newest snapshot.")] = None,
    tower: Annotated[Path | None, typer.Option(help="An export, or a snapshot; left out: model.start_from.")] = None,
    processes: Annotated[int, typer.Option("--processes", "-n", min=1, help="Ranks to embed with, here.")] = 1,
    part_passages: Annotated[int, typer.Option(min=1, help="Passages in a file; a kill loses at most one.")] = 65_536,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")] = False,
) -> None:  # fmt: skip
    """Embed a corpus with the passage tower of an export, and write the vectors as an index to search.

    \b
        realm-ds index build --config my.yaml --tower runs/pretrain/export --out indexes/mine --processes 4
        realm-ds index build --run runs/pretrain --out indexes/mine index.vectors=fp16
        mpiexec -n 4 python -m mpi4py -m realm_ds index build --config my.yaml --out indexes/mine

    Run it again after a kill: what is whole is kept.
    """
    from realm_ds.launch.index_build import build_verb

    build_verb(
        source=config, run=run and run.absolute(), out=out.absolute(), tower=tower and tower.absolute(),
        overrides=overrides or [], processes=processes, part_passages=part_passages, dry_run=dry_run,
    )  # fmt: skip


@index.command("search")
@verb
def index_search(
    store: Store,
    queries: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="- reads texts, one a line.")] = None,
    hits: Annotated[int, typer.Option("--hits", "-k", min=1, max=65_536, help="Passages for each text.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line for each text.")] = False,
    file: Annotated[Path | None, typer.Option(help="Read texts from this file, one a line.")] = None,
    processes: Annotated[int, typer.Option("--processes", "-n", min=0, help="Index ranks; 0: in this process.")] = 0,
    factory: Annotated[str | None, typer.Option(help="FAISS factory; left out: the index's own.")] = None,
    version: Version = None, scratch: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:  # fmt: skip
    """Find the passages that answer a text, by the query tower that belongs to the index.

    \b
        realm-ds index search indexes/mine "What is the capital of Algeria?" -k 3
        realm-ds index search runs/pretrain --file questions.txt --json --processes 4
        mpiexec -n 5 python -m mpi4py -m realm_ds index search indexes/mine "capital of Algeria"
    """
    from realm_ds.launch.index_search import search_verb

    search_verb(
        store, queries=queries or [], file=file, num_hits=hits, version=version, factory=factory, processes=processes,
        scratch=scratch, as_json=as_json,
    )  # fmt: skip


@index.command("info")
@verb
def index_info(
    store: Store, as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False
) -> None:
    """What an index is of, and which passages each version covers, vectors unread: realm-ds index info runs/pretrain"""
    from realm_ds.launch.index_check import describe_index, info_text

    info = describe_index(store)
    print(json.dumps(info) if as_json else info_text(info))


@index.command("verify")
@verb
def index_verify(store: Store, version: Version = None) -> None:
    """Read every vector, name what is damaged or missing; exit code 1 if anything is: realm-ds index verify runs/a"""
    from realm_ds.launch.index_check import verify_index

    if verify_index(store, version=version):
        raise SystemExit(FAILED)
