"""All of a tiny question answering in one process: corpus, questions, and models of either kind."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.corpus import CorpusIndex
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.index.merge import Candidates
from realm_ds.models.qa import QaBatch, QaModel, build_qa_model, build_word_model
from realm_ds.models.readers import FoundPassages
from realm_ds.models.realm import build_model
from realm_ds.train.collate import Collator
from realm_ds.train.find import PassageFinder
from realm_ds.train.timing import StepTimer
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_corpus, make_questions

SIZES = ReadingSizes(question_tokens=16, passage_tokens=32, read=3)


class Tiny:
    """Everything of a tiny run in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: Tokenizer = make_data(folder)
        self.questions = make_questions(folder)
        self.config = tiny_config(folder)
        self.settings = self.config.qa.model_copy(update={"retrieve": 10, "read": 3, "max_span_tokens": 4})
        self.corpus: CorpusIndex = make_corpus(folder, width=self.config.model.projection_size)
        self.shards = open_shards(folder / "corpus", kind="corpus", fingerprint=None)
        self.passages = list(self.shards.passages())

    def model(self, *, trains_passages: bool = False, share_towers: bool = False, names_words: bool = False) -> QaModel:
        settings = self.config.model.model_copy(update={"share_towers": share_towers})
        realm = build_model(settings, vocab_size=self.tokenizer.vocab_size, max_tokens=48, seed=0)
        if names_words:
            return build_word_model(realm, trains_passages=trains_passages)
        return build_qa_model(
            realm, span_hidden_size=8, max_span_tokens=4, seed=1, trains_passages=trains_passages
        )  # fmt: skip

    def tools(self) -> dict[str, Any]:
        return {"shards": self.shards, "tokenizer": self.tokenizer, "sizes": SIZES}

    def finder(self, **changes: object) -> PassageFinder:
        settings = self.settings.model_copy(update=changes)
        return PassageFinder(
            self.questions["train"], self.retrieve, tokenizer=self.tokenizer, settings=settings, sizes=SIZES,
            timer=StepTimer(),
        )  # fmt: skip

    def retrieve(self, queries_BP: np.ndarray, num_hits: int) -> Candidates:
        return self.corpus.retrieve(queries_BP, num_hits=num_hits)

    def batch(self, finder: PassageFinder, numbers: tuple[int, ...]) -> QaBatch:
        collator = Collator(
            special=self.tokenizer.special, query_tokens=16, passage_tokens=32, max_masks=3, device=torch.device("cpu")
        )
        return QaBatch(questions=collator.queries([finder.question_ids[n] for n in numbers]), numbers=numbers)


def sequences_of(found: FoundPassages) -> list[list[int]]:
    """The joint sequences in the order of questions and reads, without padding."""
    by_row = {}
    for part in found.parts:
        for row, ids, mask in zip(part.rows_R.tolist(), part.joint.ids_NL, part.joint.mask_NL, strict=True):
            by_row[row] = ids[mask == 1].tolist()
    return [by_row[row] for row in range(len(by_row))]
