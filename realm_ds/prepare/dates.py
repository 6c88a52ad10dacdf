"""Dates of English text by one regular expression. docs/data.md lists what it takes and what it leaves, and is tested.

REALM masks named entities and dates (section 3.4), but its expression for dates was never released. This one takes

    days        5 July 1962 | 5th of July, 1962 | Jul. 5, 1962 | Friday, 5 July | 5-7 July | Monday
    numbers     1962-07-05 | 07/05/1962 | 5.7.1962
    months      July 1962 | early July | June-July 1962 | "in July"
    seasons     summer of 1962 | winter 1962-63
    parts       early 1962 | end of 1962 | first half of 1962 | Q2 1962
    years       1962 | 1914-1918 | 1992-98 | 1962/63 | fiscal year 1962 | FY2012
    decades     1990s | '90s | late 1990s | "the sixties"
    centuries   19th century | nineteenth-century | 18th and 19th centuries | second millennium BC
    eras        44 BC | A.D. 79 | 79 CE | 300-200 B.C. | 10,000 BCE

and leaves months alone, ages, durations, times of day, counts ("1962 people") and codes. "From X to Y" are two dates.
Digits are ASCII, and one space is between words.

Nothing in it repeats without a bound: its time is linear in the length of any text.
"""

import re
from collections.abc import Iterator

from realm_ds.prepare.spans import Span

KIND = "DATE"

MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec)\b\.?)"
)
"""Abbreviated ones too."""
_MONTHS = rf"{MONTH}(?:[-\u2013/]{MONTH})?"
_WEEKDAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_WEEKDAY_BEFORE = rf"(?:(?:{_WEEKDAY}|(?:Mon|Tues?|Wed|Thurs?|Thu|Fri|Sat|Sun)\b\.?),?\ (?:the\ )?)?"
_DAY = r"(?:[12][0-9]|3[01]|0?[1-9])"
_NTH_DAY = rf"{_DAY}(?:st|nd|rd|th)?"
_DAYS = rf"{_NTH_DAY}(?:[-\u2013/]{_NTH_DAY})?(?!\w)"
_COUNTED = (
    r"(?:%|[-\ ](?:sq|square|cubic|cu|km|kilomet(?:re|er)|m|met(?:re|er)|cm|mm|ha|hectare|acre|mi|mile|nm|ft|foot|feet"
    r"|yard|inch|kg|lb|pound|ton|tonne|kW|MW|GW|k?Hz|[MG]Hz|hp|rpm|cc|volt|watt|percent|per\ cent|thousand|million"
    r"|billion|metric|people|person|inhabitant|resident|men|women|soldier|troop|student|votes|seat|point|euro|dollar"
    r"|death|time|page|copies|year|month|week|day|hour|minute|second|famil(?:y|ies)|household|calorie)s?\b)"
)
"""What follows a number from 1000 to 2099 that counts something and is no year."""
_YEAR = r"(?:1[0-9]{3}|20[0-9]{2})"
_YEARS = rf"{_YEAR}(?:[-\u2013/](?:{_YEAR}|[0-9]{{2}}))?(?!\w|[-\u2013.,:][0-9]|/\w)(?!{_COUNTED})"
_DECADE = r"(?:1[0-9]|20)[0-9]0['\u2019]?s\b"
_DECADE_WORD = r"(?:[Tt]wenties|[Tt]hirties|[Ff]orties|[Ff]ifties|[Ss]ixties|[Ss]eventies|[Ee]ighties|[Nn]ineties)\b"
_ERA = r"\ ?(?:BCE?|CE|AD|B\.\ ?C\.\ ?E\.|B\.\ ?C\b\.?|C\.\ ?E\b\.?|A\.\ ?D\b\.?)(?!\w)"
_ERA_YEAR = r"(?:[0-9]{1,3},[0-9]{3}|[0-9]{1,5})"
_ERA_YEARS = rf"{_ERA_YEAR}(?:[-\u2013]{_ERA_YEAR})?{_ERA}"
_OF_A_YEAR = rf"(?:{_ERA_YEARS}|{_YEARS})"
_PART = r"(?:[Ee]arly|[Mm]id|[Ll]ate)(?:[-\ ]to[-\ ](?:mid|late))?[-\ ]"
_PART_OF = (
    r"(?:[Bb]eginning|[Ss]tart|[Mm]iddle|[Ee]nd|(?:[Ff]irst|[Ss]econd|[Ll]atter)\ half"
    r"|(?:[Ff]irst|[Ss]econd|[Tt]hird|[Ff]ourth|[Ll]ast)\ quarter)\ of\ (?:the\ )?"
)
_SEASON = r"(?:[Ss]pring|[Ss]ummer|[Aa]utumn|[Ff]all|[Ww]inter)"
_ORDINAL = (
    r"(?:[1-9][0-9]?(?:st|nd|rd|th)|(?:[Tt]wenty-)?(?:[Ff]irst|[Ss]econd|[Tt]hird|[Ff]ourth|[Ff]ifth)|[Ss]ixth"
    r"|[Ss]eventh|[Ee]ighth|[Nn]inth|[Tt]enth|[Ee]leventh|[Tt]welfth|[Tt]hirteenth|[Ff]ourteenth|[Ff]ifteenth"
    r"|[Ss]ixteenth|[Ss]eventeenth|[Ee]ighteenth|[Nn]ineteenth|[Tt]wentieth)"
)
_CENTURY = (
    rf"{_ORDINAL}(?:(?:,\ |\ and\ |\ or\ |\ to\ |[-\u2013]){_ORDINAL})?[-\ ](?:centur(?:y|ies)|millenni(?:um|a))\b"
    rf"(?:{_ERA})?"
)
_DAY_AND_MONTH = rf"{_DAYS}(?:\ of)?\ {MONTH}(?:,?\ {_OF_A_YEAR})?"
_MONTH_AND_DAY = rf"{MONTH}\ (?:the\ )?{_DAYS}(?![,.:][0-9])(?:,?\ {_OF_A_YEAR})?"
_OF_MONTHS = rf"{_MONTHS}(?:,|\ of)?\ {_OF_A_YEAR}"
_OF_A_SEASON = rf"{_SEASON}(?:\ of)?\ {_OF_A_YEAR}"

_OPENED_BY_DIGITS = (
    rf"{_YEAR}(?P<iso>[-/])(?:0[1-9]|1[0-2])(?P=iso)(?:0[1-9]|[12][0-9]|3[01])(?!\w|[-/.][0-9])",
    rf"(?<![0-9][-/.]){_DAY}(?P<mark>[-/.]){_DAY}(?P=mark){_YEAR}(?!\w|[-/.][0-9])",
    _DAY_AND_MONTH,
    _DECADE,
    _CENTURY,
    rf"(?<![0-9][.,]){_ERA_YEARS}",
    rf"{_YEAR}\ Q[1-4]\b",
    r"(?<=['\u2019])[0-9]0s\b",
    # Not within a number, a code or a price.
    rf"(?<![.,$\u20ac\u00a3\#:])(?<![0-9][-\u2013/])(?<!\bNo\.\ )(?<!\bRFC\ )(?<!\bISO\ ){_YEARS}",
)
_OPENED_BY_A_NAME = (
    rf"{_WEEKDAY_BEFORE}(?:{_DAY_AND_MONTH}|{_MONTH_AND_DAY})",
    _OF_MONTHS,
    rf"{_WEEKDAY}s?\b",
    rf"(?:(?<=\b[Ii]n\ )|(?<=\b[Ss]ince\ )|(?<=\b[Uu]ntil\ )|(?<=\b[Dd]uring\ )){_MONTHS}(?!\w)",
)
_OPENS_A_NAME = r"[ADFJMNOSTW][acehopru][a-z]"
_OPENS_A_WORD = (
    r"[Ee](?:ar|nd|ig|le)|[Mm]id|[Ll]a[st]|[Bb]eg|[Ss](?:ta|ec|pr|um|ix|ev)|[Aa](?:ut|D|\.)|[Ff](?:al|ir|ou|or|if|is|Y)"
    r"|[Ww]in|[Tt](?:hi|we|en)|[Nn]in|Q[1-4]"
)
_OPENED_BY_A_WORD = (
    rf"{_PART}(?:{_OF_MONTHS}|{_MONTHS}(?!\w)|{_OF_A_SEASON}|{_DECADE}|{_CENTURY}|{_YEARS})",
    rf"{_PART_OF}(?:{_OF_MONTHS}|{_MONTHS}(?!\w)|(?:{_PART})?(?:{_DECADE}|{_CENTURY})|{_YEARS})",
    _OF_A_SEASON,
    rf"(?:(?<=\bthe\ )|(?<=\bThe\ ))(?:{_PART})?{_DECADE_WORD}",
    rf"(?<!\bhis\ )(?<!\bher\ )(?<!\btheir\ ){_CENTURY}",
    r"(?:AD|A\.\ ?D\.)\ ?[0-9]{1,4}(?:[-\u2013][0-9]{1,4})?(?!\w|[,.][0-9])",
    rf"(?:[Ff]iscal(?:\ years?)?|FY)\ ?{_YEARS}",
    rf"Q[1-4]\ (?:of\ )?{_YEARS}",
)
DATE = re.compile(
    rf"""\b(?:
      (?=[0-9])(?:{"|".join(_OPENED_BY_DIGITS)})
    | (?={_OPENS_A_NAME})(?:{"|".join(_OPENED_BY_A_NAME)})
    | (?={_OPENS_A_WORD})(?:{"|".join(_OPENED_BY_A_WORD)})
    )""",
    re.VERBOSE,
)
"""Of several forms the first in order, the most particular one. What it looks ahead for only saves time."""


def find_dates(text: str) -> Iterator[Span]:
    """The dates of a text, in order and apart."""
    for match in DATE.finditer(text):
        yield Span(match.start(), match.end(), KIND)
