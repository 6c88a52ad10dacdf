"""Questions as people ask them, and what they are told: which can be answered, and in batches.

Who answers is answerer.py (fine-tuned models) and cloze.py (pre-trained ones).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from realm_ds.data.question_files import fault_of_text
from realm_ds.errors import ConfigError
from realm_ds.eval.exported import Exported
from realm_ds.eval.looking import Looked
from realm_ds.observe.answers import Answer, Answered

QUESTIONS_AT_ONCE = 64
MOST_CHARACTERS = 100_000
"""Of a question: more is no question but a file gone astray."""


class Answerer(ABC):
    """An opened export that answers questions."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported
        self._special = exported.tokenizer.special
        self._sizes = exported.settings.sizes

    def answer(self, questions: str | Iterable[str], *, top: int = 5) -> list[Answered]:
        """Up to `top` answers of each question, in order. A bad question has a `problem` instead, and stops none."""
        return list(self.answer_each([questions] if isinstance(questions, str) else questions, top=top))

    def answer_each(
        self, questions: Iterable[object], *, top: int = 5, at_once: int = QUESTIONS_AT_ONCE
    ) -> Iterator[Answered]:
        """The same one after the other, while the questions come: after every `at_once` of them."""
        if top < 1:
            raise ConfigError(f"top={top}: ask for at least one answer")
        waiting = iter(questions)
        while batch := list(islice(waiting, at_once)):
            yield from self._answer_batch(batch, top)

    def look(self, question: str, *, top: int = 5) -> Looked:
        """One question with all passages that were read for it, and what each says of the `top` best answers."""
        if problem := _problem(question):
            return Looked(question=_shown(question), problem=problem)
        (ids,) = self._exported.tokenizer.encode_questions([question])
        longest = self._sizes.question_tokens - 2
        if fault := self._fault(ids[:longest]):
            return Looked(question=question, problem=fault)
        return replace(self._look(ids[:longest], top), question=question, remark=_remark(len(ids), longest))

    def _answer_batch(self, questions: Sequence[object], top: int) -> list[Answered]:
        problems = [_problem(question) for question in questions]
        good = [str(question) for question, problem in zip(questions, problems, strict=True) if not problem]
        longest = self._sizes.question_tokens - 2
        encoded = self._exported.tokenizer.encode_questions(good)
        faults = [self._fault(ids[:longest]) for ids in encoded]
        asked = [ids[:longest] for ids, fault in zip(encoded, faults, strict=True) if not fault]
        found = iter(self._answers(asked, top) if asked else ())
        told = iter(
            Answered(question=question, problem=fault)
            if fault
            else Answered(question=question, answers=next(found), remark=_remark(len(ids), longest))
            for question, ids, fault in zip(good, encoded, faults, strict=True)
        )
        return [
            Answered(question=_shown(question), problem=problem) if problem else next(told)
            for question, problem in zip(questions, problems, strict=True)
        ]

    def _fault(self, ids: Sequence[int]) -> str:
        """Why a question of these wordpieces cannot be answered; nothing where it can."""
        if not ids:
            return "nothing in it is a word"
        if all(piece == self._special.unk for piece in ids):
            return "none of its words is made of wordpieces of the model's vocabulary"
        return ""

    @abstractmethod
    def _answers(self, questions: Sequence[Sequence[int]], top: int) -> list[tuple[Answer, ...]]:
        """Answers of good questions, given as wordpieces."""

    @abstractmethod
    def _look(self, question: Sequence[int], top: int) -> Looked:
        """One good question seen whole."""


def _problem(question: object) -> str:
    if not isinstance(question, str):
        return f"a question is a text, not of the type {type(question).__name__}"
    if not question.strip():
        return "the question is empty"
    if len(question) > MOST_CHARACTERS:
        return f"{len(question):,} characters are no question: at most {MOST_CHARACTERS:,}"
    return fault_of_text(question)


def _remark(num_pieces: int, longest: int) -> str:
    return f"only the first {longest} of its {num_pieces:,} wordpieces were read" if num_pieces > longest else ""


def _shown(question: object) -> str:
    text = question if isinstance(question, str) else repr(question)
    return text if len(text) <= 200 else f"{text[:200]}..."
