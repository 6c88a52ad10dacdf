"""`realm-ds prepare qa`: question sets to question files."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import refuse_without_effect, verb
from realm_ds.cli.prepare_options import DryRun, Resume, Workers
from realm_ds.errors import ConfigError

QuestionFormat = Literal["auto", "nq_open", "webquestions", "curatedtrec", "triviaqa", "squad", "jsonl", "csv"]


@verb
def prepare_qa(
    context: typer.Context,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Files, also .gz, .bz2, .xz or .zst.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write {train,dev,test}.jsonl, prepared.json.")],
    format: Annotated[QuestionFormat, typer.Option(help="auto: by the name and the first record.")] = "auto",
    split: Annotated[Literal["train", "dev", "test"] | None, typer.Option(help="Which split these are.")] = None,
    split_rule: Annotated[
        Literal["farmhash"] | None,
        typer.Option(help="Split into train and dev as ORQA and REALM did: by a hash of the question, a tenth dev."),
    ] = None,
    question_field: Annotated[str, typer.Option(help="Of jsonl and csv: what holds the question.")] = "question",
    answers_field: Annotated[
        str, typer.Option(help="And its answers: a text or a list of texts; in a cell of csv one text or a JSON list.")
    ] = "answers",
    corpus: Annotated[
        str | None, typer.Option(help="Corpus shards (folder or URL): count questions that some passage answers.")
    ] = None,
    link: Annotated[
        int, typer.Option(min=0, help="With --corpus: take so many of these passages as gold ones. Weak labels!")
    ] = 0,
    workers: Workers = None, resume: Resume = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Make question files of question sets.

    They are checked and counted, and become {"question", "answers", ...}, one a line.

    \b
        realm-ds prepare qa NQ-open.train.jsonl --out data/qa --split-rule farmhash
        realm-ds prepare qa NQ-open.dev.jsonl --out data/qa --split test --corpus data/corpus
        realm-ds prepare qa CuratedTrec-test.txt --out data/trec --split test --format curatedtrec
        realm-ds prepare qa mine.csv --out data/mine --split dev --question-field q --answers-field a

    Answers of CuratedTREC are regular expressions: they score predictions, but cannot train a reader. A passage that
    holds an answer need not answer the question: with --link evaluation takes the first such passages for gold ones.
    """
    from realm_ds.data.places import Place
    from realm_ds.prepare.qa import read_question_set
    from realm_ds.prepare.qa_formats import Columns
    from realm_ds.prepare.qa_verb import tell_estimate, write_questions_of
    from realm_ds.prepare.workers import available_cores

    if split is not None and split_rule is not None:
        raise ConfigError(f"--split {split} and --split-rule {split_rule} say two things: leave one out")
    if split is None and split_rule is None:
        raise ConfigError("say which split these are (--split test), or by which rule to split (--split-rule farmhash)")
    if corpus is None:
        refuse_without_effect(
            context, "link", "workers", because="there are no passages to search or link to; name some with --corpus"
        )
    else:
        Place(corpus)  # raises ConfigError for one that cannot be, before anything is read
    columns = Columns(question=question_field, answers=answers_field)
    found = read_question_set(inputs, form=None if format == "auto" else format, split=split, columns=columns)
    workers = workers or available_cores()
    run = tell_estimate if dry_run else write_questions_of
    run(found, out, corpus=corpus, link=link, workers=workers, resume=resume)
