"""Spans read: the best of questions in the passages retrieved for them, and what those say in the text.

Pairs of all questions go through the reader in batches of like length. Which spans are answers of their own is
reading.py's business.

Shapes: B questions, K passages read for each, R pairs of a question and a passage, L tokens, W span widths, X spans.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from realm_ds.data.answer_spans import span_characters
from realm_ds.data.batches import Ids
from realm_ds.data.records import Passage, SpecialIds
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.corpus import tensors
from realm_ds.eval.pairs import Bodies, ReadingSizes, joint_buckets, joint_tokens
from realm_ds.models.reader import IMPOSSIBLE, best_spans, reader_logits
from realm_ds.models.readers import SpanReader


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span of a passage as an answer: the passage's place in the corpus, and wordpieces of its body."""

    place: int
    start: int
    stop: int
    log_p: float
    """Of the span and its passage among all spans of all passages read."""
    log_p_passage: float
    """Of all spans of its passage together, among the same."""


@torch.inference_mode()
def read_spans(
    reader: SpanReader,
    questions: Sequence[Ids],
    places_BK: np.ndarray,
    scores_BK: np.ndarray,
    bodies: Bodies,
    *,
    special: SpecialIds,
    sizes: ReadingSizes,
    num_spans: int = 1,
) -> list[list[Span]]:
    """Of each question the best spans over the K passages given, best first, at most `num_spans` of each passage.

    The passages' scores count as in training.
    """
    reader.eval()
    device = next(reader.parameters()).device
    pairs = [(question, body) for question, places in zip(questions, places_BK, strict=True) for body in bodies(places)]
    shape = (len(pairs), num_spans)
    logits_RX, scores_R = np.full(shape, -np.inf, dtype=np.float32), scores_BK.ravel()
    starts_RX, stops_RX = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    total_R = np.empty(len(pairs), dtype=np.float32)
    for rows in joint_buckets(pairs, sizes=sizes):
        tokens, body_starts_R = joint_tokens([pairs[row] for row in rows], special=special, sizes=sizes)
        spans_RLW, possible_RLW = reader(tensors(tokens, device))
        scores_R1 = torch.from_numpy(scores_R[rows, None]).to(device)
        logits_RLW = reader_logits(spans_RLW[:, None], possible_RLW[:, None], scores_R1)
        best = best_spans(logits_RLW, num_spans=num_spans)
        num_found = best.logit_BX.shape[1]
        logits_RX[rows, :num_found] = best.logit_BX.cpu().numpy()
        starts_RX[rows, :num_found] = best.start_BX.cpu().numpy() - body_starts_R[:, None]
        stops_RX[rows, :num_found] = best.stop_BX.cpu().numpy() - body_starts_R[:, None]
        total_R[rows] = logits_RLW.flatten(1).logsumexp(dim=1).cpu().numpy()
    spans = []
    for number, places in enumerate(places_BK.tolist()):
        own = slice(number * len(places), (number + 1) * len(places))
        total = float(np.logaddexp.reduce(total_R[own]))
        totals = total_R[own].tolist()
        order = np.argsort(-logits_RX[own].ravel(), kind="stable")
        starts, stops, logits = (part[own].ravel()[order].tolist() for part in (starts_RX, stops_RX, logits_RX))
        spans.append(
            [
                Span(
                    place=places[which // num_spans], start=start, stop=stop, log_p=logit - total,
                    log_p_passage=totals[which // num_spans] - total,
                )
                for which, start, stop, logit in zip(order.tolist(), starts, stops, logits, strict=True)
                if logit > IMPOSSIBLE
            ]
        )  # fmt: skip
    return spans


class SpanTexts:
    """What spans say, as it stands in the text of their passages, each of which is looked at once."""

    def __init__(self, passages: Mapping[int, Passage], tokenizer: Tokenizer) -> None:
        self._passages, self._tokenizer = passages, tokenizer
        self._encoded: dict[int, tuple[list[int], list[tuple[int, int]]]] = {}

    def characters(self, span: Span) -> tuple[int, int] | None:
        """The characters of the passage's text, end exclusive; None where that is of another tokenizer."""
        passage = self._passages[span.place]
        if span.place not in self._encoded:
            self._encoded[span.place] = self._tokenizer.encode_with_offsets(passage.text)
        return span_characters(passage.body_ids, span.start, span.stop, encoded=self._encoded[span.place])

    def text(self, span: Span) -> str:
        """Its words, in their own capitals and punctuation; in those of the vocabulary where the text has none."""
        passage, characters = self._passages[span.place], self.characters(span)
        if characters is None:
            return self._tokenizer.decode(list(passage.body_ids[span.start : span.stop]))
        return passage.text[slice(*characters)]
