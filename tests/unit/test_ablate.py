"""A study of ablations in its folder, without training: its settings, its table, its verb."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from realm_ds.ablate.display import Display
from realm_ds.ablate.run import Failure, Standing, command_line
from realm_ds.ablate.study import (
    Study,
    asked_for,
    describe_plan,
    prepare_folder,
    run_study,
    settings_of,
    widened,
    write_table,
)  # fmt: skip
from realm_ds.ablate.variants import REALM, Grid, choose
from realm_ds.cli.main import app
from realm_ds.errors import ConfigError, Preempted
from realm_ds.observe.progress import Progress
from tests.support.ablated import cell, scored


def study_in(out: Path, *overrides: str, source: str | None = None) -> Study:
    base, data = settings_of(out, source=source, overrides=overrides, corpus=None, questions=None)
    return Study(out=out, base=base, data=data, grid=Grid(variants=(REALM,), seeds=2))


def test_a_folder_keeps_its_settings_and_refuses_others(tmp_path: Path) -> None:
    first = study_in(tmp_path, "pretrain.steps=7")
    prepare_folder(first)
    assert first.data == [("prepare", "demo", str(tmp_path / "data"))]
    again = study_in(tmp_path)
    assert (again.base, again.data) == (first.base, first.data)
    assert study_in(tmp_path, "pretrain.steps=7").base == first.base
    assert study_in(tmp_path, "pretrain.steps=7", source="ablate").base == first.base
    with pytest.raises(ConfigError, match=r"holds a study with other settings \(pretrain\.steps=7 there, 8 here\)"):
        study_in(tmp_path, "pretrain.steps=8")


PLACES = ("data.corpus=/z", "data.pretrain=/x", "data.tokenizer=/t", "qa.data=/q")


def test_what_is_named_is_not_made(tmp_path: Path) -> None:
    assert study_in(tmp_path, *PLACES).data == []


def test_a_file_of_settings_may_name_it(tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("recipe: ablate\ndata: {corpus: /z, pretrain: /x, tokenizer: /t}\nqa: {data: /q}\n")
    study = study_in(tmp_path / "study", source=str(mine))
    assert study.data == []
    assert (study.base.data.corpus, study.base.qa.data) == (Path("/z"), Path("/q"))
    prepare_folder(study)
    assert study_in(tmp_path / "study").base == study.base
    assert study_in(tmp_path / "study", source="ablate").base == study.base  # which leaves open what is read
    with pytest.raises(ConfigError, match="a study of other documents than --corpus /wiki"):
        settings_of(tmp_path / "study", source=None, overrides=(), corpus=Path("/wiki.jsonl"), questions=None)
    mine.write_text(mine.read_text().replace("/z", "/other"))
    with pytest.raises(ConfigError, match=r"data\.corpus=/z there, /other here"):
        study_in(tmp_path / "study", source=str(mine))


@pytest.mark.parametrize(
    ("overrides", "corpus", "says"),
    [
        (PLACES[:1], None, r"name data\.corpus, and the study needs all of data\.corpus, data\.pretrain, data\.tok"),
        (
            PLACES[:3],
            None,
            "the corpus that the settings name needs questions that it answers: name their folder with --questions",
        ),
        (PLACES[:3], Path("/wiki.jsonl"), "--corpus /wiki.jsonl is to be prepared, and the settings name what is"),
        (PLACES[3:], Path("/wiki.jsonl"), "--questions /q, and the settings name qa.data: leave one of them out"),
    ],
)
def test_what_belongs_to_two_corpora_is_refused(
    tmp_path: Path, overrides: tuple[str, ...], corpus: Path | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        settings_of(
            tmp_path, source=None, overrides=overrides, corpus=corpus, questions=Path("/q") if corpus else None
        )  # fmt: skip


def test_documents_are_made_into_what_a_run_reads(tmp_path: Path) -> None:
    base, data = settings_of(
        tmp_path, source=None, overrides=(), corpus=Path("/wiki.jsonl"), questions=Path("/questions")
    )  # fmt: skip
    assert [command[1] for command in data] == ["tokenizer", "corpus", "pretrain"]
    assert str(base.qa.data) == "/questions"
    tokens = str(base.data.passage_tokens)
    assert data[1][data[1].index("--passage-tokens") + 1] == tokens
    prepare_folder(Study(out=tmp_path, base=base, data=data, grid=Grid()))
    assert study_in(tmp_path).data == data  # gone on with, it is not made of the Factbook
    again = study_in(tmp_path, f"pretrain.steps={base.pretrain.steps}")  # said once more, without the questions
    assert (again.base, again.data) == (base, data)
    settings_of(tmp_path, source=None, overrides=(), corpus=Path("/wiki.jsonl"), questions=None)
    with pytest.raises(
        ConfigError, match=r"of other documents than --corpus /news, see .*making\.json\. Leave --corpus"
    ):
        settings_of(tmp_path, source=None, overrides=(), corpus=Path("/news"), questions=Path("/questions"))


def test_the_folder_keeps_its_rows_and_seeds(tmp_path: Path) -> None:
    assert asked_for(tmp_path, only=None, seeds=None) == Grid()
    prepare_folder(replace(study_in(tmp_path), grid=Grid(variants=choose("realm,stale"), seeds=5)))
    assert asked_for(tmp_path, only=None, seeds=None) == Grid(variants=choose("realm,stale"), seeds=5)
    asked = asked_for(tmp_path, only="uniform", seeds=2)
    assert [str(one) for one in asked.cells] == ["uniform:0", "uniform:1"]
    assert widened(tmp_path, asked) == Grid(variants=choose("realm,uniform,stale"), seeds=5)


def test_how_to_go_on_names_the_cell(tmp_path: Path) -> None:
    study = replace(study_in(Path("/my study")), cell=cell("stale", 1))
    assert study.go_on == "realm-ds ablate --out '/my study' --resume --cell stale:1"
    assert replace(study, cell=None).go_on == "realm-ds ablate --out '/my study' --resume"


def test_the_plan_can_be_typed(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    lines = describe_plan(study, study.grid).splitlines()
    assert "#   1 realm:1  REALM" in lines
    assert f"{sys.executable} -m realm_ds prepare demo {tmp_path}/data" in lines
    assert command_line(("export",)) == [sys.executable, "-m", "realm_ds", "export"]


def test_the_table_of_what_is_done_so_far(tmp_path: Path) -> None:
    assert write_table(tmp_path).count("\n") == 2
    scored(tmp_path, cell("realm", 1), 0.25, 0.5)
    assert "| REALM | 25.0 |" in write_table(tmp_path)
    assert json.loads((tmp_path / "ablate.json").read_text())["cells"][0]["cell"] == "realm:1"
    assert (tmp_path / "ablate.svg").is_file()


def test_without_matplotlib_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    scored(tmp_path, cell("realm"), 0.25, 0.5)
    assert "| REALM | 25.0 |" in write_table(tmp_path)
    assert (tmp_path / "ablate.md").is_file()
    assert "ablate.svg is not drawn: plots need matplotlib, which is not installed" in caplog.text


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study takes no signals down: that would stay so after the test."""
    monkeypatch.setattr("realm_ds.ablate.study.Notice", lambda: SimpleNamespace(listen=lambda: None))


@pytest.mark.usefixtures("deaf")
def test_asked_to_end_stays_so_where_no_table_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(*given: object, **named: object) -> None:
        (tmp_path / "ablate.md").mkdir()
        raise Preempted("asked to end")

    monkeypatch.setattr("realm_ds.ablate.study.run_parts", ask)
    with pytest.raises(Preempted, match="asked to end"):
        run_study(study_in(tmp_path), jobs=1)
    assert "the table of what is done could not be written: " in caplog.text


@pytest.mark.usefixtures("deaf")
def test_scores_that_cannot_be_read_are_a_failure_of_their_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_parts(*given: object, on_change: Callable[[Standing], None], **named: object) -> list[Failure]:
        on_change(Standing(waiting=[], done=["qa/realm-seed-0"]))
        return []

    monkeypatch.setattr("realm_ds.ablate.study.run_parts", run_parts)
    scored(tmp_path, cell("realm"), 0.25, 0.5)
    (tmp_path / "qa/realm-seed-0/qa/dev.json").write_text("{}")
    assert [failure.part for failure in run_study(study_in(tmp_path), jobs=1)] == ["qa/realm-seed-0"]
    assert "qa/realm-seed-0 failed: " in capsys.readouterr().err


def test_people_see_cells_failures_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_in(tmp_path)
    names = [one.name for one in study.parts]
    scored(tmp_path, cell("realm", 0), 0.25, 0.5)
    for name, seconds in (("data", 10), ("ict/seed-0", 100), ("pretrain/realm-seed-0", 300), ("qa/realm-seed-0", 80)):
        path = tmp_path / f"parts/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"took_s": seconds}))
    metrics = tmp_path / "pretrain/realm-seed-1/metrics"
    metrics.mkdir(parents=True)
    steps = study.base.pretrain.steps
    (metrics / "trainer-0.jsonl").write_text(json.dumps({"event": "step", "step": steps // 2}) + '\n{"event": "st')
    clock = SimpleNamespace(now=0.0)
    later = [one for one in study.parts if one.name.endswith("seed-1")]
    ict, pretrain, qa = later
    with Progress(out=sys.stdout, clock=lambda: clock.now) as progress:
        display = Display(tmp_path, study.parts, cells=study.cells, base=study.base, progress=progress)
        clock.now = 100.0
        display(Standing(waiting=later, done=["data", "ict/seed-0"], elsewhere={"ict/seed-1": "node7:12"}))
        clock.now = 200.0
        standing = Standing(
            waiting=[qa], working=[pretrain.name], done=[*(name for name in names if "seed-1" not in name), ict.name],
            failures=[Failure(part="qa/stale-seed-1", why="exit code 1: no")],
        )  # fmt: skip
        display(standing)
        shutil.rmtree(tmp_path / "parts")  # what is done is looked at once
        clock.now = 300.0
        display(replace(standing, ending=True))
    said = capsys.readouterr().out
    assert said.count("realm:0: exact match 25.0%, recall@5 before fine-tuning 50.0%") == 1
    assert said.count("qa/stale-seed-1 failed: exit code 1: no") == 1
    # Nothing of the other two stages is done yet: they will take longer than the 100 s of a warm start.
    assert f"2 of {len(names)} parts: more than 1m40s left; waits for ict/seed-1, which node7:12 makes" in said
    assert f"asked to end: waiting for {pretrain.name} to end" in said
    # Half of a pre-training and all of a fine-tuning.
    assert (
        said.count(
            f"{len(names) - 2} of {len(names)} parts: about 3m50s left; pretrain/realm-seed-1 {steps // 2}/{steps}"
        )
        == 2
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            ["--corpus", "wiki.jsonl"],
            "/wiki.jsonl needs questions that it answers: name their folder with --questions",
        ),
        (["--out", "{study}"], "holds a study already: add --resume to go on with it, or name another --out"),
        (["--out", "{empty}", "--resume"], "holds no study to resume: start it without --resume"),
        (["--out", "{empty}", "--table-only"], "holds no study: name its folder with --out"),
        (["--out", "{run}", "--resume"], "/run is a run and no study: name another --out"),
        (["--out", "{run}/nowhere/../"], "/run is a run and no study: name another --out"),
        (["--out", "{run}/config.yaml", "--dry-run"], "/run/config.yaml is a file and no study: name another --out"),
        (["--out", "{empty}", "--only", "real"], "did you mean realm?"),
        (["--out", "{empty}", "--cell", "36"], "--cell 36: the study has 36 cells, 0 to 35"),
    ],
)
def test_misuse_is_one_line_and_code_2(tmp_path: Path, line: list[str], says: str) -> None:
    prepare_folder(study_in(tmp_path / "study"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("recipe: demo\n")
    folders = {name: tmp_path / name for name in ("study", "empty", "run")}
    result = CliRunner().invoke(app, ["ablate", *(word.format(**folders) for word in line)])
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "empty").exists()


@pytest.mark.usefixtures("deaf")
def test_a_part_that_failed_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.ablate.study.run_parts", lambda *given, **named: [Failure(part="ict", why="no")])
    result = CliRunner().invoke(app, ["ablate", "--out", str(tmp_path), "--cell", "realm:0"])
    assert result.exit_code == 1, result.output
    assert "| exact match |" in result.output
    assert (tmp_path / "config.yaml").is_file()
