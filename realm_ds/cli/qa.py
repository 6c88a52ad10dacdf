"""The verbs of question answering: fine-tune on questions, score the answers, ask."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import FAILED, Overrides, Source, group, refuse_without_effect, verb
from realm_ds.cli.stage import DryRun, Resume, RunFolder, start_stage
from realm_ds.errors import ConfigError

qa = group("Fine-tune on questions, and score the answers.")
Split = Annotated[Literal["dev", "test"], typer.Option(help="Whose questions.")]
QUESTIONS_HELP = 'A file of {"question", "answers"} lines, as `realm-ds prepare qa` writes it.'
Questions = Annotated[Path | None, typer.Option(help=QUESTIONS_HELP)]
WithBm25 = Annotated[bool, typer.Option("--bm25", help="Also with passages found by BM25, and how far apart they are.")]
ROWS_HELP = "Write what was found here, a JSON line a question; with --bm25 one of each finder's."
RowsFile = Annotated[Path | None, typer.Option("--rows", help=ROWS_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")]


@qa.command("train")
@verb
def qa_train(
    overrides: Overrides = None, config: Source = None, run: RunFolder = Path("runs/qa"), resume: Resume = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Fine-tune on questions, then answer dev and test (section `qa`; with index ranks also `index` and `refresh`)."""
    start_stage("qa", overrides, config, run, resume, dry_run)


@qa.command("eval")
@verb
def qa_eval(
    context: typer.Context,
    run: RunFolder = Path("runs/qa"), split: Split = "test",
    against: Annotated[
        Path | None, typer.Option(help="Another run folder: how far apart the two are on the same questions.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Answer --questions with this fine-tuned export, or a run's.")
    ] = None,
    questions: Questions = None, bm25: WithBm25 = False, rows: RowsFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """What `qa train` scored on dev or test; or how a fine-tuned model answers any question file.

    Exact match, F1, recall, the baselines beside them and every field, each with its 95% interval. RUN/qa/SPLIT.jsonl
    has a line for each question.

    \b
        realm-ds qa eval --run runs/qa --split dev
        realm-ds qa eval --run runs/qa --against runs/other
        realm-ds qa eval --model runs/qa --questions WebQuestions/test.jsonl --bm25
    """
    if (model is None) != (questions is None):
        raise ConfigError("--model and --questions go together: an export, and the questions that it is to answer")
    if model is not None:
        refuse_without_effect(
            context, "run", "split", "against",
            because="they are of what runs answered in training; leave --model and --questions out to see that",
        )  # fmt: skip
    else:
        refuse_without_effect(
            context, "bm25", "rows", because="they are of questions that are answered now; give --model and --questions"
        )
    from realm_ds.reports.scores import compare_runs, describe, describe_comparison, describe_judged, read_scores

    if model is not None and questions is not None:
        from realm_ds.launch.judging import judge_answers

        judged = judge_answers(model, questions, with_bm25=bm25, rows_file=rows)
        print(json.dumps(judged) if as_json else describe_judged(judged))
    elif against is not None:
        compared = compare_runs(run.absolute(), against.absolute(), split=split)
        print(json.dumps(compared) if as_json else describe_comparison(compared))
    else:
        scores = read_scores(run.absolute(), split=split)
        print(json.dumps(scores) if as_json else describe(scores))


@qa.command("retrieval")
@verb
def qa_retrieval(
    model: Annotated[Path, typer.Option("--model", "-m", help="An export, or the folder of a run that has one.")],
    questions: Annotated[Path, typer.Option(help=QUESTIONS_HELP)],
    bm25: WithBm25 = False, rows: RowsFile = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """How often any export finds a passage with the answer, also before fine-tuning: recall at 1 to 100.

    Right is a passage of the question's gold_uids or, where it has none, one that holds an answer.
    """
    from realm_ds.launch.judging import judge_retrieval
    from realm_ds.reports.scores import describe_judged

    judged = judge_retrieval(model, questions, with_bm25=bm25, rows_file=rows)
    print(json.dumps(judged) if as_json else describe_judged(judged))


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
