"""`realm-ds prepare pretrain`: passages to examples with salient spans."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from realm_ds.cli.common import refuse_without_effect, verb
from realm_ds.cli.prepare_options import (
    DropTitle,
    DryRun,
    Format,
    IdField,
    KeepAllPages,
    OnDamage,
    Resume,
    TextField,
    TitleField,
    Workers,
    make_cutting,
)  # fmt: skip
from realm_ds.errors import ConfigError

if TYPE_CHECKING:
    from realm_ds.prepare.passages import PassageSource

HELD_OUT_SHARE = 0.01


Finder = Annotated[
    Literal["rules", "spacy", "transformers"],
    typer.Option(
        metavar="FINDER",
        help="Who finds salient spans: rules (English names and quantities), spacy (a pipeline), or transformers (a "
        "token-classification model).",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="spacy: a pipeline by name or folder, left out: en_core_web_sm. transformers: a folder, or a hub name."
    ),
]
EntityTypes = Annotated[
    str,
    typer.Option(
        help="As the model calls them: PERSON,ORG,GPE. Left out: all that are names, as REALM's tagger knew them."
    ),
]
Unit = Annotated[
    Literal["passage", "sentence"],
    typer.Option(
        metavar="UNIT",
        help="What an example is: a passage, of which another sentence is taken each epoch, or a sentence.",
    ),
]
HeldOut = Annotated[
    Path | None, typer.Option(help="Write the examples of some articles here, for data.held_out, and not to OUT.")
]
HeldOutShare = Annotated[
    float | None, typer.Option(help=f"Of the articles; left out: {HELD_OUT_SHARE} with --held-out.")
]


@verb
def prepare_pretrain(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the shards: a folder that is not there.")],
    tokenizer: Annotated[Path, typer.Option(help="The folder of the tokenizer, the corpus's own.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[INPUT]...", help="Instead of --corpus: documents, as `prepare corpus` takes them."),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Shards of `prepare corpus`, their folder or URL: examples are made of them.")
    ] = None,
    spans: Finder = "rules", model: Model = "", entity_types: EntityTypes = "",
    dates: Annotated[bool, typer.Option("--dates/--no-dates", help="Dates as well, by a rule.")] = True,
    unit: Unit = "passage", held_out: HeldOut = None, held_out_share: HeldOutShare = None,
    passage_tokens: Annotated[int, typer.Option(help="Of INPUT: wordpieces of a passage at most.")] = 288,
    format: Annotated[
        Format, typer.Option(metavar="FORMAT", help="Of INPUT, as in `prepare corpus`; auto: by the names of files.")
    ] = "auto",
    id_field: IdField = "id", title_field: TitleField = "title", text_field: TextField = "text",
    drop_title: DropTitle = None, keep_all_pages: KeepAllPages = False, on_damage: OnDamage = "stop",
    per_shard: Annotated[int, typer.Option(min=1, help="Examples in a tar shard.")] = 10_000,
    workers: Workers = None, resume: Resume = False, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Find salient spans, and write the examples that REALM masks.

    A salient span is a named entity or a date in a sentence.

    \b
        realm-ds prepare pretrain --corpus data/corpus --tokenizer data/tokenizer --out data/pretrain
        realm-ds prepare pretrain ... --spans spacy --held-out data/held_out --dry-run
        realm-ds prepare pretrain ... --spans transformers --model dslim/bert-base-NER --workers 1
        realm-ds prepare pretrain news.jsonl.gz --tokenizer data/tokenizer --out data/pretrain

    A core does some 1,500 passages a second by rules, 50 by spaCy's small pipeline, 1 or 2 by a model of BERT's base
    size, which wants a GPU (and --workers 1): --dry-run measures it. All spans of a passage are kept, and training
    masks another one each epoch. Only whole, known words are ever masked; what was left out is counted and told.
    """
    from realm_ds.data.places import Place
    from realm_ds.prepare.finders import FinderChoice
    from realm_ds.prepare.passages import CorpusPassages, DocumentPassages
    from realm_ds.prepare.pretrain import Making
    from realm_ds.prepare.pretrain_verb import tell_estimate, write_pretrain
    from realm_ds.prepare.rows import Fields
    from realm_ds.prepare.sources import open_source
    from realm_ds.prepare.workers import available_cores

    if (corpus is None) == (not inputs):
        raise ConfigError("give either --corpus, a folder of corpus shards, or INPUT..., documents to cut")
    if corpus is not None:
        Place(corpus)  # raises ConfigError for one that cannot be, before anything is read
        refuse_without_effect(
            context, "passage_tokens", "format", "id_field", "title_field", "text_field", "drop_title",
            "keep_all_pages", "on_damage",
            because="with --corpus passages are taken as they are; leave that out, or give INPUT... instead",
        )  # fmt: skip
    share = _share(held_out, held_out_share)
    if share and "-" in (inputs or []):
        raise ConfigError("--held-out reads its input twice, which stdin cannot be: give files")
    types = tuple(filter(None, (kind.strip() for kind in entity_types.split(","))))
    finder = FinderChoice(kind=spans, model=model, entity_types=types, dates=dates)
    making = Making(tokenizer=tokenizer, finder=finder, unit=unit, held_out_share=share)

    fields = Fields(id=id_field, title=title_field, text=text_field)
    cutting = make_cutting(
        tokenizer=tokenizer, passage_tokens=passage_tokens, drop_title=drop_title, keep_all_pages=keep_all_pages
    )

    def open_passages() -> "PassageSource":
        if corpus is not None:
            return CorpusPassages(corpus, tokenizer=tokenizer)
        return DocumentPassages(open_source(inputs or [], format=format, fields=fields, on_damage=on_damage), cutting)

    workers = workers or available_cores()
    if dry_run:
        tell_estimate(open_passages, out, making, held_out=held_out, workers=workers, resume=resume)
    else:
        write_pretrain(
            open_passages, out, making, corpus=corpus, held_out=held_out, per_shard=per_shard, workers=workers,
            resume=resume,
        )  # fmt: skip


def _share(held_out: Path | None, share: float | None) -> float:
    """Of the articles that are held out."""
    if held_out is None and share is not None:
        raise ConfigError(f"--held-out-share {share}, but no folder to write these to: give --held-out as well")
    if share is not None and not 0.0 < share < 1.0:
        raise ConfigError(f"--held-out-share {share}: give a share between 0 and 1, such as {HELD_OUT_SHARE}")
    return 0.0 if held_out is None else share or HELD_OUT_SHARE
