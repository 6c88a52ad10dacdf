"""How the demo's facts are said and asked: plain text, a kind of fact and its phrasings below it.

{e} is the entity ("the Gambia"), {f} the other side of a border, {a} the answer. A line that ends in a question mark is
a question, any other is a statement.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phrasing:
    """Questions and statements of one kind of fact."""

    questions: tuple[str, ...]
    statements: tuple[str, ...]


_TEXT = """
capital
    what is the capital of {e}?
    which city is the capital of {e}?
    from which city is {e} governed?
    what city serves as the capital city of {e}?
    The capital of {e} is {a}.
    {a} is the capital city of {e}.
    {e} is governed from {a}.
    The name of {e}'s capital is {a}.
capital coordinates
    what are the geographic coordinates of the capital of {e}?
    at which coordinates does the capital of {e} lie?
    The capital of {e} lies at the coordinates {a}.
    The geographic coordinates of {e}'s capital are {a}.
time zone
    what is the time zone of the capital of {e}?
    which time difference from UTC does {e} have?
    The capital of {e} keeps the time {a}.
    The time difference in {e} is {a}.
region
    in which region is {e}?
    what part of the world is {e} located in?
    where is {e}?
    {e} is located in {a}.
    The location of {e} is {a}.
    On the map, {e} is found in {a}.
area
    what is the total area of {e}?
    how large is {e}?
    how many square kilometers does {e} cover?
    The total area of {e} is {a}.
    {e} covers {a}.
    {e} has an area of {a}.
land boundary
    how long is the land boundary of {e}?
    what is the total length of the land boundaries of {e}?
    The land boundaries of {e} total {a}.
    {e} has land boundaries of {a} in all.
highest point
    what is the highest point of {e}?
    which mountain or place is the highest in {e}?
    what is the name of the highest point in {e}?
    The highest point of {e} is {a}.
    {a} is the highest elevation in {e}.
    Nothing in {e} is higher than {a}.
height
    how high is the highest point of {e}?
    what is the elevation of the highest point in {e}?
    The highest point of {e} rises to {a}.
    The highest elevation in {e} is {a}.
lowest point
    what is the lowest point of {e}?
    which place is the lowest in {e}?
    The lowest point of {e} is {a}.
    {a} is the lowest elevation in {e}.
mean elevation
    what is the mean elevation of {e}?
    how high is {e} on average?
    The mean elevation of {e} is {a}.
    On average, {e} lies at an elevation of {a}.
population
    what is the total population of {e}?
    how many people live in {e}?
    The total population of {e} is {a}.
    {e} has a population of {a}.
people
    what is a citizen of {e} called?
    what noun is used for the people of {e}?
    The noun for the nationality of {e} is {a}.
    A person from {e} is called {a}.
adjective
    which adjective describes the nationality of {e}?
    what is the adjective for things from {e}?
    The adjective for the nationality of {e} is {a}.
    Things from {e} are described as {a}.
ethnic group
    what is the largest ethnic group in {e}?
    which ethnic group comes first in {e}?
    to which ethnic group do most people of {e} belong?
    The largest ethnic group in {e} is {a}.
    Among the ethnic groups of {e}, {a} comes first.
    {a} is the main ethnic group of {e}.
official language
    what is the official language of {e}?
    which language is official in {e}?
    what language does the government of {e} use?
    The official language of {e} is {a}.
    {a} is an official language in {e}.
    Among the languages of {e}, {a} is official.
religion
    what is the main religion of {e}?
    which religion is the most common in {e}?
    what religion do most people of {e} follow?
    The main religion of {e} is {a}.
    Among the religions of {e}, {a} comes first.
    Most believers in {e} are {a}.
largest city
    what is the largest city of {e}?
    which urban area of {e} has the most people?
    what is the most populous city in {e}?
    The largest city of {e} is {a}.
    {a} is the most populous urban area of {e}.
    Among the major urban areas of {e}, {a} comes first.
city population
    how many people live in the largest city of {e}?
    what is the population of the largest urban area of {e}?
    The largest urban area of {e} has a population of {a}.
    In the largest city of {e} live {a} people.
long name
    what is the conventional long form of the name of {e}?
    what is the full official name of {e}?
    what is {e} officially called?
    The conventional long form of the name of {e} is {a}.
    {e} is officially called the {a}.
    The full name of {e} is {a}.
local name
    what is the local name of {e}?
    how do its own people write the name of {e}?
    The local short form of the name of {e} is {a}.
    Locally, {e} is called {a}.
former name
    what was {e} formerly called?
    what is a former name of {e}?
    which name did {e} have in the past?
    {e} was formerly called {a}.
    A former name of {e} is {a}.
    In the past, {e} was known as {a}.
government type
    what type of government does {e} have?
    which form of government does {e} have?
    how is {e} governed?
    The government type of {e} is {a}.
    {e} is a {a}.
    The form of government in {e} is {a}.
status
    what is the dependency status of {e}?
    what kind of dependency is {e}?
    The dependency status of {e} is {a}.
    By its status {e} is described as {a}.
chief of state
    who is the chief of state of {e}?
    who is the head of state of {e}?
    which person is the chief of state in {e}?
    The chief of state of {e} is {a}.
    {a} is the head of state of {e}.
    As its chief of state, {e} has {a}.
head of government
    who is the head of government of {e}?
    who leads the government of {e}?
    which person is the head of government in {e}?
    The head of government of {e} is {a}.
    {a} leads the government of {e}.
    As its head of government, {e} has {a}.
in office since
    since when has the chief of state of {e} been in office?
    when did the chief of state of {e} take office?
    The chief of state of {e} has been in office since {a}.
    On {a} the present chief of state of {e} took office.
election date
    when was the most recent presidential or executive election in {e}?
    what is the most recent election date of the executive branch of {e}?
    The most recent election for the executive branch of {e} was on {a}.
    On {a} the executive branch of {e} was elected.
legislature
    what is the legislature of {e} called?
    what is the name of the legislature of {e}?
    which body makes the laws of {e}?
    The legislature of {e} is the {a}.
    The name of the legislature of {e} is {a}.
    Laws in {e} are made by the {a}.
legislature, local
    what is the local name of the legislature of {e}?
    how is the legislature of {e} called in its own language?
    The local name of the legislature of {e} is {a}.
    In its own language, the legislature of {e} is called {a}.
seats
    how many seats does the legislature of {e} have?
    what is the number of seats in the legislative branch of {e}?
    The legislature of {e} has {a} seats.
    The number of seats in the legislative branch of {e} is {a}.
lower chamber
    what is the lower chamber of the legislature of {e} called?
    what is the name of the lower chamber in {e}?
    The lower chamber of the legislature of {e} is the {a}.
    In {e}, the lower chamber is called {a}.
lower chamber seats
    how many seats does the lower chamber of {e} have?
    what is the number of seats in the lower chamber of {e}?
    The lower chamber of {e} has {a} seats.
    The number of seats in the lower chamber of {e} is {a}.
upper chamber
    what is the upper chamber of the legislature of {e} called?
    what is the name of the upper chamber in {e}?
    The upper chamber of the legislature of {e} is the {a}.
    In {e}, the upper chamber is called {a}.
upper chamber seats
    how many seats does the upper chamber of {e} have?
    what is the number of seats in the upper chamber of {e}?
    The upper chamber of {e} has {a} seats.
    The number of seats in the upper chamber of {e} is {a}.
highest court
    what is the highest court of {e}?
    which court is the highest in {e}?
    what is the highest court in the judicial branch of {e}?
    The highest court of {e} is the {a}.
    {a} is the highest court in {e}.
    The judicial branch of {e} is headed by the {a}.
independence
    when did {e} become independent?
    what is the date of independence of {e}?
    on which date did {e} gain its independence?
    {e} became independent on {a}.
    The independence of {e} dates from {a}.
    On {a}, {e} gained its independence.
independence from
    from which country did {e} become independent?
    from whom did {e} gain independence?
    which country ruled {e} before its independence?
    {e} became independent from {a}.
    {e} gained its independence from {a}.
    Before its independence, {e} was ruled by {a}.
national holiday
    what is the national holiday of {e}?
    which national holiday does {e} celebrate?
    what is the name of the national holiday in {e}?
    The national holiday of {e} is {a}.
    {e} celebrates {a} as its national holiday.
    {a} is the national holiday in {e}.
holiday date
    on which day is the national holiday of {e}?
    when does {e} celebrate its national holiday?
    The national holiday of {e} is on {a}.
    {e} celebrates its national holiday on {a}.
national symbol
    what is the national symbol of {e}?
    which symbol stands for {e}?
    what animal, plant or thing is the national symbol of {e}?
    The national symbol of {e} is the {a}.
    {e} has the {a} as its national symbol.
    The {a} stands for {e} as its national symbol.
anthem
    what is the title of the national anthem of {e}?
    what is the national anthem of {e} called?
    which song is the national anthem of {e}?
    The national anthem of {e} is {a}.
    The title of the national anthem of {e} is {a}.
    {a} is the national anthem of {e}.
anthem, English
    what does the title of the national anthem of {e} mean in English?
    how is the title of the national anthem of {e} translated?
    The title of the national anthem of {e} means {a}.
    In English, the national anthem of {e} is called {a}.
anthem lyrics
    who wrote the lyrics of the national anthem of {e}?
    who wrote the words of the anthem of {e}?
    The lyrics of the national anthem of {e} were written by {a}.
    {a} wrote the words of the national anthem of {e}.
anthem music
    who wrote the music of the national anthem of {e}?
    who composed the anthem of {e}?
    The music of the national anthem of {e} was written by {a}.
    {a} composed the national anthem of {e}.
farm product
    what is the main agricultural product of {e}?
    which agricultural product comes first in {e}?
    what do the farms of {e} produce most?
    The main agricultural product of {e} is {a}.
    Among the agricultural products of {e}, {a} comes first.
    Farms in {e} produce more {a} than anything else.
export partner
    which country is the main export partner of {e}?
    where do most exports of {e} go?
    who buys the most exports of {e}?
    The main export partner of {e} is {a}.
    Among the export partners of {e}, {a} comes first.
    {a} buys the largest share of the exports of {e}.
export
    what is the main export of {e}?
    which commodity does {e} export most?
    what comes first among the export commodities of {e}?
    The main export commodity of {e} is {a}.
    Among the export commodities of {e}, {a} comes first.
    {e} exports above all {a}.
import partner
    which country is the main import partner of {e}?
    where do most imports of {e} come from?
    from which country does {e} buy the most?
    The main import partner of {e} is {a}.
    Among the import partners of {e}, {a} comes first.
    The largest share of the imports of {e} comes from {a}.
currency
    what is the currency of {e}?
    which money is used in {e}?
    in what currency are prices in {e}?
    The currency of {e} is {a}.
    People in {e} pay in {a}.
    Prices in {e} are given in {a}.
currency code
    what is the currency code of {e}?
    which three letters stand for the currency of {e}?
    The code of the currency of {e} is {a}.
    The currency of {e} is written {a} for short.
internet code
    what is the internet country code of {e}?
    which internet domain belongs to {e}?
    what do internet addresses in {e} end in?
    The internet country code of {e} is {a}.
    Internet addresses in {e} end in {a}.
    {a} is the internet domain of {e}.
neighbour
    which country borders {e}?
    what country shares a land border with {e}?
    which country is a neighbor of {e}?
    {e} shares a land border with {a}.
    {a} is one of the border countries of {e}.
    {e} borders {a}.
border length
    how long is the border between {e} and {f}?
    what is the length of the border between {f} and {e}?
    The border between {e} and {f} is {a} long.
    {f} and {e} share a land border of {a}.
"""


def _read(text: str) -> dict[str, Phrasing]:
    lines: dict[str, list[str]] = {}
    kind = ""
    for line in text.strip().splitlines():
        if line.startswith(" "):
            lines[kind].append(line.strip())
        else:
            kind = line
            lines[kind] = []
    return {
        kind: Phrasing(
            questions=tuple(line for line in said if line.endswith("?")),
            statements=tuple(line for line in said if not line.endswith("?")),
        )
        for kind, said in lines.items()
    }


PHRASINGS: Mapping[str, Phrasing] = _read(_TEXT)
"""By the field of the fact."""
