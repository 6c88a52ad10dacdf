"""`realm-ds ablate`: the paper's Table 2 and more, at a size of one's own. The study is ablate/study.py's business."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import FAILED, Overrides, verb
from realm_ds.errors import ConfigError


@verb
def ablate(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The study's folder.")] = Path("runs/ablate"),
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Runs of every row, with seeds 0, 1, ... Left out: as the folder has it, else 3."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="ROWS", help="Some rows alone: realm,stale. Left out: those of the folder, else all."),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            metavar="ROW:SEED", help="One cell alone; job arrays give its number among those of --only and --seeds."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Parts at a time; each is a trainer and an index rank of a thread each.")
    ] = 2,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Documents, as `prepare corpus` takes them, in place of the Factbook; with --questions."),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="A folder with their train.jsonl, dev.jsonl and test.jsonl.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="Settings of every part; they may name prepared data. Left out: the folder's own, else recipe ablate.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells and command lines, and which are done; start nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study that is in the folder.")] = False,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Write and print the table of what is done; start nothing.")
    ] = False,
) -> None:  # fmt: skip
    """What each part of REALM is worth: the paper's Table 2 and rows of our own, over several seeds.

    \b
        realm-ds ablate                                     all of it on the Factbook, about 80 minutes on two cores
        realm-ds ablate --only realm,baseline,stale --seeds 5
        realm-ds ablate --out runs/wiki --corpus wiki.jsonl.gz --questions data/webquestions
        realm-ds ablate --out runs/ablate --resume          after a kill; with --seeds or --only, also these
        realm-ds ablate --out runs/ablate --cell stale:1    one cell, and what it starts from
        realm-ds ablate --out runs/ablate --table-only      how it stands

    A cell is a row with a seed: pre-trained as the row has it, fine-tuned on questions, judged on the dev split. Two
    columns, each with a 95% interval over seeds and its difference to REALM, paired by seed: exact match, and recall@5
    before fine-tuning. What cells share (data, warm starts) is made once; every part is a run folder as any other, made
    by the verbs that --dry-run prints. What is done is not done again, and what was stopped goes on from its
    checkpoint. A part that fails is told and the others go on; exit code 1. Ends with OUT/ablate.md, .json and .svg.
    """
    from realm_ds.ablate.study import Study, asked_for, describe_plan, run_study, settings_of, widened, write_table
    from realm_ds.ablate.variants import choose_cell

    folder = out.resolve()
    _check_folder(folder, resume=resume, table_only=table_only, may_go_on=dry_run or cell is not None)
    base, data = settings_of(
        folder, source=config, overrides=overrides or [], corpus=corpus and corpus.absolute(),
        questions=questions and questions.absolute(),
    )  # fmt: skip
    asked = asked_for(folder, only=only, seeds=seeds)
    chosen = cell and choose_cell(cell, asked.cells)
    study = Study(out=folder, base=base, data=data, grid=widened(folder, asked), cell=chosen or None)
    if dry_run:
        print(describe_plan(study, asked))
    elif table_only:
        print(write_table(folder), end="")
    else:
        failures = run_study(study, jobs=jobs)
        print(write_table(folder), end="")
        if failures:
            raise SystemExit(FAILED)


def _check_folder(out: Path, *, resume: bool, table_only: bool, may_go_on: bool) -> None:
    """A study is gone on with where that is meant, and begun where it is not."""
    has_study = (out / "making.json").is_file()
    if not has_study and (out.is_file() or (out / "config.yaml").is_file()):
        raise ConfigError(f"{out} is {'a file' if out.is_file() else 'a run'} and no study: name another --out")
    if table_only and not has_study:
        raise ConfigError(f"{out} holds no study: name its folder with --out")
    if has_study and not (resume or table_only or may_go_on):
        raise ConfigError(f"{out} holds a study already: add --resume to go on with it, or name another --out")
    if resume and not has_study:
        raise ConfigError(f"{out} holds no study to resume: start it without --resume")
