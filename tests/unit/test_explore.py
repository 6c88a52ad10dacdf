"""What the explorer shows, without a browser: places, versions of an index, marks, changes, examples, curves, hosts."""

import asyncio
import importlib
import json
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from realm_ds.cli.main import app
from realm_ds.config.base import AnswerBy
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.shards import open_shards
from realm_ds.errors import CheckpointError, DataError, IndexFault
from realm_ds.eval.asking import Answerer
from realm_ds.eval.looking import Looked, Read, Said
from realm_ds.explore.curves import charts, options
from realm_ds.explore.examples import examples_for
from realm_ds.explore.places import Choice, chosen_of, find_places
from realm_ds.explore.shelf import Shelf, open_choice
from realm_ds.explore.showing import (
    around_the_blank,
    chance,
    changes,
    cut_at_marks,
    nats,
    percent,
    title_of,
    with_mask,
    worth,
)
from realm_ds.index.store import version_folder
from realm_ds.observe.answers import Source
from realm_ds.reports.history import read_history
from tests.support.run_folders import joined, start, step_row, write_run
from tests.support.tiny import tiny_config
from tests.support.tiny_exports import Exports, make_exports, write_cloze_export
from tests.support.tiny_index import make_model, make_run


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return make_exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def run(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training run with an export, and a version 2 of its index that is of the same towers."""
    folder = tmp_path_factory.mktemp("pretrain")
    config = tiny_config(exports.folder, **{"model.start": "narrow"})
    make_run(folder, config)
    realm = make_model(config, seed=5)  # make_run's
    parts = sorted(version_folder(folder / "index", 2).glob("part-*.npy"))
    write_cloze_export(
        folder / "export", realm, shards=exports.shards, vectors=[np.load(part) for part in parts],
        tokenizer_folder=exports.folder / "tokenizer", settings=exports.settings,
    )  # fmt: skip
    return folder


STATEMENT = "the river of ghent is called [MASK]."


def source(text: str, *, title: str = "") -> Source:
    return Source(uid=len(text), title=title, text=text)


def ranking(*texts: str | None) -> Looked:
    """Passages of these texts in order; None is the null passage."""
    read = [
        Read(passage=source(text) if text is not None else None, p=0.5, weight=0.5, says=(), best=()) for text in texts
    ]  # fmt: skip
    return Looked(question="q", read=tuple(read))


def test_a_demo_has_its_stages_in_order_and_what_each_can_be_asked(exports: Exports, run: Path, tmp_path: Path) -> None:
    for name, target in (("ict", exports.cloze), ("pretrain", run), ("qa", exports.qa.parent), ("data", tmp_path)):
        (tmp_path / name).symlink_to(target)
    places = find_places([tmp_path])
    assert places.names == ["ict", "pretrain", "pretrain, index version 2", "qa"]
    assert [places.choices[number].name for number in places.exports] == ["ict", "pretrain", "qa"]
    assert [name for name, _ in places.runs] == ["pretrain"]
    assert [choice.asks_for.split()[0] for choice in places.choices] == [
        "Statement",
        "Statement",
        "Statement",
        "Question",
    ]


def test_a_number_in_an_address_may_be_anything() -> None:
    assert chosen_of(4, asked_for="3", otherwise=0) == 3
    wrong = ("4", "-1", "", "abc", "²", "9" * 5000)
    assert {chosen_of(4, asked_for=asked_for, otherwise=1) for asked_for in wrong} == {1}


def test_exports_and_runs_are_named_as_shortly_as_tells_them_apart(exports: Exports, run: Path, tmp_path: Path) -> None:
    (tmp_path / "cloze").symlink_to(exports.cloze)
    assert find_places([exports.qa, exports.cloze]).names == ["qa_run", "cloze"]
    assert find_places([exports.cloze, tmp_path / "cloze"]).names == ["cloze"]
    other = tmp_path / "other" / "cloze"
    other.mkdir(parents=True)
    (other / "answering.json").touch()
    assert find_places([exports.cloze, other]).names == [f"{exports.folder.name}/cloze", "other/cloze"]


def test_a_study_has_all_of_its_runs(exports: Exports, run: Path, tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "realm-seed-0").symlink_to(run)
    (tmp_path / "qa" / "realm-seed-0").mkdir(parents=True)
    (tmp_path / "qa" / "realm-seed-0" / "export").symlink_to(exports.qa)
    for name in ("making.json", "config.yaml", "qa/realm-seed-0/config.yaml"):
        (tmp_path / name).touch()
    assert find_places([tmp_path]).names == [
        "pretrain/realm-seed-0", "pretrain/realm-seed-0, index version 2", "qa/realm-seed-0",
    ]  # fmt: skip


def test_where_there_is_nothing_to_look_at_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no folder {tmp_path / 'nowhere'}: name a run, a demo's folder or an export"):
        find_places([tmp_path / "nowhere"])
    with pytest.raises(CheckpointError, match=r"holds neither a run \(config.yaml\) nor an export \(answering.json\)"):
        find_places([tmp_path])


def test_a_run_without_an_export_can_be_browsed_but_not_asked(tmp_path: Path) -> None:
    places = find_places([write_run(tmp_path / "new", [joined(), start()])])
    assert places.choices == ()
    assert [name for name, _ in places.runs] == ["new"]


def test_a_version_of_the_index_answers_as_an_export_of_the_same_towers(run: Path) -> None:
    told: list[str] = []
    shelf = Shelf()
    as_exported = shelf.look(Choice(name="", folder=run), STATEMENT, tell=told.append)
    version = shelf.look(Choice(name="", folder=run, version=2), STATEMENT)
    assert version == as_exported
    assert told == [
        "checking the files of the models", "reading the passages", "reading the vectors of 72 passages",
        "loading the models", "reading",
    ]  # fmt: skip


def test_what_does_not_belong_to_an_index_version_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexFault, match="no version 7 in"):
        open_choice(Choice(name="", folder=run, version=7))
    other = make_exports(tmp_path, num_facts=3)
    other.cloze.rename(tmp_path / "export")
    for name in ("index", "config.yaml"):
        (tmp_path / name).symlink_to(run / name)
    with pytest.raises(IndexFault, match=r"is of other passages than .*export: export the run again"):
        open_choice(Choice(name="", folder=tmp_path, version=2))


def test_a_shelf_opens_each_model_once_and_keeps_the_last_two_asked() -> None:
    opened: list[str] = []

    def open_one(choice: Choice, *, tell: object) -> Answerer:
        opened.append(choice.name)
        return object()  # type: ignore[return-value]

    shelf = Shelf(open_one)
    for name in "abacab":
        shelf.get(Choice(name=name, folder=Path(name)))
    assert opened == ["a", "b", "c", "b"]


@pytest.mark.parametrize(
    ("statement", "asked"),
    [
        ("Its capital is ___.", "Its capital is [MASK]."),
        ("__ and ____", "[MASK] and [MASK]"),
        ("a_b [MASK] ___", "a_b [MASK] ___"),
        ("snake_case", "snake_case"),
    ],
)
def test_a_blank_is_written_as_people_do(statement: str, asked: str) -> None:
    assert with_mask(statement) == asked


def test_an_answer_stands_in_the_blank_or_after_the_question() -> None:
    assert around_the_blank("It is [MASK].") == ("It is ", ".")
    assert around_the_blank("It is [MASK]") == ("It is ", "")
    assert around_the_blank("What is it?") == ("What is it? ", "")


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_marks_cut_a_text_and_lose_nothing(text: str, pairs: list[tuple[int, int]]) -> None:
    spans = [(min(pair), max(pair)) for pair in pairs if max(pair) <= len(text)]
    is_marked = [any(start <= place < stop for start, stop in spans) for place in range(len(text))]
    parts = list(cut_at_marks(text, spans))
    assert "".join(part for part, _ in parts) == text
    assert [mark for part, mark in parts for _ in part] == is_marked
    assert all(part for part, _ in parts)


@given(st.permutations(["a", "b", "c", None, "d"]), st.permutations(["a", "b", "e", None, "f"]))
def test_changes_between_two_rankings(before: list[str | None], after: list[str | None]) -> None:
    kept, gone = changes(ranking(*before), ranking(*after))
    assert [changed.read for changed in kept] == list(ranking(*after).read)
    for changed, text in zip(kept, after, strict=True):
        place = after.index(text) + 1
        was = before.index(text) + 1 if text in before else None
        move = "new" if was is None else "same" if was == place else "up" if was > place else "down"
        assert (changed.place, changed.before, changed.move) == (place, was, move)
        assert changed.told == {"new": "new", "same": "same place"}.get(
            move, f"{move} {abs((was or 0) - place)}, was {was}"
        )
    assert [place for place, _ in gone] == [place for place, text in enumerate(before, 1) if text not in after]


def test_numbers_as_people_read_them() -> None:
    assert [percent(share) for share in (0.0, 0.0001, 0.0005, 0.1234, 1.0)] == [
        "0.0%",
        "< 0.1%",
        "0.1%",
        "12.3%",
        "100.0%",
    ]
    assert [nats(value) for value in (None, 0.5, -1.234, -0.001)] == ["", "+0.50", "-1.23", "+0.00"]
    assert [worth(value) for value in (None, 0.0, 0.09, 0.1, -0.1)] == ["", "even", "even", "helps", "hurts"]
    told = [chance(Said(text="", p=p, at_most=at_most)) for p, at_most in ((0.2, 0), (0, 0), (0, 0.03), (0, 1e-5))]
    assert told == ["20.0%", "0.0%", "< 3.0%", "< 0.1%"]
    null, nameless = ranking(None, "abc").read
    assert (title_of(null), title_of(nameless)) == ("The null passage", "Passage 3")


def test_examples_of_a_pre_trained_model_are_its_passages_with_a_name_left_out(
    exports: Exports, tmp_path: Path
) -> None:
    tokenizer = exports.tokenizer
    texts = ["arlon has a Mayor. the end.", "arlon has a tower.", f"arlon {'has a ' * 9} Mayor.", "brest has a River."]
    passages = [
        replace(passage, text=text, body_ids=tuple(ids), sentences=((0, len(ids)),))
        for passage, text, ids in zip(exports.shards.passages(0, 4), texts, tokenizer.encode_all(texts), strict=True)
    ]
    write_shards(
        passages, tmp_path / "corpus", kind="corpus", per_shard=9, tokenizer_fingerprint=tokenizer.fingerprint,
        source="rule", settings={},
    )  # fmt: skip
    write_cloze_export(
        tmp_path / "export", exports.realm, shards=open_shards(tmp_path / "corpus", kind="corpus", fingerprint=None),
        vectors=[np.zeros((4, 16), np.float32)], tokenizer_folder=exports.folder / "tokenizer",
        settings=exports.settings,
    )  # fmt: skip
    examples = examples_for(Choice(name="", folder=tmp_path / "export"))
    assert examples == ["arlon has a [MASK].", "brest has a [MASK]."]


def test_examples_of_a_fine_tuned_model_are_questions_of_its_run(exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "export").symlink_to(exports.qa)
    choice = Choice(name="", folder=tmp_path)
    assert examples_for(choice) == []
    rows = [{"question": f"q{number}", "field": f"f{number % 5}", "is_exact": number > 7} for number in range(10)]
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert examples_for(choice) == ["q8", "q9", "q0", "q1"]


def test_curves_are_those_that_were_measured(tmp_path: Path) -> None:
    rows = [step_row(step, loss="nan" if step == 20 else 3.0) for step in (10, 20, 30)]
    evaluated = {"event": "evaluated", "step": 20, "held_out_null_share": 0.25, "held_out_recall_at_5": 0.0}
    adopted = {"event": "adopted", "step": 15, "version": 1}
    history = read_history(write_run(tmp_path, [joined(), start(), *rows[:2], evaluated, adopted, rows[2]]))
    drawn = {chart.title: chart for chart in charts(history)}
    assert list(drawn) == [
        "Loss", "Retrieval utility", "Null share", "Questions find their passage", "Staleness", "Time of a step",
    ]  # fmt: skip
    assert drawn["Questions find their passage"].told == "recall@5 0"
    assert drawn["Loss"].curves[0].points == [(10, 3.0), (30, 3.0)]
    assert [(curve.name, curve.points) for curve in drawn["Null share"].curves] == [
        ("training", [(10, 0.5), (20, 0.5), (30, 0.5)]), ("held out", [(20, 0.25)]),
    ]  # fmt: skip
    told = options(drawn["Null share"], [(15, 1)])
    assert [line["data"] for line in told["series"]] == [[[10, 0.5], [20, 0.5], [30, 0.5]], [[20, 0.25]]]
    assert told["series"][0]["markLine"]["data"] == [{"xAxis": 15}]
    assert told["aria"]["label"]["description"] == "Null share over steps: training 0.5; held out 0.25"
    json.dumps(told)


@pytest.mark.parametrize(
    ("answer_by", "passages", "bars", "explained"),
    [
        ("span", ["x"], ["p(z|x)", "after reading", "best span"], ["p(z|x)", "after reading", "best span", "p(y|x)"]),
        ("masked_word", ["x"], ["p(z|x)", "p(y|z,x)"], ["p(z|x)", "p(y|z,x)", "p(y|x)"]),
        ("masked_word", ["x", None], ["p(z|x)", "p(y|z,x)"], ["p(z|x)", "p(y|z,x)", "p(y|x)", "utility"]),
    ],
)
def test_a_passage_has_the_numbers_that_its_model_has_and_they_are_explained(
    answer_by: AnswerBy, passages: list[str | None], bars: list[str], explained: list[str]
) -> None:
    nicegui = pytest.importorskip("nicegui")
    from realm_ds.explore.passages import legend, passage_card

    read = [replace(of_one, says=(Said(text="x", p=0.5),)) for of_one in ranking(*passages).read]
    looked = Looked(question="q", answers=(("x", 0.5),), answer_by=answer_by, read=tuple(read))
    with nicegui.Client(nicegui.ui.page("/")) as client:
        passage_card(looked, read[0], 1, 0)
        legend(looked)
    drawn = list(client.elements.values())
    named = [bar.default_slot.children[0].text for bar in drawn if "bar" in bar.classes]
    assert (named, [term.text for term in drawn if term.tag == "dt"]) == (bars, explained)


def test_whatever_goes_wrong_is_told_in_place_and_what_nobody_foresaw_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nicegui = pytest.importorskip("nicegui")
    from realm_ds.explore import frame

    async def told_of(error: Exception) -> list[list[str]]:
        def fails(*_: object) -> None:
            raise error

        monkeypatch.setattr(nicegui.core, "loop", asyncio.get_running_loop())
        monkeypatch.setattr(frame, "examples_for", fails)
        with nicegui.Client(nicegui.ui.page("/")):
            worked, examples = frame.element("div"), frame.element("div")
        assert await frame.work(worked, "reading", fails) is None
        await frame.show_examples(examples, Choice(name="", folder=Path()))
        return [[part.text for part in place.descendants()] for place in (worked, examples)]

    for error, said in (
        (DataError("no passages"), "no passages"),
        (OSError(2, "no such file", "qa"), "cannot use qa: no such file"),
    ):
        assert asyncio.run(told_of(error)) == [[said], []]
    assert not caplog.records
    for unforeseen in (RuntimeError("out of memory"), ValueError("half a file"), KeyError("read")):
        worked, examples = asyncio.run(told_of(unforeseen))
        assert worked == examples
        assert worked[0].startswith(f"{type(unforeseen).__name__}: {unforeseen} (")
        assert caplog.records[-1].exc_info[1] is unforeseen  # type: ignore[index]


def test_the_address_is_one_that_can_be_opened() -> None:
    pytest.importorskip("nicegui")
    from realm_ds.explore.serving import address_of

    assert address_of("Node01", 80) == "http://Node01:80"
    assert address_of("::1", 80) == "http://[::1]:80"
    assert address_of("0.0.0.0", 80) == address_of("::", 80) == f"http://{socket.gethostname()}:80"


def explore(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["explore", *map(str, arguments)])


def test_an_address_that_is_taken_is_told(exports: Exports) -> None:
    pytest.importorskip("nicegui")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = explore(exports.cloze, "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert "cannot listen on 127.0.0.1, port" in result.stderr
    assert "give another with --port, or 0 for any that is free" in result.stderr


def test_the_address_is_printed_and_opened_with_its_token_and_that_others_reach_it_is_told(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = pytest.importorskip("nicegui") and importlib.import_module("realm_ds.explore.serving")
    opened: list[str] = []
    monkeypatch.setattr(serving.webbrowser, "open", opened.append)
    monkeypatch.setattr(serving.uvicorn.Server, "run", lambda *_, **__: None)
    result = explore(exports.cloze, "--host", "0.0.0.0", "--port", 0, "--open")
    assert result.exit_code == 0, result.output
    address = re.search(r"http://(.*):\d+/\?token=[\w-]{32}(?= shows )", result.stdout)
    assert address is not None
    assert (opened, address[1]) == ([address[0]], socket.gethostname())
    assert "--host 0.0.0.0 is reached over the network, where nothing is encrypted" in result.stderr


def test_without_the_library_its_extra_is_named(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "realm_ds.explore.serving", None)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    monkeypatch.delitem(sys.modules, "realm_ds.explore.serving")
    for name in [name for name in sys.modules if name.startswith("realm_ds.explore.") and "page" in name]:
        monkeypatch.delitem(sys.modules, name)
    result = explore(exports.cloze)
    assert (result.exit_code, "the explorer needs nicegui: pip install 'realm-ds[explore]'" in result.stderr) == (
        2,
        True,
    )
