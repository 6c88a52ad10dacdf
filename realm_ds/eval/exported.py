"""An export folder as answering opens it: tokenizer, passages, their frozen vectors, and settings.

    EXPORT/{tokenizer, passages, index/version-00000}/    answering.json    README.md    manifest.json, written last

It needs no run beside it. The models in it are opened by those who answer: answerer.py and cloze.py.

Shapes: N passages of the corpus, P embedding.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from realm_ds.data.shards import Shards, open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import CheckpointError
from realm_ds.eval.corpus import CorpusIndex
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.files import recover_folder, write_durably
from realm_ds.index.faiss_index import VectorTable
from realm_ds.index.passages import load_shard
from realm_ds.index.store import IndexStore, PartFault, stored_parts
from realm_ds.models.names import READER
from realm_ds.models.qa import QaModel
from realm_ds.models.tokenizer_files import copy_tokenizer
from realm_ds.sealed import check_told, sealed_folder

CARD = "README.md"
SETTINGS_FILE = "answering.json"
TOKENIZER, PASSAGES, INDEX = "tokenizer", "passages", "index"
EXPORTED_VERSION = 0
"""The index of an export is of its own towers; it has one version."""
Tell = Callable[[str], None]
"""Takes what is being done, for those who wait."""
REMEDY = "export the run again, or copy the folder again"


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """What answering must do as training did it."""

    sizes: ReadingSizes
    null_passage: bool
    """Whether the empty passage is a candidate of every question too."""
    temperature: float
    tokenizer_fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An export, opened and checked, without its models."""

    folder: Path
    settings: AnswerSettings
    tokenizer: Tokenizer
    shards: Shards
    corpus: CorpusIndex


def tell_nobody(doing: str) -> None:
    """Nobody waits."""


def open_export(folder: Path, *, tell: Tell = tell_nobody) -> Exported:
    """Open an export, or that of a run folder. Raises CheckpointError or DataError that names what is damaged."""
    folder = find_export(folder)
    tell("checking the files of the models")
    try:
        # Passages and vectors are held against sums of their own as they are read: what is large is read once. The card
        # is people's, who say the licence there.
        check_told(folder, trusted=(PASSAGES, INDEX, CARD))
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is no whole export: {error}; {REMEDY}") from error
    tell("reading the passages")
    settings = read_settings(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.fingerprint != settings.tokenizer_fingerprint:
        raise CheckpointError(
            f"{folder / TOKENIZER} is not the tokenizer that the models beside it were trained with "
            f"({tokenizer.fingerprint[:12]}, then {settings.tokenizer_fingerprint[:12]}); {REMEDY}"
        )
    shards = open_shards(folder / PASSAGES, kind="corpus", fingerprint=tokenizer.fingerprint)
    passages = load_shard(shards, shard_rank=0, num_shards=1, max_tokens=settings.sizes.passage_tokens)
    tell(f"reading the vectors of {shards.count:,} passages")
    return Exported(
        folder=folder, settings=settings, tokenizer=tokenizer, shards=shards,
        corpus=CorpusIndex(passages, _read_vectors(folder / INDEX, shards)),
    )  # fmt: skip


def find_export(folder: Path) -> Path:
    """The folder itself, or the export inside it where it is a run's. Raises CheckpointError if there is none."""
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}: name an export, or the folder of a run that has one")
    if (folder / SETTINGS_FILE).is_file():
        return folder
    if (folder / "export" / SETTINGS_FILE).is_file():
        return folder / "export"
    inside = sorted(path.parent for path in folder.glob(f"*/export/{SETTINGS_FILE}"))
    if fine_tuned := [str(export.parent) for export in inside if (export / READER).is_dir()]:
        hint = f"did you mean {' or '.join(fine_tuned)}?"
    elif inside:
        hint = f"name one of {', '.join(map(str, inside))}"
    else:
        hint = (
            "`realm-ds export --run RUN` writes one of a pre-trained run, `realm-ds qa train` at its end (what was "
            "stopped goes on with --resume)"
        )
    raise CheckpointError(f"{folder} holds no export with {SETTINGS_FILE}: {hint}")


def write_corpus(folder: Path, shards: Shards, parts: Iterable[np.ndarray], *, snapshot_sha256: str) -> dict[str, str]:
    """Passages and their vectors, those of the first passages first, by the tower of that sum (vectors_sha256 where it
    is not kept). Raises IndexFault, DataError or OSError.

    Returns the sums of what is large of it, by name: sealing the folder need not read that again.
    """
    store, start = IndexStore(folder / INDEX, corpus_sha256=shards.digest), 0
    for part_NP in parts:
        store.save(part_NP, version=EXPORTED_VERSION, snapshot_sha256=snapshot_sha256, start=start)
        start += len(part_NP)
    shards.copy_to(folder / PASSAGES)
    written = stored_parts(folder / INDEX, EXPORTED_VERSION)
    return {
        **{f"{PASSAGES}/{entry.name}": entry.sha256 for entry in shards.manifest.shards},
        **{str(part.vectors_path.relative_to(folder)): part.manifest().vectors_sha256 for part in written},
    }


def vectors_sha256(parts: Iterable[np.ndarray]) -> str:
    """Vectors as their own snapshot: the tower that made them may have been trained on, and is not kept."""
    digest = hashlib.sha256()
    for part_NP in parts:
        digest.update(np.ascontiguousarray(part_NP).data)
    return digest.hexdigest()


def read_settings(folder: Path) -> AnswerSettings:
    """Of an export. Raises CheckpointError."""
    path = folder / SETTINGS_FILE
    try:
        data = json.loads(path.read_bytes())
        return AnswerSettings(**{**data, "sizes": ReadingSizes(**data["sizes"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {REMEDY}") from error


def write_settings(folder: Path, settings: AnswerSettings) -> None:
    """Raises OSError."""
    write_durably(folder / SETTINGS_FILE, json.dumps(asdict(settings), indent=1) + "\n")


def write_qa_export(
    out: Path, model: QaModel, *, shards: Shards, vectors: Sequence[np.ndarray], tokenizer_folder: Path,
    settings: AnswerSettings, kind: str = "qa", card: str | None = None,
) -> None:  # fmt: skip
    """A fine-tuned model with all that it answers from; whole or not at all, replacing an earlier one.

    `vectors` are those of all passages in one or several parts, which may lie on disk. What is written to be measured
    needs no `card`.

    Raises CheckpointError where the disk does not take it.
    """
    recover_folder(out)
    known: dict[str, str] = {}
    remedy = "free space there; then import again, or go on with --resume"
    with sealed_folder(out, what="the export", remedy=remedy, known=known, kind=kind) as unfinished:
        model.save(unfinished)
        copy_tokenizer(tokenizer_folder, unfinished / TOKENIZER)
        known |= write_corpus(unfinished, shards, vectors, snapshot_sha256=vectors_sha256(vectors))
        write_settings(unfinished, settings)
        if card is not None:
            (unfinished / CARD).write_text(card, encoding="utf-8")


def _read_vectors(index: Path, shards: Shards) -> VectorTable:
    """Float32, held against their sums."""
    try:
        parts = stored_parts(index, EXPORTED_VERSION)
        if not parts:
            raise PartFault("empty")
        manifest = parts[0].manifest()
    except PartFault as fault:
        raise CheckpointError(f"the index in {index} is {fault}; {REMEDY}") from fault
    table = VectorTable(shards.count, manifest.width)
    store = IndexStore(index, corpus_sha256=shards.digest)
    if not store.load(table.vectors_NP, version=EXPORTED_VERSION, snapshot_sha256=manifest.snapshot_sha256, start=0):
        raise CheckpointError(
            f"the vectors in {index} are damaged, or not of the {shards.count} passages beside them; {REMEDY}"
        )
    return table
