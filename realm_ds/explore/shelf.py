"""Opened models, the last two that were asked: opening takes seconds, and a large corpus fills the memory."""

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

import numpy as np

from realm_ds.errors import IndexFault
from realm_ds.eval.asking import Answerer
from realm_ds.eval.cloze import RealmForCloze
from realm_ds.eval.corpus import CorpusIndex
from realm_ds.eval.exported import Tell, open_export, tell_nobody
from realm_ds.eval.looking import Looked
from realm_ds.explore.places import Choice
from realm_ds.explore.showing import with_mask
from realm_ds.index.faiss_index import VectorTable
from realm_ds.launch.ask import open_answerer
from realm_ds.launch.index_open import Wanted, damaged, open_index
from realm_ds.launch.index_towers import device_for, load_tower
from realm_ds.models.encoder import KnowledgeAugEncoder
from realm_ds.models.names import ENCODER, PASSAGE_TOWER, QUERY_TOWER

KEPT = 2
"""As many as are compared."""


class Shelf:
    """Opens each model once, whoever asks; several threads may."""

    def __init__(self, open_one: Callable[..., Answerer] | None = None) -> None:
        self._open = open_one or open_choice
        self._opened: dict[Choice, Answerer] = {}
        self._lock = Lock()

    def get(self, choice: Choice, *, tell: Tell = tell_nobody) -> Answerer:
        """The model, opened now if it is not. Raises CheckpointError, DataError or IndexFault where it is damaged."""
        if self._lock.locked():
            tell("waiting for another model to open")
        with self._lock:
            answerer = self._opened.pop(choice, None)
            if answerer is None:
                while len(self._opened) >= KEPT:
                    del self._opened[next(iter(self._opened))]  # First, so that no three are in memory at a time.
                answerer = self._open(choice, tell=tell)
            self._opened[choice] = answerer
            return answerer

    def look(self, choice: Choice, asked: str, *, tell: Tell = tell_nobody) -> Looked:
        """What the model has to say to it. Raises as `get` does; what is wrong with the question is told by it."""
        answerer = self.get(choice, tell=tell)
        tell("reading")
        return answerer.look(asked if choice.answers_questions else with_mask(asked))


def open_choice(choice: Choice, *, tell: Tell = tell_nobody) -> Answerer:
    """The export as it is, or with the towers and vectors of a version of its run's index."""
    return open_answerer(choice.folder, tell=tell) if choice.version is None else _open_version(choice, tell=tell)


def _open_version(choice: Choice, *, tell: Tell) -> RealmForCloze:
    """Retrieves as the trainers did while the version was live, and reads with the export's encoder."""
    exported = open_export(choice.folder, tell=tell)
    tell(f"reading index version {choice.version}")
    opened = open_index(Wanted(store=choice.folder, queries=(), num_hits=1, version=choice.version, factory=None))
    if opened.corpus.digest != exported.shards.digest:
        raise IndexFault(
            f"the index in {opened.index.folder} is of other passages than {exported.folder}: export the run again"
        )
    towers = opened.towers()
    table = VectorTable(len(exported.corpus), opened.width, dtype=opened.config.index.vectors)
    if not opened.store.load(table.vectors_NP, version=opened.version, snapshot_sha256=opened.snapshot_sha256, start=0):
        raise IndexFault(damaged(opened))
    vectors_NP = table.vectors_NP.astype(np.float32, copy=False)
    device = device_for()
    query_tower, passage_tower = (
        load_tower(towers, name, opened.config, vocab_size=exported.tokenizer.vocab_size, device=device)
        for name in (QUERY_TOWER, PASSAGE_TOWER)
    )
    return RealmForCloze(
        replace(exported, corpus=CorpusIndex(exported.corpus.passages, VectorTable.of(vectors_NP))),
        query_tower=query_tower, passage_tower=passage_tower,
        encoder=KnowledgeAugEncoder.load(exported.folder / ENCODER).eval().to(device),
    )  # fmt: skip
