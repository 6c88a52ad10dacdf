"""Passages for training questions, and what in them is an answer. The search itself is eval/corpus.py's business.

Shapes: B questions of a micro-batch, N passages retrieved for each, K of them read, R = B x K, L tokens, W span widths,
P embedding, S spans, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from realm_ds.config.stages import QaConfig
from realm_ds.data.answer_spans import AnswerSpans, find_answer_spans, gold_span_mask
from realm_ds.data.records import Question
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.eval.corpus import CorpusIndex, tensors
from realm_ds.eval.reading import ReadingSizes, joint_tokens
from realm_ds.models.qa import FoundPassages, QaBatch, ReadPart

READ_BUCKETS = 2
"""Forward passes of the reader in a micro-batch, each over sequences of like length, for less padding."""


class PassageFinder:
    """Finds passages for questions of the training set and marks what in them is right, all from wordpieces in memory.

    Right is what stands there word for word, as in ORQA: answers in titles do not count, since the reader sees none.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        corpus: CorpusIndex,
        *,
        tokenizer: Tokenizer,
        settings: QaConfig,
        sizes: ReadingSizes,
    ) -> None:
        self._corpus, self._settings, self._sizes = corpus, settings, sizes
        self._special = tokenizer.special
        self.question_ids = tokenizer.encode_questions([question.question for question in questions])
        self._answers = [tokenizer.encode_all(question.answers) for question in questions]
        pieces = tokenizer.tokens(range(tokenizer.vocab_size))
        self._continues_word_V = np.array([piece.startswith("##") for piece in pieces])

    def __call__(self, batch: QaBatch, query_BP: Tensor) -> FoundPassages:
        """The `retrieve` best passages of each question, and of these the `read` to read."""
        settings, device = self._settings, query_BP.device
        places_BN = self._corpus.search(query_BP.float().cpu().numpy(), num_hits=settings.retrieve).places_BK
        spans_B = [self._spans(number, places) for number, places in zip(batch.numbers, places_BN, strict=True)]
        holds_BN = np.zeros(places_BN.shape, dtype=bool)
        for row, spans in enumerate(spans_B):
            holds_BN[row, spans.row_S] = True
        read_BK = np.stack([choose_read(holds, self._sizes.read, settings.read_one_with_answer) for holds in holds_BN])
        parts, is_gold_RLW = self._joint(
            batch, np.take_along_axis(places_BN, read_BK, axis=1), read_BK, spans_B, device
        )
        return FoundPassages(
            vectors_BNP=torch.from_numpy(self._corpus.vectors_NP[places_BN]).to(device),
            holds_answer_BN=torch.from_numpy(holds_BN).to(device),
            read_BK=torch.from_numpy(read_BK).to(device),
            parts=parts,
            is_gold_BKLW=torch.from_numpy(is_gold_RLW).unflatten(0, read_BK.shape).to(device),
        )

    def _spans(self, number: int, places: np.ndarray) -> AnswerSpans:
        """Answers of one question in the bodies of some passages; `row_S` counts those passages."""
        tokens_T, offsets = self._corpus.tokens(places)
        spans = find_answer_spans(tokens_T, offsets, self._answers[number], continues_word_V=self._continues_word_V)
        in_body = spans.row_S % 2 == 1
        return AnswerSpans(
            row_S=spans.row_S[in_body] // 2, start_S=spans.start_S[in_body], stop_S=spans.stop_S[in_body]
        )

    def _joint(
        self,
        batch: QaBatch,
        places_BK: np.ndarray,
        read_BK: np.ndarray,
        spans_B: Sequence[AnswerSpans],
        device: torch.device,
    ) -> tuple[tuple[ReadPart, ...], np.ndarray]:
        """Joint sequences of all pairs in buckets, and which of their spans are answers (R, L, W)."""
        pairs = [
            (self.question_ids[number], body)
            for number, places in zip(batch.numbers, places_BK, strict=True)
            for body in self._corpus.bodies(places)
        ]
        body_starts_R = np.empty(len(pairs), dtype=np.int64)
        parts, num_tokens = [], 0
        by_length = np.argsort([len(question) + len(body) for question, body in pairs], kind="stable")
        for rows in np.array_split(by_length, min(READ_BUCKETS, len(pairs))):
            tokens, body_starts_R[rows] = joint_tokens(
                [pairs[row] for row in rows], special=self._special, sizes=self._sizes
            )
            parts.append(ReadPart(joint=tensors(tokens, device), rows_R=torch.from_numpy(rows).to(device)))
            num_tokens = max(num_tokens, tokens.ids_BL.shape[1])
        read = read_BK.shape[1]
        spans = _together([_of_read(found, read_BK[row], first_row=row * read) for row, found in enumerate(spans_B)])
        is_gold_RLW = gold_span_mask(
            spans, body_starts_R, num_tokens=num_tokens, max_span_tokens=self._settings.max_span_tokens
        )
        return tuple(parts), is_gold_RLW


def choose_read(holds_answer_N: np.ndarray, read: int, read_one_with_answer: bool) -> np.ndarray:
    """Which of N retrieved passages, best first, to read: the first K; if asked for, with one that holds an answer."""
    chosen = np.arange(min(read, len(holds_answer_N)))
    if read_one_with_answer and holds_answer_N.any() and not holds_answer_N[: len(chosen)].any():
        chosen[-1] = holds_answer_N.argmax()
    return chosen


def _of_read(spans: AnswerSpans, read_K: np.ndarray, *, first_row: int) -> AnswerSpans:
    """Spans in the passages that are read, with rows counted in the joint batch."""
    is_read_SK = spans.row_S[:, None] == read_K
    kept = is_read_SK.any(axis=1)
    return AnswerSpans(
        row_S=first_row + is_read_SK[kept].argmax(axis=1), start_S=spans.start_S[kept], stop_S=spans.stop_S[kept]
    )


def _together(parts: Sequence[AnswerSpans]) -> AnswerSpans:
    return AnswerSpans(
        row_S=np.concatenate([part.row_S for part in parts]),
        start_S=np.concatenate([part.start_S for part in parts]),
        stop_S=np.concatenate([part.stop_S for part in parts]),
    )
