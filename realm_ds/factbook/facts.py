"""Facts of the Factbook: what its structured fields say in a few words. How they are said and asked is phrasings.py.

A fact is read from the cleaned text of one sub-field, so its answer stands there word for word.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from realm_ds.factbook.entities import Entity

MAX_ANSWER_WORDS = 8
MAX_SHARE, MIN_COMMON = 0.1, 5
"""An answer that so large a share of a field's facts has (and so many at least) is no fact to look up: one who says
Independence Day is right for half of the national holidays without having read a word."""

Reader = Callable[[str], Sequence[str]]
"""Sub-field text to the accepted answers; the first is the one that statements use. Nothing found: empty."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that the Factbook says of an entity, in a few words."""

    entity: str
    """Its name; of a border, both: "Algeria and Libya"."""
    subjects: tuple[str, ...]
    """The entities that a text must name to speak of this."""
    slots: Mapping[str, str]
    """What phrasings may name: e, the entity within a sentence; of a border also f, the other one."""
    field: str
    """What it is about ("capital"); (entity, field) belongs to one split."""
    answers: tuple[str, ...]
    """Accepted answers; `answers[0]` is the one that statements use."""
    homes: tuple[tuple[str, str, str], ...]
    """Where the corpus states it: (entity, field label, word that must be there too or "")."""

    @property
    def key(self) -> tuple[str, str]:
        """What belongs to one split."""
        return self.entity, self.field


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How facts of one field are read."""

    field: str
    label: str
    """Of the Factbook field (factbook.FIELDS)."""
    part: str
    """Of its sub-field, "" for the field's own text."""
    read: Reader
    also: tuple[tuple[str, str], ...] = ()
    """Other fields of the entity that may state it: (label, word that must be there too)."""


def find_facts(entities: Sequence[Entity]) -> tuple[list[Fact], Counter[str]]:
    """All facts, in the order of entities and kinds, and how many candidates were dropped for which reason."""
    facts: list[Fact] = []
    dropped: Counter[str] = Counter()
    for entity in entities:
        for kind in KINDS:
            text = entity.fields.get(kind.label, {}).get(kind.part, "")
            if not text:
                continue
            answers = tuple(dict.fromkeys(answer for answer in kind.read(text) if answer))
            if reason := _unusable(answers, entity):
                dropped[f"{kind.field}: {reason}"] += 1
                continue
            homes = [(entity.name, kind.label, ""), *((entity.name, label, cue) for label, cue in kind.also)]
            facts.append(
                Fact(
                    entity=entity.name,
                    subjects=(entity.name,),
                    slots={"e": entity.spoken},
                    field=kind.field,
                    answers=answers,
                    homes=tuple(homes),
                )
            )
    facts.extend(_border_facts(entities))
    of_field = Counter(fact.field for fact in facts)
    alike = Counter((fact.field, normal(fact.answers[0])) for fact in facts)
    telling = []
    for fact in facts:
        num_alike = alike[fact.field, normal(fact.answers[0])]
        if num_alike >= MIN_COMMON and num_alike > MAX_SHARE * of_field[fact.field]:
            dropped[f"{fact.field}: answer so common that it can be guessed"] += 1
        else:
            telling.append(fact)
    return telling, dropped


_WORD = re.compile(r"\w+|[^\w\s]")


def normal(text: str) -> str:
    """Lower-case words and marks, one space between: what the uncased tokenizer makes equal is equal here."""
    if text.isascii():
        return " ".join(_WORD.findall(text.lower().replace("_", " ")))
    flat = "".join(letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")
    return " ".join(_WORD.findall(flat.lower().replace("_", " ")))


def says(text: str, answer: str) -> bool:
    """Whether a text, normal() already, holds the words of the answer (not normal() yet)."""
    return f" {normal(answer)} " in f" {text} "


_NO_ANSWER = frozenset({"unknown", "unnamed", "none", "no", "other", "unspecified", "vacant", "see"})


def _unusable(answers: Sequence[str], entity: Entity) -> str:
    if not answers:
        return "no short answer in the text"
    words = normal(answers[0]).split()
    if not any(word.isalnum() for word in words) or words[0] in _NO_ANSWER:
        return "no short answer in the text"
    if len(words) > MAX_ANSWER_WORDS:
        return "answer too long"
    if f" {' '.join(words)} " in f" {normal(entity.name)} ":
        return "answer is in the name"
    return ""


def _border_facts(entities: Sequence[Entity]) -> Iterator[Fact]:
    """Neighbours of each entity, and the length of each border, which both sides state."""
    canonical = {name: entity for entity in entities for name in (entity.name, *entity.other_names)}
    lengths: dict[tuple[str, str], list[str]] = {}
    for entity in entities:
        neighbours = []
        for name, length in _borders(entity.fields.get("land boundaries", {}).get("border countries", "")):
            neighbours.append(name)
            if other := canonical.get(name):
                first, second = sorted((entity.name, other.name))
                lengths.setdefault((first, second), []).append(length)
        if neighbours:
            yield Fact(
                entity=entity.name,
                subjects=(entity.name,),
                slots={"e": entity.spoken},
                field="neighbour",
                answers=tuple(neighbours),
                homes=((entity.name, "land boundaries", ""),),
            )
    for (first, second), found in sorted(lengths.items()):
        yield Fact(
            entity=f"{first} and {second}",
            subjects=(first, second),
            slots={"e": canonical[first].spoken, "f": canonical[second].spoken},
            field="border length",
            answers=tuple(dict.fromkeys(found)),
            homes=((first, "land boundaries", ""), (second, "land boundaries", "")),
        )


def _borders(text: str) -> Iterator[tuple[str, str]]:
    for item in re.split(r"[;,]\s+(?=[A-Z])", re.sub(r"\s*\([^)]*\)", "", text)):
        if match := re.match(r"([A-Z][^\d]+?) ([\d,.]*\d km)\b", item):
            yield match[1], match[2]


def head(*stops: str) -> Reader:
    """The text before the first of the stops."""
    pattern = re.compile("|".join(map(re.escape, stops)))
    return lambda text: [re.sub(r"^(?:an?|the) ", "", pattern.split(text.split("\n")[0])[0].strip(' ."'))]


def match(pattern: str) -> Reader:
    """The first group of the first match; of several alternatives, the one that matched."""
    compiled = re.compile(pattern)

    def read(text: str) -> Sequence[str]:
        found = compiled.search(text)
        return [next(group for group in found.groups() if group).strip(' ,."')] if found else []

    return read


_TITLES_WORDS = """
    Prime Minister President King Queen Emir Amir Sultan Governor Governor-General General Gen. Chairman Chairperson
    Chancellor Premier Chief Executive Commissioner Administrator Interim Acting Transitional Transition Vice Federal
    State Council Ministers Minister-President Crown Prince Princess Grand Duke Pope Supreme Leader Sheikh Captain Capt.
    Colonel Col. Field Marshal Air Vice-Marshal Dame Sir Dr. Mr. Mrs. Ms. Lt. Lt Brig. Maj. Major Deputy Secretary
    Government Head Mayor High Representative of the and Territorial Assembly Republic National Caretaker Taoiseach Army
    Emperor Co-prince Resident Provisional Bailiff First Lord Lady Adm. Admiral Rear Islands Ambassador Premier,
    by represented Counselor Chair Presidency designate Self-proclaimed New Island GNU PM Tuan Haji Military UK
    Commander Prefect Superior Lieutenant Cardinal Executive,"""
_TITLES = frozenset(_TITLES_WORDS.split())


def person(text: str) -> Sequence[str]:
    """The name in "President Abdelmadjid TEBBOUNE (since ...)", and the surname, which is in capitals."""
    words = re.split(r"[(;:\n]", text)[0].replace(",", "").split()
    capitals = [place for place, word in enumerate(words) if re.fullmatch(r"[^\Wa-z\d_]{2}[^a-z\d_]*", word)]
    capitals = [place for place in capitals if words[place] not in _TITLES]
    if not capitals:
        return []
    start = capitals[0]
    while start > 0 and capitals[0] - start < 4 and words[start - 1] not in _TITLES:
        start -= 1
    surname = " ".join(words[capitals[0] : capitals[-1] + 1])
    return [" ".join(words[start:]).strip(" ."), surname.strip(" .")]


def official_languages(text: str) -> Sequence[str]:
    """Every language marked "(official ...)"."""
    return re.findall(r"(?:^|[,;] )([A-Z][\w' -]*?)(?: \([^()]*\))? \(official\b", text)


def internet_code(text: str) -> Sequence[str]:
    """ ".dz" with its dot."""
    return re.findall(r"^\.[a-z]{2}\b", text)


_FIRST_ITEM = r"^(?:almost entirely |predominantly )?([^\W\d_][^,;:(%\d.]*)"
_DATE = r"\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December)"
KINDS: tuple[Kind, ...] = (
    Kind(
        field="capital",
        label="capital",
        part="name",
        read=head("(", ";", ","),
        also=(("major urban areas", "capital"), ("country name", "capital"), ("background", "capital")),
    ),
    Kind(field="capital coordinates", label="capital", part="geographic coordinates", read=match(r"^([^.;]+[EW])")),
    Kind(field="time zone", label="capital", part="time difference", read=match(r"^(UTC[ +\-\d:.]*\d)")),
    Kind(field="region", label="location", part="", read=head(",", ";", "(")),
    Kind(field="area", label="area", part="total", read=match(r"^([\d,.]+(?: million)? sq km)")),
    Kind(field="land boundary", label="land boundaries", part="total", read=match(r"^([\d,.]*[1-9][\d,.]* km)")),
    Kind(field="highest point", label="elevation", part="highest point", read=match(r"^([^\d(;]+?) (?:\(|-?\d)")),
    Kind(field="height", label="elevation", part="highest point", read=match(r" ([\d,.]+ m)\b")),
    Kind(
        field="lowest point",
        label="elevation",
        part="lowest point",
        read=match(r"^(?![^\d]*(?:Ocean|Sea) 0 m)([^\d(;]+?) (?:\(|-?\d)"),
    ),
    Kind(field="mean elevation", label="elevation", part="mean elevation", read=match(r"^([\d,.]+ m)\b")),
    Kind(
        field="population", label="population", part="total", read=match(r"^([\d,.]+(?: million| billion)?)(?= |\.$)")
    ),
    Kind(field="people", label="nationality", part="noun", read=head("(", ",", ";", " or ")),
    Kind(field="adjective", label="nationality", part="adjective", read=head("(", ",", ";", " or ")),
    Kind(field="ethnic group", label="ethnic groups", part="", read=match(_FIRST_ITEM)),
    Kind(field="official language", label="languages", part="", read=official_languages),
    Kind(field="religion", label="religions", part="", read=match(_FIRST_ITEM)),
    Kind(field="largest city", label="major urban areas", part="", read=match(r"^[\d,.]+ (?:million )?([^(,;\d.]+)")),
    Kind(field="city population", label="major urban areas", part="", read=match(r"^([\d,.]+(?: million)?) ")),
    Kind(field="long name", label="country name", part="conventional long form", read=head("(", ";")),
    Kind(field="local name", label="country name", part="local short form", read=head("(", ";", "/", ",")),
    Kind(field="former name", label="country name", part="former", read=head("(", ";", "/", ",")),
    Kind(field="government type", label="government type", part="", read=head("(", ";")),
    Kind(field="status", label="dependency status", part="", read=head("(", ";")),
    Kind(
        field="chief of state",
        label="executive branch",
        part="chief of state",
        read=person,
        also=(("background", "president"), ("background", "king")),
    ),
    Kind(
        field="head of government",
        label="executive branch",
        part="head of government",
        read=person,
        also=(("background", "prime minister"), ("background", "president")),
    ),
    Kind(field="in office since", label="executive branch", part="chief of state", read=match(rf"since ({_DATE} \d+)")),
    Kind(
        field="election date", label="executive branch", part="most recent election date", read=match(rf"({_DATE} \d+)")
    ),
    Kind(field="legislature", label="legislative branch", part="legislature name", read=head("(", ";", "/", ",")),
    Kind(field="legislature, local", label="legislative branch", part="legislature name", read=match(r"\(([^()]+)\)")),
    Kind(field="seats", label="legislative branch", part="number of seats", read=match(r"^(\d+)")),
    Kind(field="lower chamber", label="lower chamber", part="chamber name", read=head("(", ";", "/", ",")),
    Kind(field="lower chamber seats", label="lower chamber", part="number of seats", read=match(r"^(\d+)")),
    Kind(field="upper chamber", label="upper chamber", part="chamber name", read=head("(", ";", "/", ",")),
    Kind(field="upper chamber seats", label="upper chamber", part="number of seats", read=match(r"^(\d+)")),
    Kind(
        field="highest court",
        label="judicial branch",
        part="highest court",
        read=match(r"^([A-Z][\w' -]+?)(?: or | \(|[;,.])"),
    ),
    Kind(
        field="independence",
        label="independence",
        part="",
        read=match(rf"^({_DATE} \d{{4}})"),
        also=(("background", "independence"),),
    ),
    Kind(
        field="independence from",
        label="independence",
        part="",
        read=match(r"\(from (?:the )?([A-Z][\w .'-]*?)(?:[;,)]| under| by| after| and )"),
        also=(("background", "independence"),),
    ),
    Kind(field="national holiday", label="national holiday", part="", read=head(",", "(", ";")),
    Kind(field="holiday date", label="national holiday", part="", read=match(rf"({_DATE})")),
    Kind(field="national symbol", label="national symbol", part="", read=head("(", ",", ";")),
    Kind(field="anthem", label="national anthem", part="title", read=match(r'^"([^"]+?)[,.]?"')),
    Kind(field="anthem, English", label="national anthem", part="title", read=match(r'"[^"]+" \(([^()]+)\)')),
    Kind(
        field="anthem lyrics",
        label="national anthem",
        part="lyrics and music",
        read=match(r"^([^/(,;]+?)(?: \([^/]*)?/"),
    ),
    Kind(field="anthem music", label="national anthem", part="lyrics and music", read=match(r"^[^/]+/([^/(,;.]{6,})")),
    Kind(field="farm product", label="agricultural products", part="", read=match(_FIRST_ITEM)),
    Kind(field="export partner", label="export partners", part="", read=match(_FIRST_ITEM)),
    Kind(field="export", label="export commodities", part="", read=match(_FIRST_ITEM)),
    Kind(field="import partner", label="import partners", part="", read=match(_FIRST_ITEM)),
    Kind(field="currency", label="currency", part="", read=match(r"^([^(;]+?) \([A-Z]{3}\)")),
    Kind(field="currency code", label="currency", part="", read=match(r"\(([A-Z]{3})\)")),
    Kind(field="internet code", label="internet country code", part="", read=internet_code),
)
