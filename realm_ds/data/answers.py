"""What an answer is: the form in which answers are compared, and whether a text holds one.

Scores of predictions are eval/answers.py's, answers as wordpieces answer_spans.py's.

The rules are those of the open-domain QA literature as REALM's authors score it (spec: orqa eval_utils): NFD, lower
case, no ASCII punctuation, no articles, single spaces. Accents stay, unlike in DPR's script. Answers of CuratedTREC are
regular expressions, looked for in the text as it is, capitals or not. `regex` reads them as `re` does, and can be
stopped: some take longer than the age of the world.
"""

import functools
import logging
import re
import string
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import regex

from realm_ds.data.records import Question
from realm_ds.errors import DataError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_KEPT_PATTERNS = 8192
"""Compiled at a time; CuratedTREC has 2,180."""
LONGEST_MATCH_S = 5.0
"""Of one regex in one text, which takes microseconds: it can only be one that never ends."""
_given_up: set[str] = set()
"""Answers that took longer once: they match nothing from then on."""

log = logging.getLogger(__name__)


def normalise(text: str) -> str:
    """The form in which answers are compared.

    >>> normalise("The  U.S. Dollar (USD)")
    'us dollar usd'
    """
    lowered = unicodedata.normalize("NFD", text).lower()
    return " ".join(_ARTICLES.sub(" ", lowered.translate(_NO_PUNCTUATION)).split())


@functools.lru_cache(maxsize=_KEPT_PATTERNS)
def answer_pattern(answer: str) -> regex.Pattern[str]:
    """A regular expression that is an answer, ready to use; raises DataError for what is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of constructs that a later Python may read otherwise
            return regex.compile(answer, regex.IGNORECASE | regex.MULTILINE | regex.VERSION0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise DataError(f"the answer {answer!r} is no regular expression ({error}); mend it or leave it out") from error


def regex_matches(answer: str, text: str, *, at_start: bool = False) -> bool:
    """True where an answer that is a regular expression matches anywhere in the text, or at its start."""
    if answer in _given_up:
        return False
    pattern = answer_pattern(answer)
    try:
        return bool((pattern.match if at_start else pattern.search)(text, timeout=LONGEST_MATCH_S))
    except TimeoutError:
        log.warning(
            "the answer %r takes more than %g s to look for in %r...: it counts as found nowhere from here on; mend it",
            answer, LONGEST_MATCH_S, text[:40],
        )  # fmt: skip
        _given_up.add(answer)
        return False


def holds_answer(text: str, question: Question) -> bool:
    """True where a text holds any answer: as whole words, or as its regex says. One of nothing is held nowhere."""
    return AnswerFinder([text]).holding([0], question, at_least=1)[0]


class AnswerFinder:
    """Says which of some texts hold an answer; each is normalised once, however many questions it is held against."""

    def __init__(self, texts: Sequence[str] | Mapping[int, str]) -> None:
        self._texts = texts
        self._padded: dict[int, str] = {}

    def holding(self, places: Iterable[int], question: Question, *, at_least: int) -> list[bool]:
        """Whether `holds_answer` is true of the texts at these places, one after the other: up to the first of which it
        is, and of so many at least."""
        holds_here = self._test(question)
        holds: list[bool] = []
        for place in places:
            if len(holds) >= at_least and any(holds):
                break
            holds.append(holds_here(place))
        return holds

    def _test(self, question: Question) -> Callable[[int], bool]:
        if question.is_regex:
            return lambda place: any(regex_matches(answer, self._texts[place]) for answer in question.answers)
        wanted = [f" {answer} " for answer in map(normalise, question.answers) if answer]
        return lambda place: any(answer in self._normal(place) for answer in wanted)

    def _normal(self, place: int) -> str:
        if place not in self._padded:
            self._padded[place] = f" {normalise(self._texts[place])} "
        return self._padded[place]
