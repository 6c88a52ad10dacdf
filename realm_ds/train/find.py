"""Passages for training questions, and what in them is an answer. The search itself is passage_index.py's business.

Shapes: B questions of a micro-batch, N passages retrieved for each, K of them read, R = B x K, L tokens, W span widths,
P embedding, S spans, A answers.
"""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from realm_ds.config.stages import QaConfig
from realm_ds.data.answer_spans import AnswerSpans, find_answer_spans, gold_span_mask
from realm_ds.data.batches import pad, passage_batch
from realm_ds.data.records import Question
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.data.words import with_mask, word_answers, words_of
from realm_ds.eval.corpus import tensors
from realm_ds.eval.pairs import ReadingSizes, joint_tokens
from realm_ds.index.merge import Candidates, Hit
from realm_ds.models.qa import QaBatch
from realm_ds.models.readers import FoundPassages, ReadPart, RightSpans, RightWords
from realm_ds.models.towers import TokenBatch
from realm_ds.train.timing import StepTimer

Retrieve = Callable[[np.ndarray, int], Candidates]
"""The best passages for vectors [B, P], so many for each, with tokens and vectors."""
READ_BUCKETS = 2
"""Forward passes of the reader in a micro-batch, each over sequences of like length, for less padding."""


class PassageFinder:
    """Finds passages for questions of the training set and marks what in them is right, all from wordpieces in memory.

    A passage holds an answer where it stands there word for word, as in ORQA: those in titles do not count, since the
    reader sees none. Right are these spans or, where a masked word is asked for, the answers of one wordpiece, which
    every question must have then.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        retrieve: Retrieve,
        *,
        tokenizer: Tokenizer,
        settings: QaConfig,
        sizes: ReadingSizes,
        timer: StepTimer,
    ) -> None:
        self._retrieve, self._settings, self._sizes, self._timer = retrieve, settings, sizes, timer
        self._special = tokenizer.special
        self.question_ids = tokenizer.encode_questions([question.question for question in questions])
        self._answers = [tokenizer.encode_all(question.answers) for question in questions]
        self._continues_word_V = words_of(tokenizer).continues_V
        self._as_read, self._word_answers = self.question_ids, list[tuple[int, ...]]()
        if settings.answer_by == "masked_word":
            max_tokens = sizes.question_tokens
            self._as_read = [with_mask(ids, special=self._special, max_tokens=max_tokens) for ids in self.question_ids]
            self._word_answers = word_answers(questions, tokenizer)
        self._digest = 0

    def __call__(self, batch: QaBatch, query_BP: Tensor) -> FoundPassages:
        """The `retrieve` best passages of each question, and of these the `read` to read."""
        queries_BP = query_BP.float().cpu().numpy()  # Waits for a GPU: that is the forward pass, within which this is.
        with self._timer.phase("queries"):
            return self._find(batch, queries_BP, device=query_BP.device)

    def _find(self, batch: QaBatch, queries_BP: np.ndarray, *, device: torch.device) -> FoundPassages:
        settings = self._settings
        found = self._retrieve(queries_BP, settings.retrieve)
        assert found.vectors_BKP is not None
        self._digest = zlib.crc32(found.uids_BK.tobytes(), self._digest)
        spans_B = [self._spans(number, found, row) for row, number in enumerate(batch.numbers)]
        holds_BN = np.zeros(found.uids_BK.shape, dtype=bool)
        for row, spans in enumerate(spans_B):
            holds_BN[row, spans.row_S] = True
        read_BK = np.stack([choose_read(holds, self._sizes.read, settings.read_one_with_answer) for holds in holds_BN])
        parts, body_starts_R = self._joint(batch, found, read_BK, device)
        if settings.answer_by == "masked_word":
            right: RightSpans | RightWords = self._right_words(batch, device)
        else:
            num_tokens = max(part.joint.ids_NL.shape[1] for part in parts)
            right = self._right_spans(spans_B, read_BK, body_starts_R, num_tokens, device)
        return FoundPassages(
            vectors_BNP=torch.from_numpy(found.vectors_BKP).to(device),
            holds_answer_BN=torch.from_numpy(holds_BN).to(device),
            read_BK=torch.from_numpy(read_BK).to(device),
            parts=parts,
            right=right,
        )

    def take_digest(self) -> int:
        """Of the uids found since the last call: two runs of one seed can be held against each other."""
        digest, self._digest = self._digest, 0
        return digest

    def _spans(self, number: int, found: Candidates, row: int) -> AnswerSpans:
        """Answers of one question in the bodies of its passages."""
        return find_answer_spans(
            *found.bodies(row), self._answers[number], continues_word_V=self._continues_word_V
        )  # fmt: skip

    def _joint(
        self, batch: QaBatch, found: Candidates, read_BK: np.ndarray, device: torch.device
    ) -> tuple[tuple[ReadPart, ...], np.ndarray]:
        """Joint sequences of all pairs in buckets, and where the body begins in each."""
        hits = [found.hit(row, place) for row, places in enumerate(read_BK.tolist()) for place in places]
        questions = [self._as_read[number] for number in batch.numbers for _ in range(read_BK.shape[1])]
        pairs = [(question, hit.body_ids) for question, hit in zip(questions, hits, strict=True)]
        body_starts_R = np.empty(len(pairs), dtype=np.int64)
        parts = []
        by_length = np.argsort([len(question) + len(body) for question, body in pairs], kind="stable")
        for rows in np.array_split(by_length, min(READ_BUCKETS, len(pairs))):
            tokens, body_starts_R[rows] = joint_tokens(
                [pairs[row] for row in rows], special=self._special, sizes=self._sizes
            )
            passages = self._passages([hits[row] for row in rows], device)
            rows_R = torch.from_numpy(rows).to(device)
            parts.append(ReadPart(joint=tensors(tokens, device), rows_R=rows_R, passages=passages))
        return tuple(parts), body_starts_R

    def _right_spans(
        self,
        spans_B: Sequence[AnswerSpans],
        read_BK: np.ndarray,
        body_starts_R: np.ndarray,
        num_tokens: int,
        device: torch.device,
    ) -> RightSpans:
        """Which spans of the joint sequences are answers."""
        read = read_BK.shape[1]
        spans = _together([_of_read(found, read_BK[row], first_row=row * read) for row, found in enumerate(spans_B)])
        is_gold_RLW = gold_span_mask(
            spans, body_starts_R, num_tokens=num_tokens, max_span_tokens=self._settings.max_span_tokens
        )
        return RightSpans(torch.from_numpy(is_gold_RLW).unflatten(0, read_BK.shape).to(device))

    def _right_words(self, batch: QaBatch, device: torch.device) -> RightWords:
        """Where the questions ask, and what for."""
        # [CLS] comes first.
        places_B = np.array([1 + self._as_read[number].index(self._special.mask) for number in batch.numbers])
        answers_BA, is_answer_BA = pad([self._word_answers[number] for number in batch.numbers])
        return RightWords(
            mask_places_B=torch.from_numpy(places_B).to(device),
            answers_BA=torch.from_numpy(answers_BA).to(device),
            is_answer_BA=torch.from_numpy(is_answer_BA == 1).to(device),
        )

    def _passages(self, hits: Sequence[Hit], device: torch.device) -> TokenBatch | None:
        """What is to be embedded anew."""
        if not self._settings.refresh_passages:
            return None
        pairs = [(hit.title_ids, hit.body_ids) for hit in hits]
        return tensors(passage_batch(pairs, special=self._special, max_tokens=self._sizes.passage_tokens), device)


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
