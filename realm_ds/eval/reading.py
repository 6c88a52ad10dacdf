"""Answers read from passages, whichever way a fine-tuned model reads them: as spans (spans.py) or as words (words.py).

For evaluation (qa.py) and for people who ask (answerer.py) alike.

Shapes: B questions, K passages read for each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from realm_ds.data.answers import normalise
from realm_ds.data.batches import Ids
from realm_ds.data.records import Passage, Question
from realm_ds.data.tokenizer import Tokenizer
from realm_ds.data.words import with_mask, word_answers, words_of
from realm_ds.eval.looking import Looked, Read, Said, source_of
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.eval.retrieval import softmax
from realm_ds.eval.spans import Span, SpanTexts, read_spans
from realm_ds.eval.words import best_words, look_at_words, word_in, word_probabilities
from realm_ds.models.readers import Reader, WordReader

SPANS_OF_A_PASSAGE = 20
"""The best, of which those that overlap a better one or say the same are no answers of their own."""
PAIRS_AT_ONCE = 256
"""Whose words are in memory together: 4 bytes a wordpiece of the vocabulary, 30 MB with BERT's."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One answer, and the passage that speaks for it."""

    text: str
    """As it stands in the passage, where it does."""
    p: float
    """Of spans the share among all spans of all passages read, of words p(y|q)."""
    place: int
    """The passage's, in the corpus."""
    characters: tuple[int, int] | None
    """Of the passage's text, end exclusive; None where it does not hold the answer."""


def read_answers(
    reader: Reader,
    questions: Sequence[Ids],
    places_BK: np.ndarray,
    scores_BK: np.ndarray,
    passages: Mapping[int, Passage],
    *,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
    most: int = 1,
) -> list[list[Reading]]:
    """Of each question up to `most` distinct answers, best first, from the passages at these places of the corpus,
    whose scores count as in training."""
    if isinstance(reader, WordReader):
        return _words(reader, questions, places_BK, scores_BK, passages, tokenizer=tokenizer, sizes=sizes, most=most)
    spans = read_spans(
        reader, questions, places_BK, scores_BK,
        lambda places: [passages[place].body_ids for place in places.tolist()], special=tokenizer.special, sizes=sizes,
        num_spans=SPANS_OF_A_PASSAGE if most > 1 else 1,
    )  # fmt: skip
    texts = SpanTexts(passages, tokenizer)
    return [
        [
            Reading(
                text=texts.text(span), p=float(np.exp(span.log_p)), place=span.place, characters=texts.characters(span)
            )
            for span in _distinct(of_one, texts, most=most)
        ]
        for of_one in spans
    ]


def look(
    reader: Reader,
    question: Ids,
    places_K: np.ndarray,
    scores_K: np.ndarray,
    passages: Mapping[int, Passage],
    *,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
    most: int,
) -> Looked:
    """One question with all passages at these places, its `most` best answers, and what each passage says."""
    places, p_K = places_K.tolist(), softmax(scores_K[None])[0]
    bodies = {place: passages[place].body_ids for place in places}
    if isinstance(reader, WordReader):
        asked = with_mask(question, special=tokenizer.special, max_tokens=sizes.question_tokens)
        p_KV = word_probabilities(
            reader, [(asked, bodies[place]) for place in places], special=tokenizer.special, sizes=sizes,
            vocab_size=tokenizer.vocab_size,
        )  # fmt: skip
        return look_at_words(
            p_K, p_KV, [passages[place] for place in places], tokenizer=tokenizer, words=words_of(tokenizer), most=most
        )
    (spans,) = read_spans(
        reader, [question], places_K[None], scores_K[None], lambda asked: [bodies[place] for place in asked.tolist()],
        special=tokenizer.special, sizes=sizes, num_spans=SPANS_OF_A_PASSAGE,
    )  # fmt: skip
    texts = SpanTexts(passages, tokenizer)
    answers = list(_distinct(spans, texts, most=most))
    read = []
    for place, p in zip(places, p_K.tolist(), strict=True):
        own = [span for span in spans if span.place == place]
        read.append(
            Read(
                passage=source_of(passages[place]), p=p, weight=float(np.exp(own[0].log_p_passage)) if own else 0.0,
                says=tuple(_said(answer, own, texts) for answer in answers),
                best=tuple(_said(span, [span], texts) for span in _distinct(own, texts, most=most)),
            )
        )  # fmt: skip
    told = tuple((texts.text(span), float(np.exp(span.log_p))) for span in answers)
    return Looked(answers=told, answer_by="span", read=tuple(read))


def are_answerable(reader: Reader, questions: Sequence[Question], tokenizer: Tokenizer) -> list[bool] | None:
    """Whether a reader that names one wordpiece can be right at all, of each question; None of one that reads spans.

    A regular expression counts where it is a plain word.
    """
    if isinstance(reader, WordReader):
        return [bool(answers) for answers in word_answers(questions, tokenizer)]
    return None


def _words(
    reader: WordReader,
    questions: Sequence[Ids],
    places_BK: np.ndarray,
    scores_BK: np.ndarray,
    passages: Mapping[int, Passage],
    *,
    tokenizer: Tokenizer,
    sizes: ReadingSizes,
    most: int,
) -> list[list[Reading]]:
    special, words, num_read = tokenizer.special, words_of(tokenizer), places_BK.shape[1]
    asked = [with_mask(question, special=special, max_tokens=sizes.question_tokens) for question in questions]
    p_z_BK, at_once = softmax(scores_BK), max(1, PAIRS_AT_ONCE // num_read)
    answers: list[list[Reading]] = []
    for start in range(0, len(asked), at_once):
        places = places_BK[start : start + at_once]
        pairs = [
            (question, passages[place].body_ids)
            for question, of_one in zip(asked[start:], places.tolist(), strict=False)
            for place in of_one
        ]
        p_RV = word_probabilities(reader, pairs, special=special, sizes=sizes, vocab_size=tokenizer.vocab_size)
        best = best_words(
            p_z_BK[start : start + at_once], p_RV.reshape(*places.shape, -1), is_word_V=words.is_word_V, most=most
        )
        for of_one, found in zip(places.tolist(), best, strict=True):
            answers.append([])
            for word in found:
                place = of_one[word.candidate]
                text, characters = word_in(passages[place], word.piece, tokenizer=tokenizer, words=words)
                answers[-1].append(Reading(text=text, p=word.p, place=place, characters=characters))
    return answers


def _said(answer: Span, own: Sequence[Span], texts: SpanTexts) -> Said:
    """Whether a passage says the same as an answer, by the spans of it that were looked at, best first."""
    p_own = [float(np.exp(span.log_p - span.log_p_passage)) for span in own]
    same = [number for number, span in enumerate(own) if _says(span, texts) == _says(answer, texts)]
    places = sorted({characters for number in same if (characters := texts.characters(own[number])) is not None})
    return Said(
        text=texts.text(answer), p=p_own[same[0]] if same else 0.0,
        at_most=p_own[-1] if not same and len(own) == SPANS_OF_A_PASSAGE else 0.0, spans=tuple(places),
    )  # fmt: skip


def _says(span: Span, texts: SpanTexts) -> str:
    return normalise(texts.text(span))


def _distinct(spans: Sequence[Span], texts: SpanTexts, *, most: int) -> Iterator[Span]:
    """The first spans that say something new: not what a better one says, and no part of it or around it.

    What such a part says is no answer elsewhere either: its best span would not be among those returned.
    """
    said: set[str] = set()
    taken: list[Span] = []
    for span in spans:
        if len(taken) == most:
            return
        text = _says(span, texts)
        is_new = text not in said
        said.add(text)
        if is_new and not any(
            span.place == other.place and span.start < other.stop and other.start < span.stop for other in taken
        ):
            taken.append(span)
            yield span
