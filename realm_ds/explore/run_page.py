"""View 3: one run as it now stands: how far it is, its curves, where its time goes, and what each version of the index
found for the probe queries.
"""

import asyncio
from pathlib import Path
from urllib.parse import urlencode

from nicegui import ui

from realm_ds.explore.curves import charts, number, options
from realm_ds.explore.frame import bar, chooser, element, fact, frame, problem, text, work
from realm_ds.explore.places import Places, chosen_of
from realm_ds.explore.shelf import Shelf
from realm_ds.explore.showing import percent
from realm_ds.reports.history import ProbeFinding, ProbeHistory, RunHistory, read_history

NO_RUN = (
    "No run here: an export says nothing of how it came about. Name the folder that was given as --run, or a demo's."
)


def add(places: Places, shelf: Shelf) -> None:
    """Serve it at /run; ?run=... says which."""

    @ui.page("/run")
    async def look(run: str = "") -> None:
        with frame("/run"):
            text("h1", "How did it get there?")
            if not places.runs:
                problem(NO_RUN)
                return
            names = [name for name, _ in places.runs]
            usual = names.index("pretrain") if "pretrain" in names else 0
            chosen = chosen_of(len(names), asked_for=run, otherwise=usual)
            await _Browsing(places.runs, chosen).draw()


class _Browsing:
    """One open page."""

    def __init__(self, runs: tuple[tuple[str, Path], ...], chosen: int) -> None:
        self._runs, self._chosen = runs, chosen
        self._turn = asyncio.Lock()

    async def draw(self) -> None:
        """Draw it; the run is read once the page is open."""
        with element("div", "ask"):
            chooser("run", "Run", [name for name, _ in self._runs], self._chosen, self._choose)
            again = text("button", "Read again").props('type="button"')
            again.on("click", lambda: self._read())
        self._result = element("div").props('aria-live="polite"')
        ui.timer(0, self._read, once=True)

    async def _choose(self, number: int) -> None:
        self._chosen = number
        ui.navigate.history.replace(f"/run?{urlencode({'run': number})}")
        await self._read()

    async def _read(self) -> None:
        name, folder = self._runs[self._chosen]
        async with self._turn:
            history = await work(self._result, f"reading {name}", lambda _: read_history(folder))
            if history is None:
                return
            with self._result:
                _facts(history)
                _charts(history)
                _probes(history)


def _facts(history: RunHistory) -> None:
    trainers = history.worlds[-1].trainers if history.worlds else 0
    adopted = [version for version in history.versions if version.adopted_step is not None]
    with element("div", "facts"):
        fact("stage", history.stage)
        fact("steps", f"{history.steps_done:,} of {history.num_steps:,}")
        fact("trainers", str(trainers))
        if adopted:
            fact("index versions", str(len(adopted)))
        if history.environment.hosts:
            fact("hosts", str(len(history.environment.hosts)))
        for split, scores in history.scores.items():
            fact(f"exact match, {split}", percent(scores["em"]))
    for said in (*history.absent, *history.remarks):
        text("p", said, "remark")


def _charts(history: RunHistory) -> None:
    adopted = [
        (version.adopted_step, version.number) for version in history.versions if version.adopted_step is not None
    ]  # fmt: skip
    with element("div", "charts"):
        for chart in charts(history):
            with element("figure"):
                with element("figcaption"):
                    text("h2", chart.title)
                    text("span", chart.told, "last")
                    text("p", chart.about, "quiet")
                ui.echart(options(chart, adopted)).classes("chart")
        _time(history)
    if adopted:
        text("p", "Faint vertical lines: a new version of the index was adopted.", "quiet note")


def _time(history: RunHistory) -> None:
    split = history.time_split()
    total = sum(split.values())
    if not total:
        return
    with element("figure"):
        with element("figcaption"):
            text("h2", "Where a step's time goes")
            text("span", f"{number(total)} ms", "last")
        for phase, took_ms in sorted(split.items(), key=lambda one: -one[1]):
            bar(phase.replace("_", " "), took_ms / total, f"{number(took_ms)} ms", "wide")


def _probes(history: RunHistory) -> None:
    if not history.probes:
        return
    text("h2", "What each version of the index found", "part")
    for probe in history.probes:
        _probe(probe)


def _probe(probe: ProbeHistory) -> None:
    with element("section", "sheet probe"):
        text("h3", probe.query)
        if probe.answers:
            text("p", f"Wanted: {' / '.join(probe.answers)}", "quiet")
        with element("ol", "findings"):
            before = None
            for finding in probe.findings:
                top = finding.hits[0].uid if finding.hits else None
                _finding(finding, is_other=before is not None and top != before)
                before = top


def _finding(finding: ProbeFinding, *, is_other: bool) -> None:
    with element("li", "finding other" if is_other else "finding"):
        with element("div", "when"):
            text("span", f"version {finding.version}")
            text("span", f"step {finding.step:,}", "quiet")
        if not finding.hits:
            text("p", "nothing found", "quiet")
            return
        top = finding.hits[0]
        with element("div", "what"):
            with element("p"):
                text("strong", top.title or f"Passage {top.uid}")
                if top.is_right is not None:
                    text("span", "right" if top.is_right else "wrong", "move right" if top.is_right else "move")
                if is_other:
                    text("span", "changed", "move changed")
            text("p", top.text, "body small")
            bar("p(z|x)", top.p, percent(top.p))
            if finding.null_p is not None:
                bar("p(null|x)", finding.null_p, percent(finding.null_p), "weight")
            text("p", ", ".join(hit.title for hit in finding.hits[1:4]), "quiet then")
