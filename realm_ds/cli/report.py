"""`realm-ds report`: what happened in a run, or in two beside each other, as a page and as Markdown."""

import json
from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import refuse_without_effect, verb


@verb
def report(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="A run folder, or a demo's.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN2]", help="Another run of the same stage, to compare.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Left out: the run's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as one JSON object instead.")] = False,
) -> None:
    """Settings, curves, step times, index ages, waits and what probe queries found: report.html and report.md.

    Also of a run that still goes on. The page is one file that fetches nothing. Of two runs the settings that differ
    come first, curves lie over each other, and scores have differences with 95% intervals.
    """
    from realm_ds.reports.write import numbers_of, report_on

    if as_json:
        refuse_without_effect(context, "out", because="--json prints and writes nothing")
        print(json.dumps(numbers_of(run.absolute(), other.absolute() if other is not None else None)))
        return
    html, markdown = report_on(
        run.absolute(), other.absolute() if other is not None else None, out=out.absolute() if out is not None else None
    )
    print(f"{html}\n{markdown}")
