"""The templates of Wikipedia that stand for words of a sentence, and what these words are; all others say nothing.

Kept are (the text shown for `{{lang|fr|chat}}` is `chat`, and so on):
    lang lang-xx transl nowrap small abbr ill nihongo quote ...   the one argument that is shown
    convert cvt                                                   the first value with its unit, not converted: 5 km
    frac val formatnum circa as of US$ USS HMS ...                numbers, dates and names as they are read
    ndash mdash snd spaced ndash nbsp ' " ! =                     punctuation
"""

from collections.abc import Callable, Mapping, Sequence

Template = Callable[[Sequence[str]], str]
"""Of its positional arguments, which are stripped."""

_RANGES = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "x": " x ", "by": " by ", "+/-": " ± "}
_UNITS = {"sqmi": "sq mi", "sqkm": "sq km", "km2": "km²", "m2": "m²", "mi2": "sq mi", "ft2": "sq ft", "sqft": "sq ft",
          "km3": "km³", "m3": "m³", "C": "°C", "F": "°F", "ftin": "ft"}  # fmt: skip


def words_of(content: str) -> str:
    """What a template says, from what stands between its braces, links and templates within it resolved."""
    name, *arguments = content.split("|")
    name = name.strip().lower().replace("_", " ")
    if name.startswith("formatnum:"):
        return name.partition(":")[2]
    said = _TEMPLATES.get("lang-" if name.startswith("lang-") else name)
    return said(_positional(arguments)) if said else ""


def _positional(arguments: Sequence[str]) -> list[str]:
    """Those without a name, in order; `1=` and so on name these too."""
    found: dict[int, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            found[len(found) + 1] = argument.strip()
        elif name.strip().isdecimal():
            found[int(name)] = value.strip()
    return [found[number] for number in sorted(found)]


def _argument(number: int) -> Template:
    return lambda arguments: arguments[number - 1] if len(arguments) >= number else ""


def _last(arguments: Sequence[str]) -> str:
    return arguments[-1] if arguments else ""


def _always(words: str) -> Template:
    return lambda arguments: words


def _after(words: str) -> Template:
    """The arguments, with these words before them."""
    return lambda arguments: words + " ".join(arguments)


def _paragraph(arguments: Sequence[str]) -> str:
    return f"\n{arguments[0]}\n" if arguments else ""


def _convert(arguments: Sequence[str]) -> str:
    match arguments:
        case [low, between, high, unit, *_] if between in _RANGES:
            return f"{low}{_RANGES[between]}{high} {_UNITS.get(unit, unit)}"
        case [value, unit, *_]:
            return f"{value} {_UNITS.get(unit, unit)}"
    return _last(arguments)


def _fraction(arguments: Sequence[str]) -> str:
    match arguments:
        case [whole, above, below, *_]:
            return f"{whole} {above}/{below}"
        case [above, below]:
            return f"{above}/{below}"
        case [below]:
            return f"1/{below}"
    return ""


def _table(*entries: tuple[str, Template]) -> Mapping[str, Template]:
    """From names separated by commas to what they say."""
    return {name.strip(): template for names, template in entries for name in names.split(",")}


_TEMPLATES = _table(
    ("lang, langx, wikt-lang", _argument(2)),
    ("lang-, nowrap, nobr, no wrap, nobreak, small, smaller, larger, big, em, strong, sup, sub", _argument(1)),
    (
        "abbr, abbrlink, tooltip, sc, smallcaps, smallcaps all, unicode, script, mvar, math, var, val, gaps",
        _argument(1),
    ),
    ("ill, illm, interlanguage link, link-interwiki, linktext, wikt, nihongo, nihongo2, zh, nee", _argument(1)),
    ("flag, flagcountry, flagu, vanchor, visible anchor, sic, typo, notatypo, not a typo", _argument(1)),
    ("transl, translit, transliteration, color, colour, font color", _last),
    ("quote, blockquote, cquote, quotation, quote box, rquote, poemquote, bq", _paragraph),
    ("convert, cvt", _convert),
    ("frac, sfrac, fraction", _fraction),
    ("circa, c., ca", _after("c. ")),
    ("floruit, fl.", _after("fl. ")),
    ("as of, asof", _after("as of ")),
    ("us$", _after("US$")),
    ("gbp, £", _after("£")),
    ("eur, €", _after("€")),
    ("uss", _after("USS ")),
    ("hms", _after("HMS ")),
    ("ss", _after("SS ")),
    ("rms", _after("RMS ")),
    ("ndash, en dash, –", _always("–")),
    ("mdash, em dash, —", _always("—")),
    ("snd, spnd, spaced ndash, spaced en dash", _always(" – ")),
    ("spaced mdash, spaced em dash, smd", _always(" — ")),
    ("nbsp, space, spaces, thinsp, hair space", _always(" ")),
    ("·, dot, middot, •, bullet", _always(" · ")),
    ("'", _always("'")),
    ('"', _always('"')),
    ("=", _always("=")),
)
