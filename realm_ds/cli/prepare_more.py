"""`realm-ds prepare qa`, `tokenizer` and `inspect`. What they do is in prepare/; here are their options and words."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from realm_ds.cli.common import FAILED, group, verb
from realm_ds.errors import ConfigError

if TYPE_CHECKING:
    from realm_ds.prepare.qa import QuestionSet

more = group("Question files, vocabularies, and a look at tar shards.")

QaFormat = Literal["auto", "nq_open", "webquestions", "curatedtrec", "triviaqa", "squad", "jsonl", "csv"]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. Left out: as many as there are cores.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read the input, say what would be written, write nothing.")]


@more.command("qa")
@verb
def prepare_qa(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Files, also .gz, .bz2, .xz or .zst.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write {train,dev,test}.jsonl, prepared.json.")],
    form: Annotated[QaFormat, typer.Option("--format", help="auto: by the name and the first record.")] = "auto",
    split: Annotated[Literal["train", "dev", "test"] | None, typer.Option(help="Which split these are.")] = None,
    split_rule: Annotated[
        Literal["farmhash"] | None,
        typer.Option(help="Split into train and dev as ORQA and REALM did: by a hash of the question, a tenth dev."),
    ] = None,
    question_field: Annotated[str, typer.Option(help="Of jsonl and csv: what holds the question.")] = "question",
    answers_field: Annotated[str, typer.Option(help="And what holds its answers.")] = "answers",
    corpus: Annotated[
        Path | None, typer.Option(help="Corpus shards: count the questions that have an answer in some passage.")
    ] = None,
    link: Annotated[
        int, typer.Option(min=0, help="With --corpus: take so many of these passages as gold ones. Weak labels!")
    ] = 0,
    workers: Workers = None, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Question sets as question files: {"question", "answers", ...}, one a line, checked and counted.

    \b
        realm-ds prepare qa NQ-open.train.jsonl --out data/qa --split-rule farmhash
        realm-ds prepare qa NQ-open.dev.jsonl --out data/qa --split test --corpus data/corpus
        realm-ds prepare qa CuratedTrec-test.txt --out data/trec --split test --format curatedtrec
        realm-ds prepare qa mine.csv --out data/mine --split dev --question-field q --answers-field a

    Answers of CuratedTREC are regular expressions: they score predictions, but cannot train a reader. A passage that
    holds an answer need not answer the question; with --link evaluation takes the first such passages for the gold ones.
    """
    from realm_ds.prepare.qa import Columns, check_is_free, cover, note_coverage, read_question_set, write_question_set

    if (split is None) == (split_rule is None):
        raise ConfigError("say which split the questions are (--split test), or how to split them (--split-rule farmhash)")
    if link and corpus is None:
        raise ConfigError(f"--link {link} needs passages to link to: name them with --corpus")
    columns = Columns(question=question_field, answers=answers_field)
    found = read_question_set(inputs, form=None if form == "auto" else form, split=split, columns=columns)
    _tell_questions(found)
    check_is_free(found, out)
    if dry_run:
        print(f"nothing was written to {out}" + (f", and {corpus} not searched" if corpus else ""))
        return
    if corpus is None:
        write_question_set(found, out)
    else:
        found, covered = _with_progress_over(
            corpus, lambda tick: cover(found, corpus, link=link, workers=_processes(workers), on_progress=tick)
        )
        write_question_set(found, out)
        note_coverage(out, covered)
        for name, coverage in covered.items():
            print(
                f"{name}: {coverage['questions_with_answer']:,} of {len(found.splits[name]):,} questions "
                f"({coverage['share']:.1%}) have an answer in some of {coverage['passages']:,} passages"
            )
    print(f"{out}/prepared.json says what is there")


@more.command("tokenizer")
@verb
def prepare_tokenizer(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write: a transformers tokenizer.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT...", help="Files, folders, patterns; - is stdin.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Take this transformers tokenizer (WordPiece) instead of training.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Of INPUT; auto: by its name.")] = "auto",
    vocab_size: Annotated[int, typer.Option(help="Wordpieces; 30522 as BERT has.")] = 30_522,
    cased: Annotated[bool, typer.Option("--cased", help="Keep capitals and accents.")] = False,
    alphabet: Annotated[
        int, typer.Option(min=1, help="Characters that are kept; rarer ones become [UNK]. CJK text needs thousands.")
    ] = 1000,
    sample_bytes: Annotated[
        int, typer.Option(min=1 << 20, help="Train on a sample of so much text, in memory, if there is more.")
    ] = 256 << 20,
    text_field: Annotated[str, typer.Option(help="Of JSON lines, tables: what holds the text.")] = "text",
    title_field: Annotated[str, typer.Option(help="And what the title.")] = "title",
    workers: Workers = None, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Train a WordPiece vocabulary, or take one; prints the fingerprint that data made with it is checked by.

    \b
        realm-ds prepare tokenizer enwiki-pages-articles.xml.bz2 --out data/tokenizer
        realm-ds prepare tokenizer corpus/*.jsonl.gz --out data/tokenizer --vocab-size 8000 --cased
        realm-ds prepare tokenizer --from ~/models/bert-base-uncased --out data/tokenizer

    Take the tokenizer of the encoder that training starts from, where it starts from one (model.encoder).
    """
    from realm_ds.prepare.vocabulary import check_is_free, take_tokenizer

    if (source is None) == (not inputs):
        raise ConfigError("give texts to train on (INPUT...), or a tokenizer to take (--from FOLDER)")
    check_is_free(out)
    if source is not None:
        if dry_run:
            from realm_ds.data.tokenizer import load_tokenizer

            tokenizer = load_tokenizer(source)
        else:
            tokenizer = take_tokenizer(source, out)
    else:
        tokenizer = _train(
            inputs or [], out, form=form, fields={"text": text_field, "title": title_field}, vocab_size=vocab_size,
            cased=cased, alphabet=alphabet, sample_bytes=sample_bytes, workers=_processes(workers), dry_run=dry_run,
        )  # fmt: skip
        if tokenizer is None:
            return
    where = f"nothing was written to {out}" if dry_run else str(out)
    print(f"{where}: {tokenizer.vocab_size:,} wordpieces, fingerprint {tokenizer.fingerprint}")


@more.command("inspect")
@verb
def prepare_inspect(
    path: Annotated[Path, typer.Argument(metavar="DIR|SHARD.tar", help="A folder of tar shards, or one of them.")],
    samples: Annotated[int, typer.Option(min=0, help="Records to show.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="To show spans in the text. Left out: one that lies beside the folder.")
    ] = None,
    every_record: Annotated[bool, typer.Option("--all", help="Measure all records, not some 20,000.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the lengths into this file (.png, .pdf, .svg).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Checksums, every record; exit code 1 for a fault.")] = False,
    duplicates: Annotated[bool, typer.Option("--duplicates", help="Count records of the same text or words.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one JSON object.")] = False,
    workers: Workers = None,
) -> None:  # fmt: skip
    """What is in tar shards: counts, settings, lengths, and samples with their salient spans marked.

    \b
        realm-ds prepare inspect data/corpus
        realm-ds prepare inspect data/pretrain --samples 20 --seed 3
        realm-ds prepare inspect data/corpus --check --duplicates
        realm-ds prepare inspect data/corpus/shard-00007.tar
    """
    from realm_ds.observe.inspection import show_shards
    from realm_ds.observe.progress import Progress
    from realm_ds.prepare.inspect import Question, as_json as to_json, find_target, find_tokenizer, inspect

    target = find_target(path)
    asked = Question(samples=samples, seed=seed, every_record=every_record, check=check, duplicates=duplicates)
    reads_all = check or duplicates or every_record
    with Progress() as progress:
        bar = progress.stage("reading")
        view = inspect(
            target, asked, tokenizer=find_tokenizer(target, tokenizer),
            workers=_processes(workers) if reads_all and len(target.parts) > 1 else 0,
            on_progress=lambda done, total: bar.update(done, total=total, now="tar shards"),
        )  # fmt: skip
        bar.finish(f"{bar.done:,} tar shards")
    if plot is not None and view.distributions:
        from realm_ds.prepare.plots import draw_lengths

        draw_lengths(plot, view.distributions)
    print(json.dumps(to_json(view))) if as_json else show_shards(view)
    if view.faults:
        raise SystemExit(FAILED)


def _processes(asked: int | None) -> int:
    from realm_ds.prepare.workers import available_cores

    return asked if asked is not None else available_cores()


def _tell_questions(found: "QuestionSet") -> None:
    for name, questions in found.splits.items():
        num_regex = sum(question.is_regex for question in questions)
        print(f"{name}: {len(questions):,} questions" + (f", {num_regex:,} with regex answers" if num_regex else ""))
    for line in found.tally.lines():
        print(f"  {line}")


def _with_progress_over(corpus: Path, work: Any) -> Any:
    """What `work` returns; it is given what to tell the number of passages read so far."""
    from realm_ds.data.shards import open_manifest
    from realm_ds.observe.progress import Progress

    with Progress() as progress:
        bar = progress.stage("looking for answers", total=open_manifest(corpus, kind="corpus", fingerprint=None).count)
        result = work(lambda num_passages: bar.update(num_passages, now="passages"))
        bar.finish(f"{bar.done:,} passages")
    return result
