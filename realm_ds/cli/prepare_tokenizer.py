"""`realm-ds prepare tokenizer`: texts to a vocabulary."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import refuse_without_effect, verb
from realm_ds.cli.prepare_options import DryRun, Format, OnDamage, TextField, TitleField
from realm_ds.errors import ConfigError


@verb
def prepare_tokenizer(
    context: typer.Context,
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
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes that clean wikitext; other texts need none.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="After a kill train anew; what is finished stays as it is.")
    ] = False,
    dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Train a WordPiece vocabulary, or take one.

    Prints the fingerprint that data made with it is checked by.

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
        refuse_without_effect(
            context, "format", "vocab_size", "cased", "alphabet", "sample_characters", "title_field", "text_field",
            "on_damage", "workers",
            because="--from takes a tokenizer as it is; leave that out, or give INPUT... to train on",
        )  # fmt: skip
        take(source, out, resume=resume, dry_run=dry_run)
        return
    if source is not None or not inputs:
        raise ConfigError("give texts to train on (INPUT...) or a tokenizer to take (--from FOLDER), one of the two")
    texts = open_source(inputs, format=format, fields=Fields(title=title_field, text=text_field), on_damage=on_damage)
    training = Training(vocab_size=vocab_size, cased=cased, alphabet=alphabet, most_characters=sample_characters)
    run = tell_estimate if dry_run else train_tokenizer
    run(texts, out, training, workers=workers or available_cores(), resume=resume)
