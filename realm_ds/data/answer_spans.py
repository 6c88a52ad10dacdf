"""Where answers stand in passages, on wordpiece ids, and the characters of a span. Scoring spans is models/reader.py's.

Shapes: T wordpieces of several passages one after the other, R passages, S spans found, L tokens of a padded row,
W span widths, V vocabulary. `offsets` (R + 1) says where each passage begins and ends in the T wordpieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class AnswerSpans:
    """Occurrences of answers: the passage, first wordpiece and one past the last, within the passage's body."""

    row_S: np.ndarray
    start_S: np.ndarray
    stop_S: np.ndarray


def find_answer_spans(
    tokens_T: np.ndarray,
    offsets: np.ndarray,
    answers: Sequence[Sequence[int]],
    *,
    max_span_tokens: int | None = None,
    continues_word_V: np.ndarray | None = None,
) -> AnswerSpans:
    """Every occurrence of every answer in R bodies, sorted, each once; answers wider than the widest span are left out.

    `continues_word_V` says which ids are inner pieces of a word (##x): an occurrence followed by one is another word
    (niger in niger ##ia) and does not count. ORQA counts it; the labels are cleaner without.
    """
    found = [np.empty((0, 3), dtype=np.int64)]
    for answer in {tuple(answer) for answer in answers}:
        if not answer or (max_span_tokens is not None and len(answer) > max_span_tokens):
            continue
        starts = _occurrences(tokens_T, answer)
        stops = starts + len(answer)
        rows = np.searchsorted(offsets, starts, side="right") - 1
        is_inside = stops <= offsets[rows + 1]
        if continues_word_V is not None:
            next_tokens = tokens_T[np.minimum(stops, len(tokens_T) - 1)]
            is_inside &= (stops == offsets[rows + 1]) | ~continues_word_V[next_tokens]
        rows, starts, stops = rows[is_inside], starts[is_inside], stops[is_inside]
        found.append(np.stack([rows, starts - offsets[rows], stops - offsets[rows]], axis=1))
    spans_S3 = np.unique(np.concatenate(found), axis=0)
    return AnswerSpans(row_S=spans_S3[:, 0], start_S=spans_S3[:, 1], stop_S=spans_S3[:, 2])


def gold_span_mask(
    spans: AnswerSpans, body_starts_R: np.ndarray, *, num_tokens: int, max_span_tokens: int
) -> np.ndarray:
    """Bool [R, L, W] for the reader: True at (row, first token, width - 1) of each span that fits in the L tokens.

    `body_starts_R` is where each body begins in its padded joint sequence.
    """
    is_gold_RLW = np.zeros((len(body_starts_R), num_tokens, max_span_tokens), dtype=bool)
    width_S = spans.stop_S - spans.start_S
    start_S = body_starts_R[spans.row_S] + spans.start_S
    fits_S = (width_S <= max_span_tokens) & (start_S + width_S <= num_tokens)
    is_gold_RLW[spans.row_S[fits_S], start_S[fits_S], width_S[fits_S] - 1] = True
    return is_gold_RLW


def span_characters(
    body_ids: Sequence[int], start: int, stop: int, *, encoded: tuple[Sequence[int], Sequence[tuple[int, int]]]
) -> tuple[int, int] | None:
    """The characters of a passage's text, end exclusive, that wordpieces [start, stop) of its body stand for.

    `encoded` is the text as ids and offsets. None where these are not `body_ids` (a body cut short, another
    tokenizer), which only happens to passages that are not ours.
    """
    ids, offsets = encoded
    if tuple(ids) != tuple(body_ids):
        return None
    return offsets[start][0], offsets[stop - 1][1]


def _occurrences(tokens_T: np.ndarray, answer: tuple[int, ...]) -> np.ndarray:
    """First places of a run of ids: each further id is looked at only where those before it matched."""
    starts = np.flatnonzero(tokens_T[: max(0, len(tokens_T) - len(answer) + 1)] == answer[0])
    for distance, wanted in enumerate(answer[1:], start=1):
        starts = starts[tokens_T[starts + distance] == wanted]
    return starts
