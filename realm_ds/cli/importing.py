"""`realm-ds import`: others' REALM as an export of ours. What it reads and writes is train/importing.py's business."""

from pathlib import Path
from typing import Annotated

import typer

from realm_ds.cli.common import verb
from realm_ds.errors import ConfigError


@verb
def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the models are.")],
    out: Annotated[Path | None, typer.Option(help="Where to write. Needed unless --dry-run.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The models' WordPiece tokenizer; left out: the one beside their weights.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is there, and write nothing.")] = False,
) -> None:
    """REALM in transformers' layout or Google's, as an export that model.start_from takes, or that answers questions.

    \b
    FOLDER holds, of transformers 4.16 to 4.57 (safetensors or pytorch_model.bin, which is read without unpickling):
        embedder/    the RealmEmbedder, or a RealmScorer: google/realm-cc-news-pretrained-embedder
        encoder/     the RealmKnowledgeAugEncoder:        google/realm-cc-news-pretrained-encoder
    or, as Google released it, where TensorFlow is installed:
        embedder/    bert/                                gs://realm-data/cc_news_pretrained
    or is a RealmForOpenQA with its block_records.npy:    google/realm-orqa-nq-openqa

    \b
        realm-ds import downloads/realm --dry-run
        realm-ds import downloads/realm --out models/realm-cc-news

    The other way goes realm-ds export --layout hf-realm.
    """
    from realm_ds.train.importing import import_model, look

    if dry_run:
        print(*look(source), sep="\n")
        return
    if out is None:
        raise ConfigError("where to? Name a folder with --out, or look at what is there with --dry-run")
    import_model(source.absolute(), out.absolute(), tokenizer_folder=tokenizer)
