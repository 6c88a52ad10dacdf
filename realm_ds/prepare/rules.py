"""Salient spans of English text by rule: proper names, and numbers that measure something. Dates are dates.py's.

Names are capitalised words. A single one that opens a sentence is a name only where the texts at hand show it: it
stands within their sentences, and nowhere in lower case. All rules take time that is linear in the length of a text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from realm_ds.prepare.dates import MONTH, find_dates
from realm_ds.prepare.spans import Span, apart

NAME, QUANTITY = "NAME", "QUANTITY"
MAX_NAME_WORDS = 6
SEEN_OFTEN = 2
"""How often a capitalised word must stand within sentences to be a name where it opens one."""

_SCALE = r"(?:\ (?:thousand|million|billion|trillion))"
_UNIT = (
    r"(?:%|\ ?(?:percent|per\ cent|sq\ km|sq\ mi|cu\ km|km|nm|mi|miles?|m|meters?|cm|mm|ha|hectares?|acres?|kg|tons?"
    r"|metric\ tons|barrels?|liters?|years?(?:\ of\ age)?|months?|weeks?|days?|hours?|people|persons?|inhabitants"
    r"|seats?|members?|judges?|justices?|provinces?|islands?|dollars?|euros?|deaths?|troops|refugees|votes)\b)"
)
_COUNT = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = re.compile(
    rf"""(?<![\w.,])(?:
      (?:US)?[$\u20ac\u00a3]\ ?{_COUNT}{_SCALE}?
    | -?{_COUNT}{_SCALE}?{_UNIT}
    | {_COUNT}{_SCALE}
    | \d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?
    | UTC[+-]\d+(?:[.:]\d+)?
    )(?!\w)""",
    re.VERBOSE,
)
_NOT_A_NAME_WORDS = """
    A An The This That These Those In On At By For From With Without Under Over After Before During Since Until As
    And Or But If While When Where Who What Which How Why It Its He His She Her They Their We Our I There Here Then Thus
    Despite Following Although Though Because Both Each Every All Some Many Most Several Few Other Another Such No Not
    Only Also However Moreover Between Among Through Throughout Within Upon Once Note Including Subsequent Today Name
    Early Late Mid Later Former Additionally Meanwhile Nevertheless To Of Is Was
    Chief Head Highest Lowest Mean Total Key Local Noun Adjective Border Number Title Lyrics Conventional Geographic
    Time Legislature Etymology"""
_NOT_A_NAME = frozenset(_NOT_A_NAME_WORDS.split())


_UPPER = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
_INITIALS = rf"(?:(?!B\.C|A\.D|[IVX]\.\ ){_UPPER}\.)+(?=\ ?{_UPPER})(?!\ (?:{'|'.join(sorted(_NOT_A_NAME))})\b)"
_NAME_WORD = (
    rf"(?:{_INITIALS}|(?!{MONTH}\ [0-9])(?:(?:al|el|an|ad|ar|as|ash|at|az|d|l)-)?{_UPPER}[\w'\u2019-]*"
    rf"(?:\.(?={_UPPER}|\ {_UPPER}[A-Z]))?)"
)
_JOINT = r"(?:of\ the|of|de\ la|de|du|da|do|dos|del|di|la|le|al|el|bin|ibn|bint|van|der|von|ul|ud|y|e)\ "
_NAME = re.compile(rf"(?<![\w'.-]){_NAME_WORD}(?:\ (?:{_JOINT})?{_NAME_WORD})*")
_AFTER_FUNCTION_WORD = re.compile(_JOINT)
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_BEFORE_A_SENTENCE = " \"'(\u201c\u2018"
_TAILS = ("'s", "\u2019s", "'", "\u2019", ".", "-")


def salient_spans(text: str, *, known: frozenset[str] = frozenset()) -> list[Span]:
    """Dates, names and quantities, sorted and apart. `known` are names that may open a sentence as a single word."""
    names = (name for name, is_sure in _names(text) if is_sure or text[name.start : name.end] in known)
    return apart([*find_dates(text), *_quantities(text), *names])


def single_names(texts: Sequence[str], *, at_least: int = SEEN_OFTEN) -> frozenset[str]:
    """Capitalised words that stand alone within sentences at least so often, and nowhere in lower case."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text[name.start : name.end] for name, is_sure in _names(text) if is_sure)
    return _known(counts, texts, at_least=at_least)


def find_names_and_quantities(sentences: Sequence[str]) -> list[list[Span]]:
    """A SpanFinder; the sentences at hand say which names may open one as a single word."""
    named = [list(_names(sentence)) for sentence in sentences]
    counts = Counter(
        sentence[name.start : name.end]
        for sentence, names in zip(sentences, named, strict=True)
        for name, is_sure in names
        if is_sure
    )
    known = _known(counts, sentences, at_least=SEEN_OFTEN)
    return [
        apart([
            *_quantities(sentence),
            *(name for name, is_sure in names if is_sure or sentence[name.start : name.end] in known),
        ])
        for sentence, names in zip(sentences, named, strict=True)
    ]  # fmt: skip


def _known(counts: Counter[str], texts: Iterable[str], *, at_least: int) -> frozenset[str]:
    often = [name for name, count in counts.items() if count >= at_least and " " not in name]
    in_lower_case = {name.lower() for name in often}.intersection(word for text in texts for word in text.split())
    return frozenset(name for name in often if name.lower() not in in_lower_case)


def _quantities(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        yield Span(match.start(), match.end(), QUANTITY)


def _names(text: str) -> Iterator[tuple[Span, bool]]:
    """Names, and whether each is one for sure: a single word that opens a sentence may be any word."""
    for match in _NAME.finditer(text):
        start, end = _trim(text, match.start(), match.end())
        name = text[start:end]
        num_words = name.count(" ") + 1
        if num_words > MAX_NAME_WORDS or not _TWO_LETTERS.search(name):
            continue
        is_sure = num_words > 1 or start > match.start() or _is_shouted(name) or not _opens_sentence(text, start)
        yield Span(start, end, NAME), is_sure


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Without function words before the name, and the possessive behind it."""
    while True:
        space = text.find(" ", start, end)
        word_end = end if space < 0 else space
        if text[start:word_end] not in _NOT_A_NAME:
            break
        if word_end == end:
            return end, end
        joint = _AFTER_FUNCTION_WORD.match(text, word_end + 1, end)
        start = joint.end() if joint else word_end + 1
    for tail in _TAILS:
        if text.endswith(tail, start, end):
            return start, end - len(tail)
    return start, end


def _opens_sentence(text: str, start: int) -> bool:
    place = start - 1
    while place >= 0 and text[place] in _BEFORE_A_SENTENCE:
        place -= 1
    return place < 0 or text[place] in ".!?:;\n*\u2022"


def _is_shouted(word: str) -> bool:
    """TEBBOUNE: the Factbook writes surnames so."""
    return len(word) > 2 and word.isupper()
