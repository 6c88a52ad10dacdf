"""Words named at a [MASK]: how likely each is given a passage, which are best over all, and how one stands in a text.

For pre-trained models (cloze.py) and for fine-tuned ones that answer so (reading.py) alike.

Shapes: B questions, C candidates of each (the null passage first, where there is one), R pairs of a question and a
passage, V vocabulary, Y words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from realm_ds.data.answer_spans import find_answer_spans, span_characters
from realm_ds.data.records import Passage, SpecialIds
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.data.words import Words
from realm_ds.eval.corpus import tensors
from realm_ds.eval.looking import Looked, Read, Said, source_of
from realm_ds.eval.pairs import Pair, ReadingSizes, joint_buckets, joint_tokens
from realm_ds.models.readers import WordReader


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word as an answer."""

    piece: int
    p: float
    """p(y|x), the sum over candidates."""
    candidate: int
    """The passage that most of it comes through; the null passage is none, and not counted."""


@torch.inference_mode()
def word_probabilities(
    reader: WordReader, pairs: Sequence[Pair], *, special: SpecialIds, sizes: ReadingSizes, vocab_size: int
) -> np.ndarray:
    """p(y|z, x) of every wordpiece at the first [MASK] of each pair's question, float32 [R, V]."""
    reader.eval()
    device = next(reader.parameters()).device
    places_R = np.array([1 + list(question).index(special.mask) for question, _ in pairs])  # [CLS] comes first
    p_RV = np.empty((len(pairs), vocab_size), dtype=np.float32)
    for rows in joint_buckets(pairs, sizes=sizes):
        tokens, _ = joint_tokens([pairs[row] for row in rows], special=special, sizes=sizes)
        log_p_RV = reader(tensors(tokens, device), torch.from_numpy(places_R[rows, None]).to(device))
        p_RV[rows] = log_p_RV[:, :vocab_size].exp().cpu().numpy()
    return p_RV


def best_words(
    p_z_BC: np.ndarray, p_y_BCV: np.ndarray, *, is_word_V: np.ndarray, most: int, num_null: int = 0
) -> list[list[Word]]:
    """The likeliest words of each question by the marginal over its candidates, of which the first `num_null` are null
    passages."""
    joint_BCV = p_z_BC[:, :, None] * p_y_BCV
    p_BV = np.where(is_word_V, joint_BCV.sum(axis=1), -1.0)
    words_BY = np.argsort(-p_BV, axis=1, kind="stable")[:, : min(most, int(is_word_V.sum()))]
    return [
        [
            Word(piece=word, p=float(p_V[word]), candidate=int(joint_CV[num_null:, word].argmax()))
            for word in words_Y.tolist()
        ]
        for words_Y, p_V, joint_CV in zip(words_BY, p_BV, joint_BCV, strict=True)
    ]


def word_in(passage: Passage, piece: int, *, tokenizer: Tokenizer, words: Words) -> tuple[str, tuple[int, int] | None]:
    """A word and its characters in a passage, in the passage's own letters where that holds it."""
    span = next(iter(places_of_word(passage, piece, tokenizer=tokenizer, words=words)), None)
    return (tokenizer.decode([piece]) if span is None else passage.text[slice(*span)]), span


def places_of_word(
    passage: Passage, piece: int, *, tokenizer: Tokenizer, words: Words
) -> tuple[tuple[int, int], ...]:  # fmt: skip
    """The characters of the passage's text that are this word, each end exclusive."""
    body_T = np.array(passage.body_ids)
    found = find_answer_spans(
        body_T, np.array([0, len(body_T)]), [(piece,)], continues_word_V=words.continues_V
    )  # fmt: skip
    if not len(found.start_S):
        return ()
    encoded = tokenizer.encode_with_offsets(passage.text)
    starts = found.start_S.tolist()
    spans = (span_characters(passage.body_ids, start, start + 1, encoded=encoded) for start in starts)
    return tuple(span for span in spans if span is not None)


def look_at_words(
    p_z_C: np.ndarray, p_y_CV: np.ndarray, passages: Sequence[Passage | None], *, tokenizer: Tokenizer, words: Words,
    most: int,
) -> Looked:  # fmt: skip
    """One question with all its candidates, None the null passage: its best words, and what each candidate says."""

    def best(p_V: np.ndarray) -> list[int]:
        found: list[int] = np.argsort(-np.where(words.is_word_V, p_V, -1.0), kind="stable")[:most].tolist()
        return found

    def said(piece: int, passage: Passage | None, p_V: np.ndarray) -> Said:
        spans = places_of_word(passage, piece, tokenizer=tokenizer, words=words) if passage is not None else ()
        return Said(text=tokenizer.decode([piece]), p=float(p_V[piece]), spans=spans)

    p_V = p_z_C @ p_y_CV
    answers = best(p_V)
    read = [
        Read(
            passage=None if passage is None else source_of(passage), p=p, weight=p,
            says=tuple(said(piece, passage, own_V) for piece in answers),
            best=tuple(said(piece, passage, own_V) for piece in best(own_V)),
        )
        for passage, p, own_V in zip(passages, p_z_C.tolist(), p_y_CV, strict=True)
    ]  # fmt: skip
    return Looked(
        answers=tuple((tokenizer.decode([piece]), float(p_V[piece])) for piece in answers),
        read=tuple(sorted(read, key=lambda of_one: -of_one.p)),
    )
