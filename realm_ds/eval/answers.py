"""Is a predicted answer right: exact match, or a match of its regex; token F1. What an answer is: data/answers.py."""

from collections import Counter
from collections.abc import Sequence

from realm_ds.data.answers import normalise, regex_matches
from realm_ds.data.records import Question


def is_right(prediction: str, question: Question) -> bool:
    """True where the prediction equals any accepted answer once both are normalised, or begins as its regex says.

    As REALM's authors score CuratedTREC: the regex is matched at the start of the prediction as it was made.
    """
    if question.is_regex:
        return any(regex_matches(answer, prediction, at_start=True) for answer in question.answers)
    predicted = normalise(prediction)
    return any(predicted == normalise(answer) for answer in question.answers)


def token_f1(prediction: str, question: Question) -> float:
    """Best F1 of shared words over the accepted answers; two empty strings agree. A regex has no words: 1 or 0."""
    if question.is_regex:
        return float(is_right(prediction, question))
    predicted = normalise(prediction).split()
    return max((_f1(predicted, normalise(answer).split()) for answer in question.answers), default=0.0)


def _f1(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    if not predicted or not wanted:
        return float(not predicted and not wanted)
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted))
