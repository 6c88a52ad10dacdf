"""`realm-ds prepare qa`, `tokenizer` and `inspect`. What they do is in prepare/; here are their options and words."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import FAILED, group, verb
from realm_ds.cli.prepare import DryRun, Format, OnDamage, Resume, TextField, TitleField, Workers
from realm_ds.errors import ConfigError

more = group("Question files, vocabularies, and a look at tar shards.")

QuestionFormat = Literal["auto", "nq_open", "webquestions", "curatedtrec", "triviaqa", "squad", "jsonl", "csv"]


@more.command("qa")
@verb
def prepare_qa(
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
    """Question sets as question files: {"question", "answers", ...}, one a line, checked and counted.

    \b
        realm-ds prepare qa NQ-open.train.jsonl --out data/qa --split-rule farmhash
        realm-ds prepare qa NQ-open.dev.jsonl --out data/qa --split test --corpus data/corpus
        realm-ds prepare qa CuratedTrec-test.txt --out data/trec --split test --format curatedtrec
        realm-ds prepare qa mine.csv --out data/mine --split dev --question-field q --answers-field a

    Answers of CuratedTREC are regular expressions: they score predictions, but cannot train a reader. A passage that
    holds an answer need not answer the question: with --link evaluation takes the first such passages for gold ones.
    """
    from realm_ds.prepare.qa import read_question_set
    from realm_ds.prepare.qa_formats import Columns
    from realm_ds.prepare.qa_verb import tell_estimate, write_questions_of
    from realm_ds.prepare.workers import available_cores

    if (split is None) == (split_rule is None):
        raise ConfigError("say which split these are (--split test), or by which rule to split (--split-rule farmhash)")
    if link and corpus is None:
        raise ConfigError(f"--link {link} needs passages to link to: name them with --corpus")
    columns = Columns(question=question_field, answers=answers_field)
    found = read_question_set(inputs, form=None if format == "auto" else format, split=split, columns=columns)
    workers = workers or available_cores()
    if dry_run:
        tell_estimate(found, out, corpus=corpus, workers=workers)
    else:
        write_questions_of(found, out, corpus=corpus, link=link, workers=workers, resume=resume)


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
    format: Annotated[Format, typer.Option(help="Of the input; auto: by the name of each file.")] = "auto",
    vocab_size: Annotated[int, typer.Option(help="Wordpieces; 30522 as BERT has.")] = 30_522,
    cased: Annotated[bool, typer.Option("--cased", help="Keep capitals and accents.")] = False,
    alphabet: Annotated[
        int, typer.Option(min=1, help="Characters that are kept; rarer ones become [UNK]. CJK text needs thousands.")
    ] = 1000,
    sample_characters: Annotated[
        int, typer.Option(min=1 << 20, help="Train on a sample of so much text, in memory, if there is more.")
    ] = 256 << 20,
    title_field: TitleField = "title", text_field: TextField = "text", on_damage: OnDamage = "stop",
    workers: Workers = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="After a kill train anew; what is finished stays as it is.")
    ] = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Train a WordPiece vocabulary, or take one; prints the fingerprint that data made with it is checked by.

    \b
        realm-ds prepare tokenizer enwiki-pages-articles.xml.bz2 --out data/tokenizer
        realm-ds prepare tokenizer corpus/*.jsonl.gz --out data/tokenizer --vocab-size 8000 --cased
        realm-ds prepare tokenizer --from ~/models/bert-base-uncased --out data/tokenizer

    Take the tokenizer of the encoder that training starts from, where it starts from one (model.encoder).
    """
    from realm_ds.prepare.rows import Fields
    from realm_ds.prepare.sources import open_source
    from realm_ds.prepare.vocabulary import Training
    from realm_ds.prepare.vocabulary_verb import take, tell_estimate, train_tokenizer
    from realm_ds.prepare.workers import available_cores

    if source is not None and not inputs:
        take(source, out, resume=resume, dry_run=dry_run)
        return
    if source is not None or not inputs:
        raise ConfigError("give texts to train on (INPUT...) or a tokenizer to take (--from FOLDER), one of the two")
    texts = open_source(inputs, format=format, fields=Fields(title=title_field, text=text_field), on_damage=on_damage)
    training = Training(vocab_size=vocab_size, cased=cased, alphabet=alphabet, most_characters=sample_characters)
    if dry_run:
        tell_estimate(texts, training)
    else:
        train_tokenizer(texts, out, training, workers=workers or available_cores(), resume=resume)


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
    from realm_ds.prepare.inspect import Look
    from realm_ds.prepare.inspect_verb import inspect_verb
    from realm_ds.prepare.workers import available_cores

    asked = Look(samples=samples, seed=seed, every_record=every_record, check=check, duplicates=duplicates)
    is_whole = inspect_verb(
        path, asked, tokenizer=tokenizer, plot=plot, print_json=as_json, workers=workers or available_cores()
    )  # fmt: skip
    if not is_whole:
        raise SystemExit(FAILED)
