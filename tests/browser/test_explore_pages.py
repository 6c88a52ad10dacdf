"""The explorer's pages from end to end, in a headless Chromium: what is typed and clicked, and what is then there.

Screenshots of each view, light, dark and as wide as a phone, go to REALM_SCREENSHOTS or a temporary folder.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

import pytest

from realm_ds.eval.cloze import RealmForCloze
from realm_ds.explore.showing import percent
from tests.support.explored import NASTY, Scene, make_scene, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
STATEMENT = "the river of brest is called [MASK]."
SHAPES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1180, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1180, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}
VIEWS = {
    "ask": ("/?" + urlencode({"model": 1, "q": STATEMENT}), ".passage"),
    "compare": ("/compare?" + urlencode({"q": STATEMENT}), ".side .passage"),
    "run": ("/run", "figure canvas"),
}
PATIENCE_MS = 120_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def printed(scene: Scene) -> Iterator[str]:
    """The address, with its token."""
    pytest.importorskip("nicegui")
    with serving(scene.folder) as printed:
        yield printed


@pytest.fixture
def address(printed: str) -> str:
    return urljoin(printed, "/").removesuffix("/")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: "Browser", printed: str, **shape: Any) -> "Iterator[Page]":
    """A page that is let in, whose every request must be to this server, and whose console must stay silent."""
    context = browser.new_context(**shape)
    context.request.get(printed, max_redirects=0)  # As if the address had been opened before.
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith("data:")}
    context.close()
    assert hosts == {urlsplit(printed).netloc}
    assert not faults


def test_only_the_printed_address_opens_it_and_its_token_is_not_shown(
    browser: "Browser", printed: str, address: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    refused = page.goto(address)
    assert refused is not None
    assert refused.status == 403
    assert "open the address that `realm-ds explore` printed" in page.locator("body").inner_text()
    page.goto(f"{printed}&model=1")
    assert page.url == f"{address}/?model=1"
    page.locator(".examples button").first.click()
    page.locator(".passage").first.wait_for()  # Comes by web socket.
    context.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_view_fits_and_shows_html_as_text(
    browser: "Browser", printed: str, address: str, tmp_path: Path, shape: str
) -> None:  # fmt: skip
    folder = Path(os.environ.get("REALM_SCREENSHOTS", tmp_path))
    with opened(browser, printed, **SHAPES[shape]) as page:
        for view, (path, shown) in VIEWS.items():
            page.goto(address + path)
            page.locator(shown).first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") == SHAPES[shape]["viewport"]["width"]
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, ground[4:-1].split(","))) < 200) == (shape == "dark"), ground
            assert NASTY in page.locator("#content").inner_text()
            assert "REALM explorer" in page.title()
            assert page.locator("#content img, #content script").count() == 0
            page.screenshot(path=folder / f"{view}-{shape}.png", full_page=True)


def test_a_blank_is_filled_in_and_the_answer_chosen_by_keyboard_alone(
    browser: "Browser", printed: str, address: str, scene: Scene
) -> None:
    looked = RealmForCloze.from_pretrained(scene.folder / "pretrain").look(STATEMENT)
    with opened(browser, printed) as page:
        page.goto(address)
        page.locator("#model").focus()
        page.keyboard.press("ArrowUp")
        page.get_by_label("Statement with a blank").wait_for()
        page.keyboard.press("Tab")
        page.keyboard.type(STATEMENT.replace("[MASK]", "___"))
        page.keyboard.press("Enter")
        page.locator(".statement strong").get_by_text(looked.answers[0][0], exact=True).wait_for()
        titles = [read.passage.title if read.passage is not None else "The null passage" for read in looked.read]
        assert page.locator(".passage h3").all_inner_texts() == titles
        assert page.locator(".passage .retrieved .value").all_inner_texts() == [percent(read.p) for read in looked.read]
        assert page.url == f"{address}/?{urlencode({'model': 1, 'q': STATEMENT.replace('[MASK]', '___')})}"
        second = page.locator("button.word").nth(1)
        while not second.evaluate("(button) => button === document.activeElement"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator(".statement strong").get_by_text(looked.answers[1][0], exact=True).wait_for()
        shown = page.locator(".passage .says .value").all_inner_texts()
        assert shown == [percent(read.says[1].p) for read in looked.read]
        assert page.locator("button.word").nth(1).get_attribute("aria-pressed") == "true"


def test_an_example_is_asked_with_one_click_and_what_cannot_be_asked_is_told_in_place(
    browser: "Browser", printed: str, address: str
) -> None:
    with opened(browser, printed) as page:
        page.goto(f"{address}/?model=1")
        page.locator(".examples button").first.click()
        page.locator(".passage").first.wait_for()
        for asked, told in (
            ("no blank at all", "no [MASK], but a pre-trained model fills in exactly one"),
            ("", "the question is empty"),
            (f"{NASTY} " * 2000, "characters are no question: at most 100,000"),
            ("\x07 [MASK]", "nothing in it is a word"),
        ):
            page.locator("#question").fill(asked)
            page.get_by_role("button", name="Ask", exact=True).click()
            page.get_by_role("alert").filter(has_text=told).wait_for()
            assert page.locator(".passage").count() == 0


def test_a_question_is_answered_with_spans_marked_and_a_model_chosen(
    browser: "Browser", printed: str, address: str, scene: Scene
) -> None:
    with opened(browser, printed) as page:
        page.goto(address)
        page.get_by_label("Question").fill("what is the mayor of arlon called?")
        page.get_by_role("button", name="Ask", exact=True).click()
        answer = page.locator(".statement strong").inner_text()
        assert answer in page.locator(".passage mark").all_inner_texts()
        assert sorted(page.locator(".passage h3").all_inner_texts()) == sorted(scene.titles)


def test_two_models_are_compared_and_what_moved_is_marked(
    browser: "Browser", printed: str, address: str, scene: Scene
) -> None:
    looked = [RealmForCloze.from_pretrained(scene.folder / stage).look(STATEMENT) for stage in ("ict", "pretrain")]
    before, after = ([read.passage.uid if read.passage else 0 for read in of_one.read] for of_one in looked)
    with opened(browser, printed) as page:
        page.goto(f"{address}/compare")
        page.get_by_label("Statement").fill(STATEMENT)
        page.get_by_role("button", name="Compare").click()
        page.locator(".side .passage").first.wait_for()
        assert page.locator(".side h2").all_inner_texts() == ["ict", "pretrain"]
        moves = page.locator(".side").nth(1).locator(".move").all_inner_texts()
        was = [before.index(uid) + 1 for uid in after]
        assert [move.rpartition(" ")[2] for move in moves] == [
            str(then) if then != now else "place" for now, then in enumerate(was, start=1)
        ]


def test_a_run_has_curves_and_what_each_version_found(browser: "Browser", printed: str, address: str) -> None:
    with opened(browser, printed) as page:
        page.goto(f"{address}/run")
        page.locator("figure canvas").first.wait_for()
        assert page.locator("figure h2").all_inner_texts() == [
            "Loss", "Retrieval utility", "Null share", "Staleness", "Time of a step", "Where a step's time goes",
        ]  # fmt: skip
        assert page.locator(".finding strong").all_inner_texts() == ["Chad", "Chad", "Niger", "Niger"]
        assert page.locator(".finding.other").count() == 1


def test_dark_and_light_are_toggled_and_kept(browser: "Browser", printed: str, address: str) -> None:
    with opened(browser, printed, color_scheme="light") as page:
        page.goto(address)
        page.get_by_role("button", name="Light or dark").click()
        scheme = "getComputedStyle(document.documentElement).colorScheme"
        assert page.evaluate(scheme) == "dark"
        page.goto(f"{address}/run")
        assert page.evaluate(scheme) == "dark"
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate(scheme) == "light"
