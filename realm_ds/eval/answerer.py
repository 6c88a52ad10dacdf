"""Open-domain answers of a fine-tuned export: retrieve, read, and tell the answers with the passages they stand in.

Shapes: B questions, K passages read for each, P embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from realm_ds.errors import CheckpointError
from realm_ds.eval.asking import Answerer
from realm_ds.eval.corpus import device_of, embed_queries
from realm_ds.eval.exported import Exported, open_export
from realm_ds.eval.reading import read_answers
from realm_ds.eval.retrieval import softmax
from realm_ds.models.names import READER
from realm_ds.models.qa import Dtype, QaModel
from realm_ds.observe.answers import Answer, Source


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
        cls, folder: str | Path, *, device: str | torch.device | None = None, dtype: Dtype = "fp32"
    ) -> "RealmForQA":  # fmt: skip
        """Open an export, or that of a run folder, on a device: a GPU where there is one. In bf16 passages are read
        quicker, and an answer changes where two are all but even.

        Raises CheckpointError, DataError or IndexFault that names what is missing or damaged.
        """
        exported = open_export(Path(folder))
        if not (exported.folder / READER).is_dir():
            raise CheckpointError(
                f"{exported.folder} has no {READER}: it is not fine-tuned; run `realm-ds qa train` from it"
            )
        return cls(exported, QaModel.load(exported.folder).answering(device_of(device), dtype=dtype))

    def _answers(self, questions: Sequence[Sequence[int]], top: int) -> list[tuple[Answer, ...]]:
        corpus, sizes, special = self._exported.corpus, self._sizes, self._special
        queries_BP = embed_queries(
            self._model.query_tower, questions, special=special, max_tokens=sizes.question_tokens
        )  # fmt: skip
        hits = corpus.search(queries_BP, num_hits=sizes.read)
        passages = self._exported.shards.passages_at(hits.places_BK.ravel().tolist())
        readings = read_answers(
            self._model.reader, questions, hits.places_BK, hits.scores_BK, passages,
            tokenizer=self._exported.tokenizer, sizes=sizes, most=top,
        )  # fmt: skip
        sources = {
            place: Source(uid=passage.uid, title=passage.title, text=passage.text)
            for place, passage in passages.items()
        }
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
