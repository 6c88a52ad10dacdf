"""Open-domain answers of a fine-tuned export: retrieve, read, and tell the spans with the passages they stand in.

Shapes: B questions, K passages read for each, P embedding.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from realm_ds.data.answers import normalise
from realm_ds.errors import CheckpointError
from realm_ds.eval.asking import Answerer, source_of
from realm_ds.eval.corpus import device_of, embed_queries, softmax
from realm_ds.eval.exported import Exported, Tell, open_export, tell_nobody
from realm_ds.eval.looking import Looked, Read, Said
from realm_ds.eval.reading import Span, SpanTexts, read_spans
from realm_ds.index.shard import Hits
from realm_ds.models.names import READER
from realm_ds.models.qa import QaModel
from realm_ds.observe.answers import Answer

SPANS_OF_A_PASSAGE = 20
"""The best, of which those that overlap a better one or say the same are no answers of their own."""


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
        cls, folder: str | Path, *, device: str | torch.device | None = None, tell: Tell = tell_nobody
    ) -> "RealmForQA":
        """Open an export, or that of a run folder, on a device: a GPU where there is one.

        Raises CheckpointError, DataError or IndexFault that names what is missing or damaged.
        """
        exported = open_export(Path(folder), tell=tell)
        if not (exported.folder / READER).is_dir():
            raise CheckpointError(
                f"{exported.folder} has no {READER}: it is not fine-tuned; run `realm-ds qa train` from it"
            )
        tell("loading the models")
        return cls(exported, QaModel.load(exported.folder).eval().to(device_of(device)))

    def _answers(self, questions: Sequence[Sequence[int]], top: int) -> list[tuple[Answer, ...]]:
        hits, spans = self._found(questions)
        passages = self._exported.shards.passages_at(hits.places_BK.ravel().tolist())
        sources = {place: source_of(passage) for place, passage in passages.items()}
        texts = SpanTexts(passages, self._exported.tokenizer)
        answers = []
        for of_one, places, p_K in zip(spans, hits.places_BK.tolist(), softmax(hits.scores_BK).tolist(), strict=True):
            p_of = dict(zip(places, p_K, strict=True))
            answers.append(
                tuple(
                    Answer(
                        text=texts.text(span), p=float(np.exp(span.log_p)), p_passage=p_of[span.place],
                        passage=sources[span.place], span=texts.characters(span),
                    )
                    for span in _distinct(of_one, texts, most=top)
                )
            )  # fmt: skip
        return answers

    def _look(self, question: Sequence[int], top: int) -> Looked:
        hits, (spans,) = self._found([question])
        places = hits.places_BK[0].tolist()
        passages = self._exported.shards.passages_at(places)
        texts = SpanTexts(passages, self._exported.tokenizer)
        answers = list(_distinct(spans, texts, most=top))
        names = [normalise(texts.text(span)) for span in answers]
        read = []
        for place, p in zip(places, softmax(hits.scores_BK)[0].tolist(), strict=True):
            own = [span for span in spans if span.place == place]
            same = [[span for span in own if normalise(texts.text(span)) == name] for name in names]
            read.append(
                Read(
                    passage=source_of(passages[place]), p=p,
                    weight=float(np.exp(own[0].log_p_passage)) if own else 0.0,
                    says=tuple(
                        _said(texts.text(span), of_name, texts) for span, of_name in zip(answers, same, strict=True)
                    ),
                    best=tuple(_said(texts.text(span), [span], texts) for span in _distinct(own, texts, most=top)),
                )
            )  # fmt: skip
        told = tuple((texts.text(span), float(np.exp(span.log_p))) for span in answers)
        return Looked(question="", answers=told, read=tuple(read))

    def _found(self, questions: Sequence[Sequence[int]]) -> tuple[Hits, list[list[Span]]]:
        """The passages of each question, and the best spans in them, best first."""
        corpus, sizes, special = self._exported.corpus, self._sizes, self._special
        queries_BP = embed_queries(
            self._model.query_tower, questions, special=special, max_tokens=sizes.question_tokens
        )  # fmt: skip
        hits = corpus.search(queries_BP, num_hits=sizes.read)
        spans = read_spans(
            self._model, questions, hits.places_BK, hits.scores_BK, corpus.bodies, special=special, sizes=sizes,
            num_spans=SPANS_OF_A_PASSAGE,
        )  # fmt: skip
        return hits, spans


def _said(text: str, spans: Sequence[Span], texts: SpanTexts) -> Said:
    """What spans of one passage say, all the same, and how probable that is in it."""
    places = sorted({characters for span in spans if (characters := texts.characters(span)) is not None})
    return Said(text=text, p=sum(float(np.exp(span.log_p - span.log_p_passage)) for span in spans), spans=tuple(places))


def _distinct(spans: Sequence[Span], texts: SpanTexts, *, most: int) -> Iterator[Span]:
    """The first spans that say something new: not what a better one says, and no part of it or around it."""
    said: set[str] = set()
    taken: list[Span] = []
    for span in spans:
        if len(taken) == most:
            return
        if any(span.place == other.place and span.start < other.stop and other.start < span.stop for other in taken):
            continue
        text = normalise(texts.text(span))
        if text not in said:
            said.add(text)
            taken.append(span)
            yield span
