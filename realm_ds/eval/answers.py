"""Is a predicted answer right: exact match, token F1. Finding passages is retrieval.py's business.

The rules are those of the open-domain QA literature as REALM's authors score it (spec: orqa eval_utils): NFD, lower
case, no ASCII punctuation, no articles, single spaces. Accents stay, unlike in DPR's script.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """The form in which answers are compared.

    >>> normalise("The  U.S. Dollar (USD)")
    'us dollar usd'
    """
    lowered = unicodedata.normalize("NFD", text).lower()
    return " ".join(_ARTICLES.sub(" ", lowered.translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """True where the prediction equals any accepted answer once both are normalised."""
    predicted = normalise(prediction)
    return any(predicted == normalise(answer) for answer in answers)


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 of shared words over the accepted answers; two empty strings agree."""
    predicted = normalise(prediction).split()
    return max((_f1(predicted, normalise(answer).split()) for answer in answers), default=0.0)


def holds_answer(normalised_text: str, answers: Sequence[str]) -> bool:
    """True where a normalised text holds any answer as whole words; an answer of nothing is held nowhere."""
    padded = f" {normalised_text} "
    return any(f" {wanted} " in padded for wanted in map(normalise, answers) if wanted)


def _f1(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    if not predicted or not wanted:
        return float(not predicted and not wanted)
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted))
