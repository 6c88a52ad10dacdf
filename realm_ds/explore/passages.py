"""How a question that was looked at is drawn: the answer on top, and the passages with what each says and is worth."""

from collections.abc import Callable, Iterator

from realm_ds.eval.looking import Looked, Read, Said
from realm_ds.eval.reading import SPANS_OF_A_PASSAGE
from realm_ds.explore.frame import bar, element, fact, text
from realm_ds.explore.showing import around_the_blank, chance, cut_at_marks, nats, percent, title_of, worth

SHOWN_WORDS = 3
"""Of what a passage says by itself."""


def answer_on_top(looked: Looked, chosen: int, choose: Callable[[int], None] | None = None) -> None:
    """The marginal prediction, and the others to choose from."""
    best, p = looked.answers[chosen]
    with element("section", "answer").props('aria-label="Answer"'):
        before, after = around_the_blank(looked.question)
        with element("p", "statement"):
            text("span", before)
            text("strong", best)
            text("span", after)
            text("span", percent(p), "p")
        with element("div", "words").props('role="group" aria-label="Answers by p(y|x)"'):
            for number, (word, p_word) in enumerate(looked.answers):
                with element("button" if choose else "span", "word") as own:
                    text("span", word)
                    text("span", percent(p_word), "p")
                if number == chosen:
                    own.classes("chosen")
                if choose:
                    own.props(f'type="button" aria-pressed="{"true" if number == chosen else "false"}"')
                    own.on("click", lambda _, number=number: choose(number))
        if looked.remark:
            text("p", looked.remark, "remark")


def passage_card(looked: Looked, read: Read, place: int, chosen: int, *, moved: tuple[str, str] | None = None) -> None:
    """One passage; `moved` is how its place changed and what that is called."""
    utility = looked.utility(read, chosen)
    with element("li", f"passage {'null' if read.passage is None else ''}"):
        with element("div", "title"):
            text("span", str(place), "place")
            text("h3", title_of(read))
            if moved is not None:
                text("span", moved[1], f"move {moved[0]}")
            if utility is not None:
                fact("utility", f"{nats(utility)} nats", worth(utility))
        with element("div", "bars"):
            bar("p(z|x)", read.p, percent(read.p), "retrieved")
            said, reads_spans = read.says[chosen], looked.answer_by == "span"
            if reads_spans:
                bar("after reading", read.weight, percent(read.weight), "weight")
            bar("best span" if reads_spans else "p(y|z,x)", said.p, chance(said), "says")
        if read.passage is not None:
            _body(read.passage.text, said)
        else:
            text("p", "Nothing is retrieved: what the model says from its own weights.", "body quiet")
        _says(read, looked.answers[chosen][0])


def _body(said_by: str, said: Said) -> None:
    with element("p", "body"):
        for part, is_marked in cut_at_marks(said_by, said.spans):
            text("mark" if is_marked else "span", part)


def _says(read: Read, chosen: str) -> None:
    with element("div", "own"):
        text("span", "says", "name")
        for said in read.best[:SHOWN_WORDS]:
            with element("span", "word small"):
                text("span", said.text, "same" if said.text == chosen else "")
                text("span", percent(said.p), "p")


def legend(looked: Looked) -> None:
    """What the numbers mean."""
    with element("details", "legend"):
        text("summary", "What the numbers mean")
        with element("dl"):
            for name, meaning in _meanings(looked):
                text("dt", name)
                text("dd", meaning)


def _meanings(looked: Looked) -> Iterator[tuple[str, str]]:
    yield "p(z|x)", "How sure the retriever is of the passage, before it is read: the passages sum to 1."
    if looked.answer_by == "span":
        yield "after reading", "The passage's share of all spans, once retriever and reader have spoken."
        yield (
            "best span",
            "p(y|z,x): of all the passage's spans, the probability of the best that says the chosen answer. Only its "
            f"{SPANS_OF_A_PASSAGE} best are looked at: < is below the least of these.",
        )
        yield "p(y|x)", "The answer's probability, that of its best span: the greatest of after reading x best span."
        return
    yield "p(y|z,x)", "How probable the chosen answer is by this passage alone."
    yield "p(y|x)", "The answer's probability over all passages: the sum of p(z|x) p(y|z,x)."
    if looked.null is not None:
        yield (
            "utility",
            "log p(y|z,x) - log p(y|null,x): how much the passage helps over no passage at all. Above 0 it helps.",
        )
