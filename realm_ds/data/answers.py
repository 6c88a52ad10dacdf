"""What an answer is: the form in which answers are compared, and whether a text holds one.

Scores of predictions are eval/answers.py's, answers as wordpieces answer_spans.py's.

The rules are those of the open-domain QA literature as REALM's authors score it (spec: orqa eval_utils): NFD, lower
case, no ASCII punctuation, no articles, single spaces. Accents stay, unlike in DPR's script. Answers of CuratedTREC are
regular expressions, looked for in the text as it is, capitals or not.
"""

import functools
import re
import string
import unicodedata
import warnings

from realm_ds.data.records import Question
from realm_ds.errors import DataError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_KEPT_PATTERNS = 8192
"""Compiled at a time; CuratedTREC has 2,180."""


def normalise(text: str) -> str:
    """The form in which answers are compared.

    >>> normalise("The  U.S. Dollar (USD)")
    'us dollar usd'
    """
    lowered = unicodedata.normalize("NFD", text).lower()
    return " ".join(_ARTICLES.sub(" ", lowered.translate(_NO_PUNCTUATION)).split())


@functools.lru_cache(maxsize=_KEPT_PATTERNS)
def answer_pattern(regex: str) -> re.Pattern[str]:
    """A regular expression that is an answer, ready to use; raises DataError for what is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of constructs that a later Python may read otherwise
            return re.compile(regex, re.IGNORECASE | re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        raise DataError(f"the answer {regex!r} is no regular expression ({error}); mend it or leave it out") from error


def holds_answer(text: str, question: Question) -> bool:
    """True where a text holds any answer: as whole words, or as its regex says. One of nothing is held nowhere."""
    if question.is_regex:
        return any(answer_pattern(answer).search(text) for answer in question.answers)
    padded = f" {normalise(text)} "
    return any(f" {wanted} " in padded for wanted in map(normalise, question.answers) if wanted)
