"""One question seen whole: every passage that was read for it, what each says, and what it was worth.

Plain data and sums of it. Who looks is words.py and reading.py.
"""

import math
from dataclasses import dataclass

from realm_ds.config.base import AnswerBy
from realm_ds.data.records import Passage
from realm_ds.observe.answers import Source


@dataclass(frozen=True, kw_only=True)
class Said:
    """A word or a span, and how probable one passage alone makes it."""

    text: str
    p: float
    """p(y|z, x); of a span that of the best place where the passage says so, not their sum."""
    at_most: float = 0.0
    """Where p is 0, what it may be: less than the least of the best spans, which alone are looked at."""
    spans: tuple[tuple[int, int], ...] = ()
    """Where the passage's text holds it: characters, end exclusive."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A passage that was read."""

    passage: Source | None
    """None: the null passage, which says nothing."""
    p: float
    """p(z|x): how sure the retriever is of it."""
    weight: float
    """What p(y|z, x) counts with in p(y|x). Of words p(z|x); of spans the share of the passage's among all, which the
    retriever's score and the reader's have made together."""
    says: tuple[Said, ...]
    """Each of the question's answers, in their order."""
    best: tuple[Said, ...]
    """What it says by itself, best first."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A question with all that was read for it, or with what is wrong with it."""

    question: str = ""
    answers: tuple[tuple[str, float], ...] = ()
    """With their p(y|x), best first: of words the sum over `read` of weight times p(y|z, x), of spans the greatest."""
    answer_by: AnswerBy = "masked_word"
    """What the answers are."""
    read: tuple[Read, ...] = ()
    """By p(z|x), best first."""
    problem: str = ""
    """Why there is no answer."""
    remark: str = ""
    """What of the question was not read."""

    @property
    def null(self) -> Read | None:
        """The null passage; None where it is no candidate."""
        return next((read for read in self.read if read.passage is None), None)

    def utility(self, read: Read, answer: int) -> float | None:
        """log p(y|z, x) - log p(y|null, x) in nats: the retrieval utility of a passage for one of the answers."""
        if self.null is None or read.passage is None:
            return None
        p, p_null = read.says[answer].p, self.null.says[answer].p
        return math.log(p) - math.log(p_null) if p > 0 and p_null > 0 else None


def source_of(passage: Passage) -> Source:
    """A passage as answers tell it."""
    return Source(uid=passage.uid, title=passage.title, text=passage.text)
