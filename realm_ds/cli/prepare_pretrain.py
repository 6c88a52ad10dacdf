"""`realm-ds prepare pretrain`: passages to examples with salient spans."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import group, verb
from realm_ds.errors import ConfigError

HELD_OUT_SHARE = 0.01

prepare = group("Make tar shards, vocabulary and question files.")


@prepare.command("pretrain")
@verb
def prepare_pretrain(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the shards: a folder that is not there.")],
    corpus: Annotated[Path, typer.Option(help="Shards of `prepare corpus`, whose passages are taken.")],
    tokenizer: Annotated[Path, typer.Option(help="The folder of the tokenizer that the corpus was made with.")],
    spans: Annotated[
        Literal["rules", "spacy", "transformers"],
        typer.Option(help="What finds salient spans: rules (names and quantities, English), a spaCy pipeline, or a "
                          "token-classification model."),
    ] = "rules",
    model: Annotated[
        str, typer.Option(help="spacy: a pipeline's name or folder [en_core_web_sm]. transformers: a folder, or a name "
                               "on the hub.")
    ] = "",
    entity_types: Annotated[
        str, typer.Option(help="Of entities to take, as the model calls them: PERSON,ORG,GPE. Left out: all that are "
                               "names, as REALM's tagger was trained to.")
    ] = "",
    dates: Annotated[bool, typer.Option("--dates/--no-dates", help="Take dates as well, by a rule.")] = True,
    unit: Annotated[
        Literal["passage", "sentence"],
        typer.Option(help="One example a passage, of another sentence each epoch, or one a sentence."),
    ] = "passage",
    held_out: Annotated[
        Path | None, typer.Option(help="Hold articles out of OUT and write their examples here, for data.held_out.")
    ] = None,
    held_out_share: Annotated[
        float | None, typer.Option(help=f"Of the articles [{HELD_OUT_SHARE} with --held-out].")
    ] = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Examples in a tar shard.")] = 10_000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes [CPU cores; on a GPU give 1 or 2].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill; finished shards stay.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, and write nothing.")] = False,
) -> None:  # fmt: skip
    """Find salient spans (entities and dates) in sentences, and write the examples that REALM masks.

    \b
        realm-ds prepare pretrain --corpus data/corpus --tokenizer data/tokenizer --out data/pretrain
        realm-ds prepare pretrain ... --spans spacy --held-out data/held_out --dry-run
        realm-ds prepare pretrain ... --spans transformers --model dslim/bert-base-NER --workers 1

    A core finds the spans of some 1,500 passages a second by rules, of 50 by spaCy's small pipeline, and of a few by a
    transformers model, which a GPU makes hundreds; --dry-run measures it. All spans of a passage are kept: training
    masks another one each epoch. What was left out is counted and told at the end.
    """
    from realm_ds.prepare.finders import FinderChoice
    from realm_ds.prepare.pretrain import Making
    from realm_ds.prepare.pretrain_verb import tell_estimate, write_pretrain
    from realm_ds.prepare.workers import available_cores

    types = tuple(filter(None, (kind.strip() for kind in entity_types.split(","))))
    finder = FinderChoice(kind=spans, model=model, entity_types=types, dates=dates)
    making = Making(
        tokenizer=tokenizer.absolute(), finder=finder, unit=unit, held_out_share=_share(held_out, held_out_share)
    )
    workers = workers or available_cores()
    if dry_run:
        tell_estimate(corpus.absolute(), making, workers=workers)
        return
    write_pretrain(
        corpus.absolute(), out.absolute(), making, held_out=held_out and held_out.absolute(), per_shard=per_shard,
        workers=workers, resume=resume,
    )  # fmt: skip


def _share(held_out: Path | None, share: float | None) -> float:
    """Of the articles that are held out."""
    if held_out is None and share is not None:
        raise ConfigError(f"--held-out-share {share}, but no folder to write these to: give --held-out as well")
    if held_out is None:
        return 0.0
    return HELD_OUT_SHARE if share is None else share
