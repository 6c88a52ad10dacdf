"""Answers to questions: their form, and how they look on a terminal. Who answers is eval/'s.

Text of passages and questions is shown as it is: none of its characters means anything to the terminal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from realm_ds.observe.inspection import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDEST = 100
"""Columns that text is wrapped to."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The passage that an answer stands in."""

    uid: int
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, and the passage that speaks for it."""

    text: str
    """As it stands in the passage's text."""
    p: float
    """Of a span: its share among all spans of all passages read. Of a word named at a [MASK]: p(y|x)."""
    p_passage: float
    """p(z|x): of the passage among those retrieved."""
    passage: Source
    span: tuple[int, int] | None
    """Characters of the passage's text, end exclusive; None where it does not hold the answer word for word."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A question with its answers, distinct and best first, or with what is wrong with it."""

    question: str
    answers: tuple[Answer, ...] = ()
    problem: str = ""
    """Why there is no answer."""
    remark: str = ""
    """What of the question was not read."""


def show_answers(answered: Answered, *, out: TextIO) -> None:
    """Print the best with its passage and the others below it: in colours on a terminal, spans in «marks» elsewhere."""
    from rich.console import Console

    console = Console(file=out, highlight=False, markup=False, emoji=False)
    for line in _lines(answered, console):
        console.print(line, soft_wrap=True)
    out.flush()


def _lines(answered: Answered, console: "Console") -> Iterator["Text"]:
    from rich.text import Text

    yield Text(printable(answered.question), "bold")
    for said in filter(None, (answered.problem, answered.remark)):
        yield Text(f"  {printable(said)}", "red" if answered.problem else "dim")
    for number, answer in enumerate(answered.answers):
        title = printable(answer.passage.title)
        source = f"{title}{', ' if title else ''}p(z|x) {answer.p_passage:.1%}"
        text = (printable(answer.text), "bold green" if number == 0 else "green")
        if number == 0:
            yield Text.assemble("  ", text, f"  {answer.p:.1%}")
            yield Text(f"    {source}", "dim")
            width = min(WIDEST, console.width) if console.is_terminal else WIDEST
            for line in _marked(answer, console).wrap(console, width - 4):
                line.rstrip()
                yield Text.assemble("    ", line)
        else:
            yield Text.assemble("  or ", text, f"  {answer.p:.1%}  ", (f"({source})", "dim"))
    yield Text()


def _marked(answer: Answer, console: "Console") -> "Text":
    from rich.text import Text

    text = answer.passage.text
    if answer.span is None:
        return Text(printable(text))
    marks = ("", "") if console.is_terminal and not console.no_color else ("«", "»")
    start, stop = answer.span
    return Text.assemble(
        printable(text[:start]),
        (f"{marks[0]}{printable(text[start:stop])}{marks[1]}", "bold yellow"),
        printable(text[stop:]),
    )
