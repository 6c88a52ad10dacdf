"""Open-domain answers of a fine-tuned export: retrieve, read, and tell the answers with the passages they stand in.

Shapes: B questions, K passages read for each, P embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from realm_ds.data.records import Passage
from realm_ds.errors import CheckpointError
from realm_ds.eval.asking import Answerer
from realm_ds.eval.corpus import device_of, embed_queries
from realm_ds.eval.exported import Exported, Tell, open_export, tell_nobody
from realm_ds.eval.looking import Looked, source_of
from realm_ds.eval.reading import look, read_answers
from realm_ds.eval.retrieval import softmax
from realm_ds.index.shard import Hits
from realm_ds.models.names import READER
from realm_ds.models.qa import Dtype, QaModel
from realm_ds.observe.answers import Answer


class RealmForQA(Answerer):
    """Answers questions from the passages of an export that `realm-ds qa train` wrote.

    >>> realm = RealmForQA.from_pretrained("runs/qa/export")
    >>> (answered,) = realm.answer(["What is the river of Ghent called?"], top=3)
    >>> best = answered.answers[0]
    >>> first, last = best.span
    >>> best.passage.text[first:last] == best.text
    True
    """

    def __init__(self, exported: Exported, model: QaModel) -> None:
        super().__init__(exported)
        self._model = model

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device | None = None, dtype: Dtype = "fp32",
        tell: Tell = tell_nobody,
    ) -> "RealmForQA":  # fmt: skip
        """Open an export, or that of a run folder, on a device: a GPU where there is one. In bf16 passages are read
        quicker, and an answer changes where two are all but even.

        Raises CheckpointError, DataError or IndexFault that names what is missing or damaged.
        """
        exported = open_export(Path(folder), tell=tell)
        if not (exported.folder / READER).is_dir():
            raise CheckpointError(
                f"{exported.folder} has no {READER}: it is not fine-tuned; run `realm-ds qa train` from it"
            )
        tell("loading the models")
        return cls(exported, QaModel.load(exported.folder).answering(device_of(device), dtype=dtype))

    def _answers(self, questions: Sequence[Sequence[int]], top: int) -> list[tuple[Answer, ...]]:
        hits, passages = self._found(questions)
        readings = read_answers(
            self._model.reader, questions, hits.places_BK, hits.scores_BK, passages,
            tokenizer=self._exported.tokenizer, sizes=self._sizes, most=top,
        )  # fmt: skip
        sources = {place: source_of(passage) for place, passage in passages.items()}
        answers = []
        for of_one, places, p_K in zip(
            readings, hits.places_BK.tolist(), softmax(hits.scores_BK).tolist(), strict=True
        ):
            p_of = dict(zip(places, p_K, strict=True))
            answers.append(
                tuple(
                    Answer(
                        text=read.text, p=read.p, p_passage=p_of[read.place], passage=sources[read.place],
                        span=read.characters,
                    )
                    for read in of_one
                )
            )  # fmt: skip
        return answers

    def _look(self, question: Sequence[int], top: int) -> Looked:
        hits, passages = self._found([question])
        return look(
            self._model.reader, question, hits.places_BK[0], hits.scores_BK[0], passages,
            tokenizer=self._exported.tokenizer, sizes=self._sizes, most=top,
        )  # fmt: skip

    def _found(self, questions: Sequence[Sequence[int]]) -> tuple[Hits, dict[int, Passage]]:
        """The passages to read for each question."""
        queries_BP = embed_queries(
            self._model.query_tower, questions, special=self._special, max_tokens=self._sizes.question_tokens
        )
        hits = self._exported.corpus.search(queries_BP, num_hits=self._sizes.read)
        return hits, self._exported.shards.passages_at(hits.places_BK.ravel().tolist())
