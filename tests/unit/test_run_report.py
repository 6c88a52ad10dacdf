"""Reports of runs written by hand: what a page and Markdown say, that they are whole, and that data stays data."""

import json
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.errors import ConfigError
from realm_ds.reports.document import Document, Findings, Paragraph, Section, Table, below, markdown
from realm_ds.reports.history import read_history
from realm_ds.reports.page import page
from realm_ds.reports.plots import CURVES, draw_curves, draw_recall, draw_time_split, running_mean
from realm_ds.reports.runs import short_names
from realm_ds.reports.sections import changed_settings
from realm_ds.reports.write import document_of, numbers_of, report_on, write_document
from tests.support.run_folders import LIBRARIES, config_of, hit, joined, probed, start, step_row, write_run

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
Row = dict[str, Any]
VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = "<script>alert('x')</script> & \"quoted\" *bold* [a](http://b) $x_1$"


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what a browser would show, link to or fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.shown += data


def pretrain_events() -> list[Row]:
    evaluated = {"event": "evaluated", "version": 1, "held_out_recall_at_5": 0.25, "held_out_log_likelihood": -2.0}
    return [
        joined(), start(), {"event": "launched", "version": 0, "step": 0},
        {"event": "adopted", "version": 0, "step": 0, "changed_share": None},
        {"event": "built", "version": 0, "index_rank": 1, "took_s": 3.25},
        probed(0, 0, {NASTY: [hit(1, title=NASTY, p=0.25, is_right=False), hit(2, title="Mali", p=0.125)]}),
        *(step_row(step) for step in (1, 10, 20)), {**evaluated, "step": 20},
        {"event": "launched", "version": 1, "step": 20},
        {"event": "adopted", "version": 1, "step": 30, "changed_share": 0.5},
        probed(30, 1, {NASTY: [hit(3, title="Chad", p=0.75, is_right=True)]}),
        {"event": "remark", "text": "the layout has changed"}, *(step_row(step) for step in (40, 100)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_of("pretrain.steps=100", "index.num_shards=1", "runtime.seed=7")
    alive = {"event": "alive", "rss_gib": 1.5, "waiting_for": "trainer <0>", "waited_s": 2.0}
    return write_run(
        tmp_path_factory.mktemp("runs") / "first", pretrain_events(), config=config,
        others={("index", 0): [joined(), alive]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def document(run: Path) -> Document:
    return document_of(run)


def qa_run(folder: Path, right: Sequence[bool], *settings: str) -> Path:
    write_run(folder, [joined(), start(), step_row(100)], stage="qa", config=config_of(*settings))
    (folder / "qa").mkdir()
    rows = [
        {"id": str(number), "question": f"q{number}", "answers": ["a"], "is_exact": is_exact, "found_place": -1}
        for number, is_exact in enumerate(right)
    ]  # fmt: skip
    (folder / "qa" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    em = float(np.mean(right))
    scores = {"questions": len(right), "em": em, "recall": {"5": 0.0}, "intervals": {"em": [em - 0.1, em + 0.1]}}
    (folder / "qa" / "test.json").write_text(json.dumps(scores))
    return folder


def table(document: Document, title: str) -> list[tuple[str, ...]]:
    """All rows below a heading."""
    (section,) = [section for section in document.sections if section.title == title]
    return [row for block in section.blocks if isinstance(block, Table) for row in block.rows]


def test_the_page_is_whole_and_asks_nothing_of_anyone(document: Document, tmp_path: Path) -> None:
    html, _ = write_document(document, tmp_path)
    text = html.read_text()
    reader = Reader(text)
    assert {"script", "link", "img", "iframe"}.isdisjoint(reader.tags)
    assert "url(http" not in text.replace("url(#", "")
    assert all(reference.startswith("#") for reference in reader.references)
    anchors = [reference for reference in reader.references if reference[1:] in reader.ids]
    assert anchors.count("#at-a-glance") == 1
    assert reader.tags.count("svg") == len(list((tmp_path / "plots").glob("*.svg"))) > 5
    for words in ("prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert words in text


def test_what_comes_from_data_stays_data(document: Document, tmp_path: Path) -> None:
    html, md = write_document(document, tmp_path)
    assert "<script" not in html.read_text()
    assert NASTY in Reader(html.read_text()).shown
    assert "trainer <0>" in Reader(html.read_text()).shown
    text = md.read_text()
    assert "\\<script\\>" in text
    assert "\\[a\\](http://b) \\$x\\_1\\$" in text


def test_what_a_report_says_by_hand(document: Document) -> None:
    assert [section.title for section in document.sections] == [
        "At a glance", "What is missing", "Settings", "Data", "Environment", "Curves", "Where the time goes",
        "Index versions", "Ranks", "Held-out measurements", "Probe queries",
    ]  # fmt: skip
    assert table(document, "Index versions") == [("0", "0", "0", "0", "3.2", ""), ("1", "20", "30", "10", "", "50.0%")]
    assert table(document, "Held-out measurements") == [("20", "1", "-2.000", "25.0%")]
    assert ("runtime.seed", "7", "0") in table(document, "Settings")
    assert table(document, "Where the time goes")[0] == ("forward", "30.0", "60.0%")
    assert ("index 0", "node1", "1.50", "1", "100.0%", "2.0", "trainer <0>") in table(document, "Ranks")
    assert ("torch", "2.9.0") in table(document, "Environment")
    (missing,) = [section for section in document.sections if section.title == "What is missing"]
    assert missing.blocks == (Paragraph(text="the layout has changed"),)


def test_probes_before_and_after(document: Document) -> None:
    (section,) = [section for section in document.sections if section.title == "Probe queries"]
    (found,) = [block for block in section.blocks if isinstance(block, Findings)]
    assert found.query == NASTY
    assert [column.title for column in found.columns] == [
        "version 0, from step 0, p(null) 25.0%", "version 1, from step 30, p(null) 25.0%",
    ]  # fmt: skip
    assert [[entry.share for entry in column.entries] for column in found.columns] == [[0.25, 0.125], [0.75]]
    assert found.notes[0] == "Answer: Niamey"
    assert found.notes[1].endswith("; version 1: Chad")


def test_settings_of_other_stages_are_left_out(tmp_path: Path) -> None:
    config = config_of("ict.steps=7", "qa.steps=7", "pretrain.steps=7")
    run = read_history(write_run(tmp_path, [start()], config=config))
    assert changed_settings(run)["pretrain.steps"] == (200_000, 7)
    assert {"ict.steps", "qa.steps"}.isdisjoint(changed_settings(run))


def test_what_one_of_two_runs_has_recorded_is_told_of_it(run: Path, tmp_path: Path) -> None:
    events = [{**joined(), "libraries": {"torch": "2.9.0", "mpi4py": "4.1.0"}}, *pretrain_events()[1:]]
    rows = table(document_of(run, write_run(tmp_path / "second", events)), "Environment")
    assert ("mpi4py", "", "4.1.0") in rows
    assert ("python", LIBRARIES["python"], "") in rows


@given(
    st.text("#~&*_<>|$`\\[]()!-+=.:1 a\n")
    | st.sampled_from(["---", "1. a", "1) a", "+ a", "- ", "# a", "&amp;", "~~~"])
)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    said = markdown(Document(title="t", lead=text, sections=()))
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = [token for token in parser.parse(said) if token.type == "inline"][1:]
    parts = [part for block in blocks for part in block.children or ()]
    assert {part.type for part in parts} <= {"text"}
    assert "".join(part.content for part in parts) == " ".join(text.split())


def test_two_runs_beside_each_other(run: Path, tmp_path: Path) -> None:
    events = [event for event in pretrain_events() if event["event"] != "probed"]
    other = write_run(tmp_path / "second", [*events, step_row(150, loss=1.0)], config=config_of("pretrain.steps=150"))
    document = document_of(run, other)
    assert ("pretrain.steps", "100", "150", "200000") in table(document, "Settings")
    assert ("runtime.seed", "7", "0", "0") in table(document, "Settings")
    loss = next(plot for plot in document.plots if plot.name == "loss")
    assert "first: loss" in loss.page_svg
    assert "second: loss" in loss.page_svg
    said = markdown(document)
    assert "The runs had no probe query in common" in said
    assert "No intervals for these: a run writes down means" in said


def test_differences_have_intervals_that_hold_their_mean(tmp_path: Path) -> None:
    right = np.random.default_rng(0).random((2, 200)) < np.array([[0.6], [0.4]])
    first, second = (qa_run(tmp_path / str(number), row.tolist()) for number, row in enumerate(right))
    (row, _) = table(document_of(first, second), "Answered questions")
    name, ours, theirs, difference, interval, p_value = row
    assert (name, ours, theirs) == ("exact match", *(f"{100 * part.mean():.1f}%" for part in right))
    by_hand = 100 * (right[0].mean() - right[1].mean())
    assert difference == f"{by_hand:+.1f}"
    low, high = (float(edge) for edge in interval.split(" to "))
    # By hand: a normal interval of the mean of the paired differences.
    spread = 196 * (right[0].astype(float) - right[1]).std() / np.sqrt(200)
    assert (low, high) == (pytest.approx(by_hand - spread, abs=1.5), pytest.approx(by_hand + spread, abs=1.5))
    assert float(p_value) < 0.05
    numbers = numbers_of(first, second)["differences"]["test"]["em"]
    assert (100 * numbers["mean"], numbers["p_value"]) == (
        pytest.approx(by_hand),
        pytest.approx(float(p_value), abs=1e-4),
    )


def test_without_the_same_questions_it_is_said_why_there_is_no_difference(tmp_path: Path) -> None:
    first, second = qa_run(tmp_path / "a", [True, False]), qa_run(tmp_path / "b", [True])
    said = markdown(document_of(first, second))
    assert "No differences with intervals: one run answered 2 questions, the other 1" in said
    assert numbers_of(first, second)["differences"] == {}


def test_runs_that_cannot_be_compared_are_refused(run: Path, tmp_path: Path) -> None:
    ict = write_run(tmp_path / "ict", [start(), step_row(1)], stage="ict")
    with pytest.raises(ConfigError, match="runs of different stages have nothing to compare: .* is pretrain and"):
        document_of(run, ict)
    with pytest.raises(ConfigError, match="is named twice"):
        document_of(run, run)
    with pytest.raises(ConfigError, match="holds several stages: name two runs of one stage"):
        document_of(run, tmp_path)


def test_stages_of_a_demo_or_pipeline_are_told_apart(tmp_path: Path) -> None:
    for stage in ("ict", "pretrain"):
        write_run(tmp_path / stage, [joined(), start(), step_row(1), step_row(10)], stage=stage)
    html, md = report_on(tmp_path, None)
    reader = Reader(html.read_text())
    assert len(reader.ids) == len(set(reader.ids))
    assert {"pre-training-curves", "warm-start-ict-curves"} <= set(reader.ids)
    assert "![Training loss](plots/pretrain-loss.svg)" in md.read_text()
    assert (tmp_path / "plots" / "ict-loss.svg").read_text().startswith("<?xml")
    assert set(numbers_of(tmp_path)) == {"ict", "pretrain"}


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    html, md = report_on(write_run(tmp_path, [joined()]), None)
    assert "No step is logged yet" in md.read_text()
    assert "svg" not in Reader(html.read_text()).tags


def test_the_same_run_gives_the_same_bytes(run: Path, document: Document) -> None:
    assert document_of(run) == document


def test_the_verb_writes_or_prints(run: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "out")])
    assert told.output.split() == [str(tmp_path / "out" / name) for name in ("report.html", "report.md")]
    told = CliRunner().invoke(app, ["report", str(run), "--json"])
    numbers = json.loads(told.output)
    assert (numbers["stage"], len(numbers["steps"]), numbers["settings"]["runtime.seed"]) == ("pretrain", 5, 7)
    assert not (run / "report.html").exists()
    refused = CliRunner().invoke(app, ["report", str(run), "--json", "--out", str(tmp_path)])
    assert (refused.exit_code, "--out would be ignored" in refused.output) == (2, True)
    nowhere = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")])
    assert (nowhere.exit_code, "is no folder, so it holds no run" in nowhere.output) == (2, True)


def test_every_curve_is_drawn_where_there_is_something_to_draw(document: Document, tmp_path: Path) -> None:
    drawn = {plot.name for plot in document.plots} - {"time_split"}
    assert drawn == {"loss", "retrieval_utility", "null_share", "held_out", "held_out_retrieval", "staleness", "search"}
    assert drawn < {curve.name for curve in CURVES}
    nothing = read_history(write_run(tmp_path, [start(), step_row(1), step_row(2, search_ms=0, wait_for_index_ms=0)]))
    assert "search" not in {plot.name for plot in draw_curves({"nothing": nothing})}
    recall = draw_recall({"Questions": {5: {"ict": 0.25}}})
    assert ">25<" in recall.page_svg
    assert "currentColor" in recall.page_svg
    assert "currentColor" not in recall.file_svg


def test_without_the_libraries_it_is_said_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document(title="", lead="", sections=())
    for library in ("matplotlib", "jinja2"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=r"plots need matplotlib.*pip install 'realm-ds\[demo\]'"):
        draw_time_split({"first": read_history(run)})
    page.__globals__["_template"].cache_clear()
    with pytest.raises(ConfigError, match=r"needs Jinja2.*pip install 'realm-ds\[demo\]'"):
        page(document)


def test_sections_below_a_heading_keep_their_names_apart() -> None:
    sections = below([Section(title="Curves", blocks=())], title="Warm start (ICT)", name="ict")
    assert [(section.title, section.level, section.anchor) for section in sections] == [
        ("Warm start (ICT)", 2, "warm-start-ict"), ("Warm start (ICT): Curves", 3, "warm-start-ict-curves"),
    ]  # fmt: skip


def test_lists_among_settings_are_words(tmp_path: Path) -> None:
    settings = table(document_of(qa_run(tmp_path / "qa", [True], "qa.answered=[dev]")), "Settings")
    assert ("qa.answered", "dev", "dev, test") in settings


def test_running_mean_by_hand() -> None:
    assert running_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]
    assert running_mean([1.0, 3.0], 1) == [1.0, 3.0]


def test_runs_are_called_by_as_little_as_tells_them_apart(tmp_path: Path) -> None:
    assert short_names([tmp_path / "a" / "qa", tmp_path / "b" / "qa"]) == ["a/qa", "b/qa"]
    assert short_names([tmp_path / "a" / "qa", tmp_path / "a" / "words"]) == ["qa", "words"]
    assert short_names([tmp_path / "qa"]) == ["qa"]
