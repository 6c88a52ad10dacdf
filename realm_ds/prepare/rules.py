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
_FUNCTION_WORDS = """
    A An The This That These Those In On At By For From With Without Under Over After Before During Since Until As
    And Or But If While When Where Who What Which How Why It Its He His She Her They Their We Our There Here Then Thus
    Despite Following Although Though Because Both Each Every All Some Many Most Several Few Other Another Such No Not
    Only Also However Moreover Between Among Through Throughout Within Upon Once Including Subsequent To Of Is Was
    Unlike Like Does Did Are Were Has Have Had Can Could Would"""
_OTHER_OPENING_WORDS = """
    I Today Note Name Early Late Mid Later Former Additionally Meanwhile Nevertheless Currently
    Chief Head Highest Lowest Mean Total Key Local Noun Adjective Border Number Title Lyrics Conventional Geographic
    Time Legislature Etymology"""
_NEVER_LAST = frozenset(_FUNCTION_WORDS.split())
_NOT_A_NAME = _NEVER_LAST.union(_OTHER_OPENING_WORDS.split())

_UPPER = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
_INITIALS = rf"(?:(?!B\.C|A\.D|[IVX]\.\ ){_UPPER}\.)+(?=\ ?{_UPPER})(?!\ (?:{'|'.join(sorted(_NOT_A_NAME))})\b)"
_DOTTED = ("U.S.", "U.S.A.", "U.S.S.R.", "U.K.", "U.N.", "D.C.")
_BEHIND_A_NAME = ("Jr.", "Sr.", "Inc.", "Corp.", "Co.", "Ltd.", "Bros.")
_ENDS_IN_A_STOP = (*_DOTTED, *_BEHIND_A_NAME)
_STOPPED = "|".join(re.escape(word) for word in sorted(_ENDS_IN_A_STOP, key=len, reverse=True))
_SHORT_TITLE = r"(?:Dr|Mrs?|Ms|Prof|Rev|Gov|Sen|Rep|Gen|Brig|Col|Lt|Capt|Sgt|Maj|Adm)\."
# A possessive of theirs is of the name, as in Women's World Cup, and so is one before what many names end in. Behind
# that of others a name of its own begins: NASA's Apollo Program.
_OWNERS = (
    r"(?:Women|Men|Ladies|Girls|Boys|People|Children|Kids|Players|Writers|Workers|Farmers|Teachers|Golfers|Governors"
    r"|Veterans|Queen|King|Prince|Princess|Lord|Bishop|President|Commander|Mother|Father|Reader|Philosopher|Collector"
    r"|Master|Year|Hudson|Jehovah|America|Britain)['\u2019]s?"
)
_OWNED = (
    r"['\u2019]s?(?=\ (?:Day|Club|Law|Theorem|Cathedral|Church|College|School|Hospital|Square|Cross|Road|Street|Park"
    r"|Hill|Bay|Island|Point|Wall|Gate|Comet|Syndrome|Digest|List)\b)"
)
_NAME_WORD = (
    rf"(?:{_STOPPED}|{_INITIALS}|(?:{_OWNERS}|(?:Ste?|Mt|Ft)\.|{_SHORT_TITLE})(?=\ {_UPPER})"
    rf"|(?!{MONTH}\ [0-9])(?:(?:al|el|an|ad|ar|as|ash|at|az|d|l)-|[dl]['\u2019])?"
    rf"{_UPPER}[\w-]*(?:['\u2019](?!s\b)[\w-]+)*(?:{_OWNED}|\.(?={_UPPER}|\ {_UPPER}[A-Z]))?)"
)
_JOINT = (
    r"(?:(?:of\ the|of|de\ la|de\ los|de\ las|della|degli|delle|des|de|du|da|do|dos|del|di|la|le|al|el|bin|ibn|bint"
    r"|van\ de[rn]?|van|von\ de[rm]|von|zu|den|der|af|ul|ud|und|y|e|&)\ "
    r"|upon\ (?=(?:Tyne|Hull|Avon|Thames|Trent)\b)"
    r"|the\ (?=(?:Great|Elder|Younger|Conqueror|Terrible|Bold|Confessor|Magnificent)\b)"
    r"|and\ (?=(?:Herzegovina|Tobago|Barbuda|Nevis|Pr\u00edncipe|Principe|Miquelon|Futuna|Caicos|Labrador)\b)"
    r"|and\ the\ (?=Grenadines\b)"
    r"|and\ (?=(?:Wildlife\ Service|Drug\ Administration|Human\ Services|Exchange\ Commission)\b)"
    r"|for\ (?=(?:Best|Outstanding)\ ))"
)
_NICKNAME = rf"[\"\u201c]{_UPPER}\w*[\"\u201d]\ (?={_UPPER})"
# Behind a hyphen only if that is of a prefix: pro-British.
_NAME = re.compile(
    rf"(?<![\w'.])(?=[A-Z\u00c0-\u00deadel])(?:(?<!-)|(?<=[a-z]-)){_NAME_WORD}"
    rf"(?:,\ (?:Jr|Sr|Inc|Ltd)\b\.?|\ (?:{_JOINT}|{_NICKNAME})?{_NAME_WORD})*"
)
_AFTER_FUNCTION_WORD = re.compile(_JOINT)
_TITLES = re.compile(
    rf"(?:(?:{_SHORT_TITLE}|Sir|Dame|President|Prime\ Minister|Professor|Senator|Governor|Captain|Colonel|Lieutenant"
    rf"|Sergeant|Judge|Justice|Bishop|Archbishop)\ (?={_UPPER}))+"
)
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_NO_NAME_WORDS = """
    January February March April May June July August September October November December Jan Feb Mar Apr Jun Jul Aug
    Sep Sept Oct Nov Dec Hz kHz MHz GHz MB GB TV TVs DVD DVDs CD CDs USD ISBN BC BCE AD CE Jr Sr Inc Corp Co Ltd
    President King Queen Captain Chairman Governor Judge Chapter Volume Vol Part Season Episode Section Figure Table
    Article Class"""
_NO_NAME = frozenset([*_NO_NAME_WORDS.split(), *_BEHIND_A_NAME, "Prime Minister"])
"""By itself, wherever it stands."""
_NUMERAL_OR_HEADING = re.compile(r"[IVX]+|[A-Z]{3,}(?: [A-Z]{4,})+")
_SHORTEST_STYLE = len("made")
_BEFORE_A_SENTENCE = " \"'(\u201c\u2018"
_TAILS = ("'s", "\u2019s", "'", "\u2019", ".", "-")


def salient_spans(text: str, *, known: frozenset[str] = frozenset()) -> list[Span]:
    """Dates, names and quantities, sorted and apart. `known` are names that may open a sentence as a single word."""
    names = (name for name, is_sure in _names(text) if is_sure or text[name.start : name.end] in known)
    return apart([*find_dates(text), *_quantities(text), *names])


def single_names(texts: Sequence[str], *, at_least: int = SEEN_OFTEN) -> frozenset[str]:
    """Capitalised words that end names within sentences at least so often, and stand nowhere in lower case."""
    return _known([list(_names(text)) for text in texts], texts, at_least=at_least)


def find_names_and_quantities(sentences: Sequence[str]) -> list[list[Span]]:
    """A SpanFinder; the sentences at hand say which names may open one as a single word."""
    named = [list(_names(sentence)) for sentence in sentences]
    known = _known(named, sentences, at_least=SEEN_OFTEN)
    return [
        apart([
            *_quantities(sentence),
            *(name for name, is_sure in names if is_sure or sentence[name.start : name.end] in known),
        ])
        for sentence, names in zip(sentences, named, strict=True)
    ]  # fmt: skip


def _known(named: Iterable[Iterable[tuple[Span, bool]]], texts: Sequence[str], *, at_least: int) -> frozenset[str]:
    counts = Counter(
        text[name.start : name.end].rpartition(" ")[2]  # a surname as well
        for text, names in zip(texts, named, strict=True)
        for name, is_sure in names
        if is_sure
    )
    often = [word for word, count in counts.items() if count >= at_least]
    in_lower_case = {word.lower() for word in often}.intersection(word for text in texts for word in text.split())
    return frozenset(word for word in often if word.lower() not in in_lower_case)


def _quantities(text: str) -> Iterator[Span]:
    for match in _NUMBER.finditer(text):
        yield Span(match.start(), match.end(), QUANTITY)


def _names(text: str) -> Iterator[tuple[Span, bool]]:
    """Names, and whether each is one for sure: a single word that opens a sentence may be any word."""
    for match in _NAME.finditer(text):
        start, end = _trim(text, match.start(), match.end())
        name = text[start:end]
        num_words = name.count(" ") + 1
        if num_words > MAX_NAME_WORDS or not _is_name(name):
            continue
        is_sure = num_words > 1 or start > match.start() or _is_shouted(name) or not _opens_sentence(text, start)
        yield Span(start, end, NAME), is_sure


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Without function words before and behind the name, titles before it, possessive and `-style` behind it."""
    start = _behind_function_words(text, start, end)
    if title := _TITLES.match(text, start, end):
        start = title.end()
    while (space := text.rfind(" ", start, end)) > 0 and text[space + 1 : end] in _NEVER_LAST:
        end = space
    if text.endswith(_ENDS_IN_A_STOP, start, end):
        return start, end
    for tail in _TAILS:
        if text.endswith(tail, start, end):
            end -= len(tail)
            break
    hyphen = text.rfind("-", start, end)
    # Frank Sinatra-style, Brazilian-made; not Blu-ray.
    is_style = start < hyphen < end - _SHORTEST_STYLE and text[hyphen:end].islower()
    return start, hyphen if is_style else end


def _behind_function_words(text: str, start: int, end: int) -> int:
    while True:
        space = text.find(" ", start, end)
        word_end = end if space < 0 else space
        if text[start:word_end] not in _NOT_A_NAME:
            return start
        if word_end == end:
            return end
        joint = _AFTER_FUNCTION_WORD.match(text, word_end + 1, end)
        start = joint.end() if joint else word_end + 1


def _is_name(words: str) -> bool:
    if words in _NO_NAME or (words.isupper() and _NUMERAL_OR_HEADING.fullmatch(words)):
        return False
    return _TWO_LETTERS.search(words) is not None or words in _DOTTED


def _opens_sentence(text: str, start: int) -> bool:
    place = start - 1
    while place >= 0 and text[place] in _BEFORE_A_SENTENCE:
        place -= 1
    return place < 0 or text[place] in ".!?:;\n*\u2022"


def _is_shouted(word: str) -> bool:
    """TEBBOUNE: the Factbook writes surnames so."""
    return len(word) > 2 and word.isupper()
