"""The study of ablations without training: its graph, how parts are run, what comes of their scores."""

import fcntl
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from realm_ds.ablate.display import Display
from realm_ds.ablate.parts import EXPORT, Command, Part, parts_of, qa_name
from realm_ds.ablate.plots import draw_study
from realm_ds.ablate.run import Failure, Standing, command_line, facts_of, is_done, run_parts
from realm_ds.ablate.scores import STUDENT_T, Score, as_json, mean_of, read_score, rows_of, table
from realm_ds.ablate.study import Study, describe_plan, prepare_folder, settings_of, write_table
from realm_ds.ablate.variants import REALM, VARIANTS, Cell, cells_of, choose, choose_cell
from realm_ds.cli.main import app
from realm_ds.config.load import load
from realm_ds.errors import ConfigError, DataError, Preempted
from realm_ds.observe.notice import Notice
from realm_ds.observe.progress import Progress

OUT = Path("/study")
PREPARE = [("prepare", "demo", "/study/data")]


def base_config(**changes: str) -> Any:
    names = ("corpus", "pretrain", "tokenizer")
    given = [f"{section.replace('_', '.', 1)}={value}" for section, value in changes.items()]
    return load("ablate", [*(f"data.{name}=/study/data/{name}" for name in names), "qa.data=/study/data/qa", *given])


def cell(name: str, seed: int = 0) -> Cell:
    return Cell(variant=next(variant for variant in VARIANTS if variant.name == name), seed=seed)


# ---- the graph ----


def test_every_part_comes_once_and_after_what_it_needs() -> None:
    parts = parts_of(cells_of(VARIANTS, seeds=3), base=base_config(), out=OUT, data=PREPARE)
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    # Data, 3 warm starts, 9 rows that pre-train, 12 that are fine-tuned, with 3 seeds.
    assert len(names) == 1 + 3 + 3 * 9 + 3 * 12
    for place, part in enumerate(parts):
        assert set(part.needs) <= set(names[:place])
        if part.stage is not None:
            assert f"runtime.seed={part.name[-1]}" in part.commands[0]


def settings(name: str, *rows: str) -> list[str]:
    parts = parts_of([cell(row) for row in rows], base=base_config(), out=OUT, data=())
    words = next(part.commands[0] for part in parts if part.name == name)
    return [word for word in words if "=" in word and not word.startswith("runtime.seed")]


def test_a_row_differs_from_realm_in_what_it_is_named_for() -> None:
    ict, realm = f"/study/ict/seed-0/{EXPORT}", f"/study/pretrain/realm-seed-0/{EXPORT}"
    start = f"model.start_from={ict}"
    assert settings("pretrain/realm-seed-0", "realm") == [start]
    assert settings("pretrain/no-ict-seed-0", "no-ict") == [f"model.encoder_from={ict}"]
    every = base_config().refresh.every_steps
    assert settings("pretrain/stale-seed-0", "stale") == [start, f"refresh.every_steps={30 * every}"]
    assert settings("pretrain/trivial-seed-0", "trivial") == [start, "index.exclude=nothing"]
    assert settings("qa/baseline-seed-0", "baseline") == [start]
    assert settings("qa/realm-retriever-seed-0", "realm-retriever") == [
        f"model.start_from={realm}", f"model.encoder_from={ict}",
    ]  # fmt: skip
    assert settings("qa/realm-encoder-seed-0", "realm-encoder") == [start, f"model.encoder_from={realm}"]


def test_all_rows_are_settings_that_go_together() -> None:
    base = base_config()
    for variant in VARIANTS:
        load("ablate", ["data.corpus=c", "data.tokenizer=t", *variant.overrides(base)])


def test_a_mix_alone_brings_realm_with_it_and_the_baseline_no_pretraining() -> None:
    of_mix = parts_of([cell("realm-encoder")], base=base_config(), out=OUT, data=())
    assert [part.name for part in of_mix] == ["ict/seed-0", "pretrain/realm-seed-0", "qa/realm-encoder-seed-0"]
    of_baseline = parts_of([cell("baseline")], base=base_config(), out=OUT, data=())
    assert [part.name for part in of_baseline] == ["ict/seed-0", "qa/baseline-seed-0"]


def test_only_models_that_no_other_row_starts_from_are_released() -> None:
    parts = parts_of(cells_of(VARIANTS, seeds=1), base=base_config(), out=OUT, data=())
    released = [name for part in parts for name in part.releases]
    for name in released:
        assert [part.name for part in parts if name in part.needs] == [f"qa/{name.removeprefix('pretrain/')}"]
    assert "pretrain/realm-seed-0" not in released
    assert "ict/seed-0" not in released


def test_an_interval_that_is_no_number_cannot_be_multiplied() -> None:
    base = base_config(refresh_every_steps="auto")
    with pytest.raises(ConfigError, match=r"row stale .* 30 times less often.*refresh\.every_steps=auto.*give one"):
        parts_of([cell("stale")], base=base, out=OUT, data=())


def test_rows_and_cells_by_name() -> None:
    assert [variant.name for variant in choose("stale, realm")] == ["realm", "stale"]
    assert choose(None) == VARIANTS
    cells = cells_of(choose("realm,stale"), seeds=2)
    assert [str(one) for one in cells] == ["realm:0", "realm:1", "stale:0", "stale:1"]
    assert choose_cell("3", cells) == cells[3]
    assert choose_cell("uniform:7", cells) == cell("uniform", 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4", "--cell 4: the study has 4 cells, 0 to 3"),
        ("realm", "--cell 'realm': write ROW:SEED, such as realm:0, or a number below 4"),
        ("stail:0", "there is no row 'stail' in the study: .*did you mean stale?"),
    ],
)
def test_cells_that_are_not_there(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        choose_cell(text, cells_of(choose("realm,stale"), seeds=2))


def test_no_row_at_all() -> None:
    with pytest.raises(ConfigError, match="--only ' , ' names no row: give some of realm, "):
        choose(" , ")


# ---- running ----


def write_and_tell(command: Command) -> list[str]:
    """The command is a program: DONE names a file to write its other words into."""
    return [sys.executable, "-S", "-c", command[0], *command[1:]]


MAKE = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True, exist_ok=True); (p / 'made').touch()"
NOTE = "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + chr(10))"
FAIL = "import sys; print('realm-ds: out of cheese'); print(); sys.exit(3)"
LISTEN = (
    "import signal, sys, pathlib; signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[2]).touch(), "
    "sys.exit(75))); pathlib.Path(sys.argv[1]).touch(); signal.pause()"
)


def part(out: Path, name: str, *, needs: Sequence[str] = (), program: str = MAKE, **how: Any) -> Part:
    return Part(name=name, commands=((program, str(out / name)),), needs=tuple(needs), **how)


def run(parts: Sequence[Part], out: Path, *, jobs: int = 2, seen: list[list[str]] | None = None) -> list[Failure]:
    def on_change(standing: Standing) -> None:
        if seen is not None:
            seen.append(list(standing.working))

    return run_parts(
        parts, out=out, jobs=jobs, notice=Notice(), on_change=on_change, as_line=write_and_tell,
        sleep=lambda seconds: None,
    )  # fmt: skip


def test_parts_are_made_once_in_order_and_so_many_at_a_time(tmp_path: Path) -> None:
    parts = [part(tmp_path, "a"), part(tmp_path, "b"), part(tmp_path, "c"), part(tmp_path, "d", needs=["a", "b"])]
    seen: list[list[str]] = []
    assert run(parts, tmp_path, seen=seen) == []
    assert max(map(len, seen)) == 2
    assert all((tmp_path / one.name / "made").exists() and is_done(tmp_path, one) for one in parts)
    assert not any({"a", "d"} <= set(names) or {"b", "d"} <= set(names) for names in seen)
    seen.clear()
    run(parts, tmp_path, seen=seen)
    assert seen == []
    (tmp_path / "b/made").unlink()
    (tmp_path / "b").rmdir()  # who wants a part made again removes its folder
    run(parts, tmp_path, seen=seen)
    assert {name for names in seen for name in names} == {"b"}


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    parts = [
        part(tmp_path, "bad", program=FAIL), part(tmp_path, "needs-it", needs=["bad"]),
        part(tmp_path, "and-that", needs=["needs-it"]), part(tmp_path, "good"),
    ]  # fmt: skip
    failures = {failure.part: failure.why for failure in run(parts, tmp_path)}
    assert failures == {
        "bad": f"exit code 3: out of cheese ({tmp_path / 'parts/bad.log'})",
        "needs-it": "needs bad, which failed",
        "and-that": "needs needs-it, which failed",
    }
    assert is_done(tmp_path, parts[3])
    mended = [part(tmp_path, "bad"), *parts[1:]]
    assert run(mended, tmp_path) == []


def test_training_goes_on_from_its_checkpoint_and_what_only_prepares_begins_anew(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    checkpoint = tmp_path / "train/checkpoints/step-00000004"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/half").touch()
    train = Part(name="train", stage="ict", commands=((NOTE, str(notes), "train"), (NOTE, str(notes), "export")))
    data = Part(name="data", commands=((MAKE, str(tmp_path / "data")),))
    assert run([data, train], tmp_path) == []
    assert notes.read_text() == "train --resume\nexport\n"
    assert not (tmp_path / "data/half").exists()


def test_what_nobody_needs_any_more_is_removed_and_counted(tmp_path: Path) -> None:
    for name, size in (("run/checkpoints/state", 1000), ("run/qa/dev.json", 10), ("first/export/weights", 100)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    done = part(tmp_path, "run", stage="qa", leaves=("checkpoints",), releases=("first",))
    run([done], tmp_path)
    assert not (tmp_path / "run/checkpoints").exists()
    assert not (tmp_path / "first/export").exists()
    facts = facts_of(tmp_path, "run")
    assert (facts["kept_bytes"], facts["removed_bytes"]) == (10, 1000)
    # A kill between the mark and the removal: the next start removes.
    (tmp_path / "run/checkpoints").mkdir()
    run([done], tmp_path)
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_was_removed_is_made_again_with_what_it_starts_from(tmp_path: Path) -> None:
    export = tmp_path / "first/export"
    parts = [
        Part(name="first", stage="ict", commands=((MAKE, str(export)),)),
        part(tmp_path, "last", stage="qa", needs=["first"], releases=("first",)),
    ]
    assert run(parts, tmp_path) == []
    assert not export.exists()
    seen: list[list[str]] = []
    run(parts, tmp_path, seen=seen)
    assert seen == []
    shutil.rmtree(tmp_path / "last")
    run(parts, tmp_path, seen=seen)
    assert {name for names in seen for name in names} == {"first", "last"}


def test_a_part_that_another_process_is_at_is_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "parts/shared.lock"
    lock.parent.mkdir()
    held = lock.open("wb")
    fcntl.flock(held, fcntl.LOCK_EX)
    polls: list[None] = []

    def let_go(seconds: float) -> None:
        polls.append(None)
        if len(polls) == 20:
            (tmp_path / "shared").mkdir()
            (tmp_path / "parts/shared.json").write_text("{}")  # the other process has made it
            held.close()

    parts = [part(tmp_path, "shared", program=FAIL), part(tmp_path, "own", needs=["shared"])]
    failures = run_parts(
        parts, out=tmp_path, jobs=2, notice=Notice(), on_change=lambda standing: None, as_line=write_and_tell,
        sleep=let_go,
    )  # fmt: skip
    assert failures == []
    assert len(polls) > 20
    assert is_done(tmp_path, parts[1])


def test_asked_to_end_it_has_what_runs_save_first(tmp_path: Path) -> None:
    ready, saved, notice = tmp_path / "ready", tmp_path / "saved", Notice()
    working = Part(name="long", commands=((LISTEN, str(ready), str(saved)),), stage="qa")

    def ask(standing: Standing) -> None:
        if ready.exists():
            notice.name = "SIGTERM"

    with pytest.raises(Preempted, match=f"asked to end: go on with realm-ds ablate --out {tmp_path} --resume"):
        run_parts(
            [working], out=tmp_path, jobs=1, notice=notice, on_change=ask, as_line=write_and_tell
        )  # fmt: skip
    assert saved.exists()
    assert not is_done(tmp_path, working)


# ---- scores ----


def scored(out: Path, one: Cell, em: float, recall: float) -> None:
    folder = out / qa_name(one) / "qa"
    folder.mkdir(parents=True)
    (folder / "dev.json").write_text(json.dumps({"em": em}))
    (folder / "dev.before.json").write_text(json.dumps({"recall": {"5": recall}}))


def test_means_and_margins_are_students() -> None:
    values = [0.31, 0.36, 0.32]
    found = mean_of(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.margin == pytest.approx(4.303 * statistics.stdev(values) / 3**0.5)
    assert mean_of([0.5]).margin is None
    many = [number / 100 for number in range(40)]
    assert mean_of(many).margin == pytest.approx(STUDENT_T[-1] * statistics.stdev(many) / 40**0.5)


def test_differences_are_paired_by_seed() -> None:
    scores = {
        cell("realm", 0): Score(em=0.5, recall=0.4), cell("realm", 1): Score(em=0.7, recall=0.4),
        cell("stale", 1): Score(em=0.6, recall=0.1), cell("stale", 2): Score(em=0.1, recall=0.2),
    }  # fmt: skip
    realm, stale = rows_of(scores)
    assert realm.em_to_realm is None
    assert stale.em_to_realm is not None
    assert stale.em_to_realm.mean == pytest.approx(-0.1)
    assert stale.em_to_realm.seeds == 1
    assert stale.em.mean == pytest.approx(0.35)


def test_the_table_says_both_scores_both_differences_and_the_papers() -> None:
    scores = {
        cell("realm", 0): Score(em=0.5, recall=0.4), cell("realm", 1): Score(em=0.7, recall=0.4),
        cell("trivial", 1): Score(em=0.6, recall=0.1),
    }  # fmt: skip
    rows = rows_of(scores)
    first, second = table(rows).splitlines()[2:]
    assert first == "| REALM | 60.0 ± 127.1 |  | 40.0 ± 0.0 |  | 38.2, 38.5 |"
    assert second == "| trivial retrieval allowed (1 of 2 seeds) | 60.0 | -10.0 | 10.0 | -30.0 |  |"
    numbers = as_json(rows, scores, costs={cell("realm", 0): {"took_s": 5.0}})
    assert numbers["rows"][0]["paper"] == {"em": 38.2, "recall": 38.5}
    assert numbers["rows"][1]["em_to_realm"] == {"mean": pytest.approx(-0.1), "margin": None, "seeds": 1}
    assert numbers["cells"][0] == {"cell": "realm:0", "em": 0.5, "recall_at_5": 0.4, "took_s": 5.0}


def test_a_cell_without_scores_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert read_score(tmp_path, cell("realm")) is None
    scored(tmp_path, cell("realm"), 0.25, 0.5)
    assert read_score(tmp_path, cell("realm")) == Score(em=0.25, recall=0.5)
    (tmp_path / "qa/realm-seed-0/qa/dev.json").write_text("{}")
    with pytest.raises(DataError, match=r"qa/realm-seed-0/qa holds no scores .*KeyError.*remove .*realm-seed-0, and"):
        read_score(tmp_path, cell("realm"))


def test_the_picture_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    rows = rows_of({cell(name, seed): Score(em=0.1, recall=0.2) for name in ("realm", "no-ict") for seed in (0, 1)})
    for name in ("a.svg", "b.svg"):
        draw_study(tmp_path / name, rows)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "retriever without ICT" in text
    assert "the paper's" in text


# ---- the study in its folder ----


def study_in(out: Path, *overrides: str, source: str | None = None) -> Study:
    base, data = settings_of(out, source=source, overrides=overrides, corpus=None, questions=None)
    return Study(out=out, base=base, cells=cells_of((REALM,), seeds=2), data=data)


def test_a_folder_keeps_its_settings_and_refuses_others(tmp_path: Path) -> None:
    first = study_in(tmp_path, "pretrain.steps=7")
    prepare_folder(first)
    assert first.data == [("prepare", "demo", str(tmp_path / "data"))]
    again = study_in(tmp_path)
    assert (again.base, again.data) == (first.base, first.data)
    assert study_in(tmp_path, "pretrain.steps=7").base == first.base
    with pytest.raises(ConfigError, match=r"holds a study with other settings \(pretrain\.steps=7 there, 8 here\)"):
        study_in(tmp_path, "pretrain.steps=8")


def test_what_is_named_is_not_made(tmp_path: Path) -> None:
    places = ["data.corpus=/z", "data.pretrain=/x", "data.tokenizer=/t", "qa.data=/q"]
    assert study_in(tmp_path, *places).data == []


def test_documents_are_made_into_what_a_run_reads(tmp_path: Path) -> None:
    base, data = settings_of(
        tmp_path, source=None, overrides=(), corpus=Path("/wiki.jsonl"), questions=Path("/questions")
    )  # fmt: skip
    assert [command[1] for command in data] == ["tokenizer", "corpus", "pretrain"]
    assert str(base.qa.data) == "/questions"
    tokens = str(base.data.passage_tokens)
    assert data[1][data[1].index("--passage-tokens") + 1] == tokens
    prepare_folder(Study(out=tmp_path, base=base, cells=[], data=data))
    assert study_in(tmp_path).data == data  # gone on with, it is not made of the Factbook


def test_the_plan_can_be_typed(tmp_path: Path) -> None:
    lines = describe_plan(study_in(tmp_path)).splitlines()
    assert "#   1 realm:1  REALM" in lines
    assert f"{sys.executable} -m realm_ds prepare demo {tmp_path}/data" in lines
    assert command_line(("export",)) == [sys.executable, "-m", "realm_ds", "export"]


def test_the_table_of_what_is_done_so_far(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    assert write_table(study).count("\n") == 2
    scored(tmp_path, cell("realm", 1), 0.25, 0.5)
    assert "| REALM | 25.0 |" in write_table(study)
    assert json.loads((tmp_path / "ablate.json").read_text())["cells"][0]["cell"] == "realm:1"
    assert (tmp_path / "ablate.svg").is_file()


def test_people_see_cells_failures_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = study_in(tmp_path)
    names = [one.name for one in study.parts]
    scored(tmp_path, cell("realm", 0), 0.25, 0.5)
    for name, seconds in (("data", 10), ("ict/seed-0", 100), ("ict/seed-1", 120)):
        path = tmp_path / f"parts/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"took_s": seconds}))
    metrics = tmp_path / "pretrain/realm-seed-0/metrics"
    metrics.mkdir(parents=True)
    steps = study.base.pretrain.steps
    (metrics / "trainer-0.jsonl").write_text(json.dumps({"event": "step", "step": steps // 2}) + '\n{"event": "st')
    clock = SimpleNamespace(now=0.0)
    with Progress(out=sys.stdout, clock=lambda: clock.now) as progress:
        display = Display(tmp_path, study.parts, cells=study.cells, base=study.base, progress=progress)
        clock.now = 100.0
        standing = Standing(
            waiting=[one for one in study.parts if one.name.endswith("seed-1") and one.stage != "ict"],
            working=["pretrain/realm-seed-0"], done=["data", "ict/seed-0", "ict/seed-1", "qa/realm-seed-0"],
            failures=[Failure(part="qa/realm-seed-1", why="exit code 1: no")],
        )  # fmt: skip
        display(standing)
        display(standing)
    said = capsys.readouterr().out
    assert said.count("realm:0: exact match 25.0%, recall@5 before fine-tuning 50.0%") == 1
    assert said.count("qa/realm-seed-1 failed: exit code 1: no") == 1
    # A warm start takes 110 s and data 10, on average 60 for what nothing is known of: 2 parts and half of a third.
    assert f"4 of {len(names)} parts: about 2m30s left; pretrain/realm-seed-0 {steps // 2}/{steps}" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            ["--corpus", "wiki.jsonl"],
            "--corpus wiki.jsonl needs questions that it answers: name their folder with --qu",
        ),
        (["--out", "{study}"], "holds a study already: add --resume to go on with it, or name another --out"),
        (["--out", "{empty}", "--resume"], "holds no study to resume: start it without --resume"),
        (["--out", "{empty}", "--table-only"], "holds no study: name its folder with --out"),
        (["--out", "{empty}", "--only", "real"], "did you mean realm?"),
        (["--out", "{empty}", "--cell", "36"], "--cell 36: the study has 36 cells, 0 to 35"),
    ],
)
def test_misuse_is_one_line_and_code_2(tmp_path: Path, line: list[str], says: str) -> None:
    prepare_folder(study_in(tmp_path / "study"))
    result = CliRunner().invoke(
        app, ["ablate", *(word.format(study=tmp_path / "study", empty=tmp_path / "empty") for word in line)]
    )
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())
    assert not (tmp_path / "empty").exists()


def test_a_part_that_failed_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.ablate.study.run_parts", lambda *given, **named: [Failure(part="ict", why="no")])
    monkeypatch.setattr("realm_ds.ablate.study.Notice", lambda: SimpleNamespace(listen=lambda: None))
    result = CliRunner().invoke(app, ["ablate", "--out", str(tmp_path), "--cell", "realm:0"])
    assert result.exit_code == 1, result.output
    assert "| exact match |" in result.output
    assert (tmp_path / "config.yaml").is_file()
