"""View 1: a question or a statement with a blank, and all that one model has to say to it."""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlencode

from nicegui import ui

from realm_ds.eval.looking import Looked
from realm_ds.explore.frame import chooser, element, form, frame, problem, question_field, show_examples, text, work
from realm_ds.explore.passages import answer_on_top, legend, passage_card
from realm_ds.explore.places import Choice, Places, chosen_of
from realm_ds.explore.shelf import Shelf

NOTHING_TO_ASK = (
    "There is no model to ask: this run has no export yet. `realm-ds export --run RUN` writes one of a pre-trained "
    "run, `realm-ds qa train` at its end."
)


def add(places: Places, shelf: Shelf) -> None:
    """Serve it at /. What the address has (?q=...&model=...) is asked at once."""

    @ui.page("/")
    async def ask(q: str = "", model: str = "") -> None:
        with frame("/"):
            text("h1", "What does it know, and from where?")
            if not places.choices:
                problem(NOTHING_TO_ASK)
                return
            # The last export: of a demo the fine-tuned model.
            page = _Asking(
                places, shelf, chosen=chosen_of(len(places.choices), asked_for=model, otherwise=places.exports[-1])
            )
            await page.draw(q)


class _Asking:
    """One open page."""

    def __init__(self, places: Places, shelf: Shelf, *, chosen: int) -> None:
        self._places, self._shelf, self._chosen = places, shelf, chosen
        self._turn = asyncio.Lock()

    @property
    def _choice(self) -> Choice:
        return self._places.choices[self._chosen]

    async def draw(self, asked: str) -> None:
        """Draw it; what is asked already is answered once the page is open."""
        with form(self._submitted):
            chooser("model", "Model", self._places.names, self._chosen, self._choose)
            self._label = question_field(self._choice.asks_for, asked)
            text("button", "Ask", "go").props('type="submit"')
        self._examples = element("div")
        self._result = element("div").props('aria-live="polite"')
        if asked:
            ui.timer(0, lambda: self._ask(asked), once=True)
        await show_examples(self._examples, self._choice)

    async def _choose(self, number: int) -> None:
        self._chosen = number
        self._label.set_text(self._choice.asks_for)
        await show_examples(self._examples, self._choice)

    async def _submitted(self, fields: Mapping[str, str]) -> None:
        await self._ask(fields["question"].strip())

    async def _ask(self, asked: str) -> None:
        choice = self._choice
        ui.navigate.history.replace(f"/?{urlencode({'model': self._chosen, 'q': asked})}")
        async with self._turn:
            looked = await work(
                self._result, f"opening {choice.name}", lambda tell: self._shelf.look(choice, asked, tell=tell)
            )
            if looked is not None:
                self._show(looked, 0)

    def _show(self, looked: Looked, chosen: int) -> None:
        self._result.clear()
        with self._result:
            if looked.problem:
                problem(looked.problem)
                return
            answer_on_top(looked, chosen, lambda number: self._show(looked, number))
            with element("ol", "passages"):
                for place, read in enumerate(looked.read, start=1):
                    passage_card(looked, read, place, chosen)
            legend(looked)
