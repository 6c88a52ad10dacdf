"""Salient spans of a text by rule: dates, numbers with units, proper names. A named-entity model is another finder.

Dates come in these forms (Month is a full English name, the century may carry B.C. or A.D.):
    5 July 1962 | 5-7 July 1962 | July 5, 1962 | July 1962 | 5 July | mid-July 1962 | 1962 | 1992-98 | the 1990s |
    the late 1990s | the 19th century | the 3rd century B.C. | 44 B.C.
"""

import re
from collections import Counter
from collections.abc import Iterable

Span = tuple[int, int]
"""Characters of a text, end exclusive."""

MAX_NAME_WORDS = 6

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_YEAR = r"(?:1\d{3}|20\d{2})"
_ERA = r"(?:\ (?:B\.?C\.?E?\.?|A\.?D\.?)(?!\w))"
_DATE = re.compile(
    rf"""\b(?:
      \d{{1,2}}(?:-\d{{1,2}})?\ {_MONTH}(?:\ {_YEAR})?
    | {_MONTH}\ \d{{1,2}}(?:,\ {_YEAR})?(?!\d|,\d)
    | (?:(?:early|mid|late)[- ])?{_MONTH}\ {_YEAR}
    | (?:(?:early|mid|late)[- ](?:to[- ](?:mid|late)[- ])?)?(?:{_YEAR}s|\d{{1,2}}(?:st|nd|rd|th)[- ]century{_ERA}?)
    | {_YEAR}[-\u2013](?:{_YEAR}|\d{{2}})\b
    | \d{{1,4}}{_ERA}
    | (?<![\d.,$]){_YEAR}(?![\d%]|[.,]\d|\ (?:sq|km|m|ha|cu|kg|million|billion|people|metric)\b)
    )""",
    re.VERBOSE,
)
_SCALE = r"(?:\ (?:thousand|million|billion|trillion))"
_UNIT = (
    r"(?:%|\ ?(?:percent|per\ cent|sq\ km|sq\ mi|cu\ km|km|nm|mi|miles?|m|meters?|cm|mm|ha|hectares?|acres?|kg|tons?"
    r"|metric\ tons|barrels?|liters?|years?(?:\ of\ age)?|months?|weeks?|days?|hours?|people|persons?|inhabitants"
    r"|seats?|members?|judges?|justices?|provinces?|islands?|dollars?|euros?|deaths?|troops|refugees|votes?)\b)"
)
_NUMBER = re.compile(
    rf"""(?<![\w.,])(?:
      (?:US)?[$\u20ac\u00a3]\ ?\d[\d,]*(?:\.\d+)?{_SCALE}?
    | -?\d[\d,]*(?:\.\d+)?{_SCALE}?{_UNIT}
    | \d[\d,]*(?:\.\d+)?{_SCALE}
    | \d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?
    | UTC[+-]\d+(?:[.:]\d+)?
    )(?!\w)""",
    re.VERBOSE,
)
_UPPER = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
_NAME_WORD = rf"(?:(?:al|el|an|ad|ar|as|ash|at|az|d|l)-)?{_UPPER}[\w'\u2019-]*(?:\.(?={_UPPER}|\ {_UPPER}[A-Z]))?"
_JOINT = r"(?:of\ the|of|de\ la|de|du|da|do|dos|del|di|la|le|al|el|bin|ibn|bint|van|der|von|ul|ud|y|e)"
_NAME = re.compile(rf"(?<![\w'.-]){_NAME_WORD}(?:\ (?:{_JOINT}\ )?{_NAME_WORD})*")
_NOT_A_NAME_WORDS = """
    A An The This That These Those In On At By For From With Without Under Over After Before During Since Until As
    And Or But If While When Where Who What Which How Why It Its He His She Her They Their We Our I There Here Then Thus
    Despite Following Although Though Because Both Each Every All Some Many Most Several Few Other Another Such No Not
    Only Also However Moreover Between Among Through Throughout Within Upon Once Note Including Subsequent Today Name
    Early Late Mid Later Former Additionally Meanwhile Nevertheless To Of Is Was
    Chief Head Highest Lowest Mean Total Key Local Noun Adjective Border Number Title Lyrics Conventional Geographic
    Time Legislature Etymology"""
_NOT_A_NAME = frozenset(_NOT_A_NAME_WORDS.split())


def salient_spans(text: str, *, known: frozenset[str] = frozenset()) -> list[Span]:
    """Spans worth masking, sorted and apart. `known` are names that may open a sentence as a single word."""
    taken: list[Span] = []
    for found in (_dates(text), _numbers(text), _names(text, known)):
        taken.extend(span for span in found if all(span[1] <= low or high <= span[0] for low, high in taken))
    return sorted(taken)


def single_names(texts: Iterable[str], *, at_least: int = 2) -> frozenset[str]:
    """Capitalised words that stand alone within sentences at least so often: names also where they open one."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text[low:high] for low, high in _names(text, frozenset()) if " " not in text[low:high])
    return frozenset(word for word, count in counts.items() if count >= at_least)


def _dates(text: str) -> list[Span]:
    return [match.span() for match in _DATE.finditer(text)]


def _numbers(text: str) -> list[Span]:
    return [match.span() for match in _NUMBER.finditer(text)]


def _names(text: str, known: frozenset[str]) -> list[Span]:
    spans = []
    for match in _NAME.finditer(text):
        start, end = _trim(text, *match.span())
        words = text[start:end].split()
        if not words or len(words) > MAX_NAME_WORDS or not re.search(r"[^\W\d_]{2}", text[start:end]):
            continue
        opens = _opens_sentence(text, match.start())
        if len(words) == 1 and opens and start == match.start() and words[0] not in known and not _shouted(words[0]):
            continue
        spans.append((start, end))
    return spans


def _trim(text: str, start: int, end: int) -> Span:
    """Without function words before the name, and the possessive behind it."""
    while (word := text[start:end].split(" ", 1)[0]) in _NOT_A_NAME:
        start += len(word)
        start += len(text[start:end]) - len(text[start:end].lstrip())
        joint = re.match(rf"{_JOINT}\ ", text[start:end])
        start += joint.end() if joint else 0
        if start >= end:
            return end, end
    name = text[start:end]
    for tail in ("'s", "\u2019s", "'", "\u2019", ".", "-"):
        if name.endswith(tail) and not re.search(rf"\b{_UPPER}\.$", name):
            return start, end - len(tail)
    return start, end


def _opens_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" \"'(\u201c\u2018")
    return not before or before[-1] in ".!?:;\n"


def _shouted(word: str) -> bool:
    """TEBBOUNE: the Factbook writes surnames so."""
    return len(word) > 2 and word.isupper()
