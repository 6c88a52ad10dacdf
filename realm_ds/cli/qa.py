"""The verbs of question answering: fine-tune on questions, and score the answers."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import Overrides, Source, group, verb
from realm_ds.cli.stage import DryRun, Resume, RunFolder, start_stage

qa = group("Fine-tune on questions, and score the answers.")
Split = Annotated[Literal["dev", "test"], typer.Option(help="Whose questions.")]


@qa.command("train")
@verb
def qa_train(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/qa"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Fine-tune query tower and span reader on questions, then answer dev and test (section `qa`)."""
    start_stage("qa", overrides, config, run, resume, dry_run)


@qa.command("eval")
@verb
def qa_eval(
    run: RunFolder = Path("runs/qa"), split: Split = "test",
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
) -> None:  # fmt: skip
    """What `qa train` scored on dev or test: exact match, F1, recall, the baselines beside them, and every field."""
    from realm_ds.launch.scores import describe, read_scores

    scores = read_scores(run.absolute(), split=split)
    print(json.dumps(scores) if as_json else describe(scores))
