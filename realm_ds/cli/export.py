"""`realm-ds export`: a run's models for other programs. What it writes is train/export.py's business."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_ds.cli.common import verb
from realm_ds.cli.stage import RunFolder
from realm_ds.errors import ConfigError


@verb
def export(
    run: RunFolder = Path("runs/pretrain"),
    step: Annotated[
        str,
        typer.Option(
            help="Which weights: of a checkpoint's step, of the latest one, or the best of the run as judged on "
            "held-out data (RUN/best)."
        ),
    ] = "latest",
    out: Annotated[
        Path | None, typer.Option(help="Where to write; left out: RUN/export, of other layouts RUN/export-LAYOUT.")
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision of the weights.")] = "fp32",
    layout: Annotated[
        Literal["realm", "hf-realm", "sentence-transformers"],
        typer.Option(
            help="realm: AutoModel and AutoModelForMaskedLM. hf-realm: REALM's own classes in transformers 4.16 to "
            "4.57. sentence-transformers: the two towers for that library."
        ),
    ] = "realm",
    verify: Annotated[
        bool, typer.Option("--verify", help="Read it back and compare what it computes; exit code 1 if that differs.")
    ] = False,
    faiss_file: Annotated[
        bool, typer.Option("--faiss-file", help="All vectors as one file, too, that faiss alone opens.")
    ] = False,
    models_only: Annotated[
        bool, typer.Option("--models-only", help="Without index and passages: what another run starts from needs none.")
    ] = False,
    licence: Annotated[
        str,
        typer.Option(
            "--license",
            help="Of models and passages, for the card, by the hub's name: apache-2.0, cc-by-sa-4.0, other.",
        ),
    ] = "unknown",
) -> None:
    """A run's towers and encoder as transformers folders, with index, passages and a model card.

    Needs no GPU; in memory are the models once. A run of qa train has its own export; --layout hf-realm makes of that a
    RealmReader and a RealmForOpenQA.
    """
    if models_only and faiss_file:
        raise ConfigError("--models-only writes no vectors, which --faiss-file is made of: leave one of them out")
    from realm_ds.train.export import export_run

    folder = export_run(
        run.absolute(), step=_step(step), out=out and out.absolute(), dtype=dtype, layout=layout,
        verify=verify, faiss_file=faiss_file, licence=licence,
        with_corpus=not models_only, say=print,
    )  # fmt: skip
    print(f"exported to {folder}")


def _step(text: str) -> int | Literal["best", "latest"]:
    if text == "best":
        return "best"
    if text == "latest":
        return "latest"
    if text.isdecimal():
        return int(text)
    raise ConfigError(f"--step {text}: give the number of a step, best or latest")
