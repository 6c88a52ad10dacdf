"""The verbs of question answering: fine-tune on questions, score the answers, ask."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import FAILED, Overrides, Source, group, verb
from realm_ds.cli.stage import DryRun, Resume, RunFolder, start_stage
from realm_ds.errors import ConfigError

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


@verb
def ask(
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="[QUESTION]...", help="- reads them from stdin, one a line.")
    ] = None,
    model: Annotated[
        Path, typer.Option("--model", "-m", help="An export, or the folder of a run that has one.")
    ] = Path("runs/qa"),
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", help='Answer a file of {"question": TEXT} lines, - for stdin, as JSON.')
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, max=100, help="Answers to each question.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line for each question.")] = False,
) -> None:  # fmt: skip
    """Ask a trained model: the answer, the passage that it stands in with the span marked, p(z|x), and the runners-up.

    \b
        realm-ds ask "What is the capital of Algeria?" --model runs/qa
        realm-ds ask "The capital of Algeria is [MASK]." --model runs/pretrain/export
        realm-ds ask --jsonl questions.jsonl --model runs/qa > answers.jsonl

    A fine-tuned model answers questions; a pre-trained one fills in one [MASK]. A bad question is told and skipped;
    exit code 1 if none had an answer.
    """
    from realm_ds.launch.ask import ask as ask_all

    if questions and jsonl is not None:
        raise ConfigError("give questions or --jsonl, not both")
    if not ask_all(model, questions=questions or [], file=jsonl, top=top, as_json=as_json):
        raise SystemExit(FAILED)
