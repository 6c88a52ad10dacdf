"""The templates of Wikipedia that stand for words of a sentence, and what these words are; all others say nothing.

Kept are (the text shown for `{{lang|fr|chat}}` is `chat`, and so on):
    lang lang-xx transl nowrap small abbr ill nihongo quote ...   the one argument that is shown
    convert cvt                                                   the first value with its unit, not converted: 5 km
    frac val formatnum circa as of US$ USS HMS chem ...           numbers, dates and names as they are read
    ndash mdash snd spaced ndash nbsp ' 's " ! =                  punctuation
"""

from collections.abc import Callable, Iterable, Mapping

Arguments = Mapping[str, str]
"""Of a template, by name; those without one are `1`, `2` and so on. Stripped."""
Template = Callable[[Arguments], str]

_RANGES = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "x": " x ", "by": " by ", "+/-": " ± "}
_UNITS = {"sqmi": "sq mi", "sqkm": "sq km", "km2": "km²", "m2": "m²", "mi2": "sq mi", "ft2": "sq ft", "sqft": "sq ft",
          "km3": "km³", "m3": "m³", "C": "°C", "F": "°F", "C-change": "°C", "F-change": "°F", "ftin": "ft",
          "oilbbl": "barrels", "oilbbl/d": "barrels per day", "USgal": "US gallons", "e3acre": "thousand acres",
          "e6acre": "million acres", "e3km2": "thousand km²", "e6km2": "million km²", "e6m3": "million m³",
          "/km2": "per km²", "PD/km2": "per km²", "/sqmi": "per sq mi", "PD/sqmi": "per sq mi"}  # fmt: skip
_SMALLER_UNITS = frozenset(("ft", "in", "lb", "oz"))
"""Of a second number behind a first, as in 5 ft 6 in."""
_APOSTROPHE = "&#39;"
"""Not yet a character: next to the marks of italics it would be one of them."""
_MONTHS = {
    "1": "January", "2": "February", "3": "March", "4": "April", "5": "May", "6": "June", "7": "July", "8": "August",
    "9": "September", "10": "October", "11": "November", "12": "December",
}  # fmt: skip


def words_of(content: str) -> str:
    """What a template says, from what stands between its braces, links and templates within it resolved."""
    name, *arguments = content.split("|")
    name = name.strip().lower().replace("_", " ")
    if name.startswith("formatnum:"):
        return name.partition(":")[2].strip()
    said = _TEMPLATES.get("lang-" if name.startswith("lang-") else name)
    return said(_by_name(arguments)) if said else ""


def _by_name(arguments: Iterable[str]) -> Arguments:
    found: dict[str, str] = {}
    unnamed = 0
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            unnamed += 1
            name, value = str(unnamed), argument
        found[name.strip()] = value.strip()
    return found


def _unnamed(arguments: Arguments) -> list[str]:
    """In order, up to the first that is missing."""
    found: list[str] = []
    while (value := arguments.get(str(len(found) + 1))) is not None:
        found.append(value)
    return found


def _argument(*names: str) -> Template:
    """The first of these that is not empty."""
    return lambda arguments: next((found for name in names if (found := arguments.get(name))), "")


def _last(arguments: Arguments) -> str:
    return "".join(_unnamed(arguments)[-1:])


def _only(arguments: Arguments) -> str:
    """`{{IPA|/a/}}` is a word of a sentence; with a language before it, it tells how a title is pronounced."""
    return "" if "2" in arguments else arguments.get("1", "")


def _joined(arguments: Arguments) -> str:
    return "".join(_unnamed(arguments))


def _always(words: str) -> Template:
    return lambda arguments: words


def _after(words: str) -> Template:
    """The first argument, with these words before it."""
    return lambda arguments: words + arguments.get("1", "")


def _years(arguments: Arguments) -> str:
    """`{{circa|1900|1950}}`"""
    return "–".join(f"c. {year}" for year in _unnamed(arguments)) or "c. "


def _as_of(arguments: Arguments) -> str:
    words = "as of" if arguments.get("lc") else "As of"
    match _unnamed(arguments):
        case [year, month, *day] if (name := _MONTHS.get(month.lstrip("0"))) is not None:
            return " ".join([words, *day[:1], name, year])
        case when:
            return " ".join([words, *reversed(when)])


def _paragraph(arguments: Arguments) -> str:
    said = _argument("text", "quote", "1")(arguments)
    return f"\n\n{said}\n\n" if said else ""


def _convert(arguments: Arguments) -> str:
    match _unnamed(arguments):
        case [low, between, high, unit, *_] if words := _RANGES.get(between.removesuffix("(-)")):
            return f"{low}{words}{high} {_UNITS.get(unit, unit)}"
        case [feet, ("ft" | "lb" | "mi") as unit, inches, smaller, *_] if smaller in _SMALLER_UNITS:
            return f"{feet} {unit} {inches} {smaller}"
        case [value, unit, *_]:
            return f"{value} {_UNITS.get(unit, unit)}"
    return _last(arguments)


def _value(arguments: Arguments) -> str:
    power = f" × 10^{arguments['e']}" if arguments.get("e") else ""
    unit = f" {arguments['u']}" if arguments.get("u") else ""
    return f"{arguments.get('1', '')}{power}{unit}"


def _fraction(arguments: Arguments) -> str:
    match _unnamed(arguments):
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
    ("lang, langx, wikt-lang, rtl-lang", _argument("2")),
    ("lang-, nowrap, nobr, no wrap, nobreak, small, smaller, larger, big, em, strong, sup, sub", _argument("1")),
    ("abbr, abbrlink, tooltip, sc, smallcaps, smallcaps all, unicode, mvar, math, var, gaps, linktext", _argument("1")),
    ("ill, illm, interlanguage link, link-interwiki", _argument("lt", "1")),
    ("nihongo, nihongo2, nihongo krt", _argument("1", "3", "2")),
    ("wikt, zh, nee, flag, flagcountry, flagu, vanchor, visible anchor, typo, notatypo, not a typo", _argument("1")),
    ("chem2, railgauge, rail gauge, track gauge", _argument("1")),
    ("transl, translit, transliteration, script, color, colour, font color", _last),
    ("quote, blockquote, cquote, quotation, quote box, rquote, poemquote, bq", _paragraph),
    ("convert, cvt", _convert),
    ("val", _value),
    ("frac, sfrac, fraction", _fraction),
    ("chem", _joined),
    ("ipa", _only),
    ("angbr, angle bracket", lambda arguments: f"⟨{arguments.get('1', '')}⟩"),
    ("e", _after(" × 10^")),
    ("circa, c., ca", _years),
    ("floruit, fl.", _after("fl. ")),
    ("as of, asof", _as_of),
    ("us$", _after("US$")),
    ("gbp, £", _after("£")),
    ("eur, €", _after("€")),
    ("uss", _after("USS ")),
    ("hms", _after("HMS ")),
    ("ss", _after("SS ")),
    ("rms", _after("RMS ")),
    ("ndash, ndashb, en dash, –", _always("–")),
    ("mdash, mdashb, em dash, —", _always("—")),
    ("snd, spnd, spaced ndash, spaced en dash", _always(" – ")),
    ("spaced mdash, spaced em dash, smd", _always(" — ")),
    ("nbsp, space, spaces, thinsp, hair space", _always(" ")),
    ("·, dot, middot, •, bullet", _always(" · ")),
    ("', '-, -'", _always(_APOSTROPHE)),
    ("'s", _always(f"{_APOSTROPHE}s")),
    ('", "-, -"', _always('"')),
    ("' \", '\"", _always(f'{_APOSTROPHE}"')),
    ("\" ', \"'", _always(f'"{_APOSTROPHE}')),
    ("=", _always("=")),
)
