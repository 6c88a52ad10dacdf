"""Words that a text must hold for a regular expression to match: thousands of regexes are ruled out by one look.

CuratedTREC's 1,332 training answers take 70 ms a passage one by one, ten days for Wikipedia. Nearly all of them need
some fixed string, and all fixed strings are found together in one pass over the text (coverage.py).
"""

import re
from collections.abc import Iterable
from re import _constants, _parser  # type: ignore[attr-defined]  # nobody's API: a test watches over it
from typing import Any

Literals = frozenset[str]


def fold(text: str) -> str:
    """A form in which whatever a regex takes for the same letter, capitals or not, is the same."""
    # Of the few letters with two small forms (s and U+017F, i and U+0131) only the capital is one. U+0130 is two then.
    return text.lower().upper().replace("\u0307", "")


def required_literals(regex: str) -> Literals | None:
    """Folded strings of which every text that the regex matches holds one at least; None where there are no such.

    >>> sorted(required_literals("20,?320 f(ee|oo)t"))
    ['320 F']
    """
    return _of_sequence(_parser.parse(regex, re.IGNORECASE | re.MULTILINE))


def _of_sequence(items: Iterable[tuple[Any, Any]]) -> Literals | None:
    found: list[Literals] = []
    run = ""
    for kind, value in items:
        if kind is _constants.LITERAL:
            run += chr(value)
            continue
        found.extend(filter(None, (_of_run(run), _of_item(kind, value))))
        run = ""
    found.extend(filter(None, (_of_run(run),)))
    # The longest strings are the rarest.
    return max(found, key=lambda literals: (min(map(len, literals)), -len(literals)), default=None)


def _of_run(run: str) -> Literals | None:
    folded = fold(run)
    return frozenset((folded,)) if folded else None


def _of_item(kind: Any, value: Any) -> Literals | None:
    match kind, value:
        case _constants.SUBPATTERN, (_, _, _, inner):
            return _of_sequence(inner)
        case ((_constants.MAX_REPEAT | _constants.MIN_REPEAT), (least, _, inner)) if least > 0:
            return _of_sequence(inner)
        case _constants.BRANCH, (_, branches):
            every = [_of_sequence(branch) for branch in branches]
            known = [literals for literals in every if literals is not None]
            return frozenset().union(*known) if len(known) == len(every) else None
    return None
