"""What all pages share: head and navigation, forms, and how long work and errors look. How it looks is page.css.

Text is given to elements as text, never as HTML: what passages and questions say is data.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nicegui import run, ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from realm_ds.errors import RealmError
from realm_ds.eval.exported import Tell
from realm_ds.explore.examples import examples_for
from realm_ds.explore.places import Choice

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#3b5bdb"/>'
    '<path d="M8 10h16M8 16h10M8 22h13" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>'
)
PAGES = (("/", "Ask"), ("/compare", "Compare"), ("/run", "Run"))
# Before anything is drawn, so that a dark page does not flash; colours follow color-scheme (page.css).
_THEME = """<script>
document.documentElement.style.colorScheme = localStorage.getItem("theme") || ""
function nextTheme(button) {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.style.colorScheme && matchMedia("(prefers-color-scheme: dark)").matches)
  const theme = dark ? "light" : "dark"
  document.documentElement.style.colorScheme = theme
  localStorage.setItem("theme", theme)
}
function submitOnEnter(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault()
    event.target.form.requestSubmit()
  }
}
function askExample(event) {
  const question = document.getElementById("question")
  question.value = event.currentTarget.textContent
  question.form.requestSubmit()
}
</script>"""
_FIELDS = "(event) => { event.preventDefault(); emit(Object.fromEntries(new FormData(event.target))) }"
T = TypeVar("T")
Submit = Callable[[Mapping[str, str]], Awaitable[None]]


class Label(TextElement):
    """Any element of HTML that says something, which may change."""

    def __init__(self, tag: str, said: str) -> None:
        super().__init__(tag=tag, text=said)


@contextmanager
def frame(path: str) -> Iterator[None]:
    """A page with what stands above and below its content."""
    title = dict(PAGES)[path]
    ui.page_title(f"{title}: REALM explorer")
    ui.add_css(HERE / "page.css")
    ui.add_head_html(_THEME)
    with element("a", "skip").props('href="#content"'):
        text("span", "To the content")
    with element("header", "top"):
        with element("a", "brand").props('href="/"'):
            text("span", "REALM")
            text("span", "explorer", "quiet")
        with element("nav").props('aria-label="Views"'):
            for target, name in PAGES:
                link = text("a", name).props(f'href="{target}"')
                if target == path:
                    link.props('aria-current="page"')
        button = text("button", "◐", "theme").props('type="button" aria-label="Light or dark" title="Light or dark"')
        button.on("click", js_handler="() => nextTheme()")
    with element("div", "content").props('id="content" tabindex="-1"'):
        yield


def element(tag: str, classes: str = "") -> Element:
    """An element of HTML, to be filled."""
    return ui.element(tag).classes(classes)


def text(tag: str, said: str, classes: str = "") -> Label:
    """An element that says something."""
    return Label(tag, said).classes(classes)


def fact(name: str, value: str, classes: str = "") -> None:
    """A number with its name."""
    with element("span", f"fact {classes}"):
        text("span", name, "name")
        text("span", value, "value")


def bar(name: str, share: float, value: str, classes: str = "") -> None:
    """A share of 1 as a bar, with its name and number."""
    with element("div", f"bar {classes}"):
        text("span", name, "name")
        with element("span", "track").props('aria-hidden="true"'):
            element("span", "fill").style(f"width: {100 * min(max(share, 0.0), 1.0):.2f}%")
        text("span", value, "value")


@contextmanager
def form(submit: Submit) -> Iterator[None]:
    """Fields that are handed over together, as text by name."""

    async def handed(event: Any) -> None:
        await submit(event.args)

    with element("form", "ask") as own:
        own.on("submit", handed, js_handler=_FIELDS)
        yield


def chooser(
    name: str, label: str, names: Sequence[str], chosen: int, changed: Callable[[int], Awaitable[None]]
) -> None:
    """A field to choose one of several with."""
    with element("div", "field"):
        text("label", label).props(f'for="{name}"')
        with element("select").props(f'id="{name}" name="{name}"') as own:
            for number, said in enumerate(names):
                option = text("option", said).props(f'value="{number}"')
                if number == chosen:
                    option.props("selected")
        own.on("change", lambda event: changed(int(event.args)), js_handler="(event) => emit(event.target.value)")


def question_field(label: str, asked: str) -> Label:
    """A field for what is asked; Enter asks. Returns its label."""
    with element("div", "field wide"):
        name = text("label", label).props('for="question"')
        field = text("textarea", asked).props('id="question" name="question" rows="2" autofocus spellcheck="false"')
        field.on("keydown", js_handler="(event) => submitOnEnter(event)")
    return name


async def show_examples(place: Element, choice: Choice) -> None:
    """What can be asked with one click."""
    try:
        said = await run.io_bound(examples_for, choice)
        fault = ""
    except (RealmError, OSError):
        said, fault = [], ""  # What is wrong with the model is told when it is asked.
    except Exception as error:
        said, fault = [], _told(error)
    place.clear()
    with place:
        if fault:
            problem(fault)
        if said:
            with element("div", "examples").props('role="group" aria-label="Examples"'):
                for example in said:
                    button = text("button", example).props('type="button"')
                    button.on("click", js_handler="(event) => askExample(event)")


def problem(said: str) -> None:
    """What went wrong, in place."""
    text("p", said, "problem").props('role="alert"')


async def work(place: Element, doing: str, job: Callable[[Tell], T]) -> T | None:
    """What the job returns, done in another thread while `place` says how far it is; None if it failed."""
    state, started_at = {"doing": doing}, time.monotonic()
    place.clear()
    with place, element("div", "working").props('role="status"'):
        element("span", "runner").props('aria-hidden="true"')
        said = text("span", f"{doing} ...")

    def tell(now: str) -> None:
        state["doing"] = now

    def show() -> None:
        took_s = time.monotonic() - started_at
        said.set_text(f"{state['doing']} ..." + (f" {took_s:.0f} s" if took_s >= 1 else ""))

    with place:
        timer = ui.timer(0.2, show)
    fault = ""
    try:
        return await run.io_bound(job, tell)
    except Exception as error:  # Whatever it is, whoever waits must see it.
        fault = _told(error)
    finally:
        timer.cancel()
        place.clear()
    with place:
        problem(fault)
    return None


def _told(error: Exception) -> str:
    """What went wrong, in words; what nobody foresaw is also logged, with where it happened."""
    if isinstance(error, RealmError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}"
    logger.error("a page of the explorer failed", exc_info=error)
    return f"{type(error).__name__}: {error} (where it happened is told where `realm-ds explore` runs)"
