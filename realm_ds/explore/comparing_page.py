"""View 2: the same question to two models, or two versions of a run's index, and what that changes in the ranking."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlencode

from nicegui import ui

from realm_ds.eval.exported import Tell
from realm_ds.eval.looking import Looked, Read
from realm_ds.explore.frame import chooser, element, form, frame, problem, question_field, show_examples, text, work
from realm_ds.explore.passages import answer_on_top, passage_card
from realm_ds.explore.places import Choice, Places, chosen_of
from realm_ds.explore.shelf import Shelf
from realm_ds.explore.showing import changes, title_of

NOTHING_TO_COMPARE = (
    "There is only one model here. Name two: `realm-ds explore RUN_OR_EXPORT ANOTHER`, the folder of a demo, or a "
    "pre-training run, whose index versions can be compared."
)
SIDES = ("Before", "After")


def add(places: Places, shelf: Shelf) -> None:
    """Serve it at /compare. What the address has (?q=...&before=...&after=...) is asked at once."""

    @ui.page("/compare")
    async def compare(q: str = "", before: str = "", after: str = "") -> None:
        with frame("/compare"):
            text("h1", "What changed?")
            if len(places.choices) < 2:
                problem(NOTHING_TO_COMPARE)
                return
            first, second = default_pair(places)
            count = len(places.choices)
            pair = (
                chosen_of(count, asked_for=before, otherwise=first),
                chosen_of(count, asked_for=after, otherwise=second),
            )
            await _Comparing(places, shelf, pair=pair).draw(q)


def default_pair(places: Places) -> tuple[int, int]:
    """The first two exports of the same kind (of a demo ICT's and REALM's), or the first and the last version."""
    kinds: dict[bool, list[int]] = {}
    for number in places.exports:
        kinds.setdefault(places.choices[number].answers_questions, []).append(number)
    pairs = [(numbers[0], numbers[1]) for numbers in kinds.values() if len(numbers) > 1]
    return pairs[0] if pairs else (min(1, len(places.choices) - 2), len(places.choices) - 1)


class _Comparing:
    """One open page."""

    def __init__(self, places: Places, shelf: Shelf, *, pair: tuple[int, int]) -> None:
        self._places, self._shelf, self._pair = places, shelf, list(pair)
        self._turn = asyncio.Lock()

    async def draw(self, asked: str) -> None:
        """Draw it; what is asked already is answered once the page is open."""
        with form(self._submitted):
            for side, name in enumerate(SIDES):
                chooser(
                    name.lower(), name, self._places.names, self._pair[side], partial(self._choose, side)
                )  # fmt: skip
            self._label = question_field(self._choices[1].asks_for, asked)
            text("button", "Compare", "go").props('type="submit"')
        self._examples = element("div")
        self._result = element("div").props('aria-live="polite"')
        if asked:
            ui.timer(0, lambda: self._ask(asked), once=True)
        await show_examples(self._examples, self._choices[1])

    @property
    def _choices(self) -> list[Choice]:
        return [self._places.choices[number] for number in self._pair]

    async def _choose(self, side: int, number: int) -> None:
        self._pair[side] = number
        self._label.set_text(self._choices[1].asks_for)
        await show_examples(self._examples, self._choices[1])

    async def _submitted(self, fields: Mapping[str, str]) -> None:
        await self._ask(fields["question"].strip())

    async def _ask(self, asked: str) -> None:
        before, after = self._pair
        ui.navigate.history.replace(f"/compare?{urlencode({'before': before, 'after': after, 'q': asked})}")
        choices = self._choices

        def both(tell: Tell) -> list[Looked]:
            looked = []
            for choice in choices:
                tell(f"opening {choice.name}")
                looked.append(self._shelf.look(choice, asked, tell=tell))
            return looked

        async with self._turn:
            looked = await work(self._result, "opening both models", both)
            if looked is not None:
                self._show(choices, *looked)

    def _show(self, choices: Sequence[Choice], before: Looked, after: Looked) -> None:
        kept, gone = changes(before, after)
        with self._result, element("div", "sides"):
            with _side(choices[0].name, before):
                for place, read in enumerate(before.read, start=1):
                    passage_card(before, read, place, 0)
            with _side(choices[1].name, after):
                for changed in kept:
                    moved = (changed.move, changed.told) if before.read else None
                    passage_card(after, changed.read, changed.place, 0, moved=moved)
                for place, read in gone if after.read else ():
                    _gone(place, read)


@contextmanager
def _side(name: str, looked: Looked) -> Iterator[None]:
    """One of the two, with its answer on top of its passages."""
    with element("section", "side"):
        text("h2", name)
        if looked.problem:
            problem(looked.problem)
        else:
            answer_on_top(looked, 0)
        with element("ol", "passages"):
            yield


def _gone(place: int, read: Read) -> None:
    with element("li", "passage gone"), element("div", "title"):
        text("h3", title_of(read))
        text("span", f"gone, was {place}", "move gone")
