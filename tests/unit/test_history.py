"""A run folder as data: resumed runs, runs that go on, and what is not there."""

from pathlib import Path
from typing import Any

import pytest

from realm_ds.errors import ConfigError, DataError
from realm_ds.reports.history import ProbeHistory, RunHistory, read_history
from realm_ds.reports.runs import run_in, runs_in
from tests.support.run_folders import LIBRARIES, config_of, hit, joined, probed, start, step_row, write_run

Row = dict[str, Any]


def launched(version: int, step: int) -> Row:
    return {"event": "launched", "version": version, "step": step}


def built(version: int, index_rank: int, took_s: float) -> Row:
    return {"event": "built", "version": version, "index_rank": index_rank, "took_s": took_s}


def adopted(version: int, step: int, changed_share: float | None = None) -> Row:
    return {"event": "adopted", "version": version, "step": step, "changed_share": changed_share}


def test_a_run_that_went_on_from_a_checkpoint_counts_each_step_once(tmp_path: Path) -> None:
    first = [joined(), start(), *(step_row(step, loss=1.0) for step in (1, 10, 20, 30))]
    second = [joined(), start(15), *(step_row(step, loss=2.0) for step in (16, 20))]
    history = read_history(write_run(tmp_path, [*first, *second]))
    # Step 30 is about to be done again: the run stands at 20.
    assert history.curve("loss") == [(1, 1.0), (10, 1.0), (16, 2.0), (20, 2.0)]
    assert [row["covers"] for row in history.steps] == [1, 9, 1, 4]
    assert (history.steps_done, history.num_steps, history.is_finished) == (20, 100, False)
    assert [(world.first_step, world.trainers, world.took_s) for world in history.worlds] == [(0, 2, 5.0), (15, 2, 3.0)]
    assert "The run has come to step 20 of 100: all below is up to there." in history.absent


def test_versions_by_hand(tmp_path: Path) -> None:
    events = [
        joined(), start(), launched(0, 0), adopted(0, 0), built(0, 2, 3.0), built(0, 3, 4.0), step_row(1),
        launched(1, 20), built(1, 2, 2.0), adopted(1, 30, 0.25), step_row(40), launched(2, 40), built(2, 2, 9.0),
        joined(), start(35), built(1, 2, 0.1), step_row(36), launched(2, 40), built(2, 2, 1.0),
    ]  # fmt: skip
    versions = read_history(write_run(tmp_path, events)).versions
    assert [(v.number, v.launched_step, v.adopted_step, v.build_s, v.changed_share) for v in versions] == [
        (0, 0, 0, 4.0, None),
        (1, 20, 30, 2.0, 0.25),  # the resumed run only read it
        (2, 40, None, 1.0, None),  # launched again: its first build is forgotten
    ]
    assert [version.age_at_adoption for version in versions] == [0, 10, None]
    undone = read_history(write_run(tmp_path / "undone", events[:-2])).versions
    assert [version.number for version in undone] == [0, 1]


def brute_force_split(rows: list[Row], covers: list[int], phase: str) -> float:
    every = [row[f"{phase}_ms"] for row, count in zip(rows, covers, strict=True) for _ in range(count)]
    return sum(every) / len(every)


def test_the_time_of_a_step_weighs_rows_by_their_steps_and_leaves_the_first_out(tmp_path: Path) -> None:
    rows = [step_row(1, wait_for_index_ms=9e9), step_row(5, forward_ms=10.0), step_row(15, forward_ms=20.0)]
    split = read_history(write_run(tmp_path, [start(), *rows])).time_split()
    assert split["forward"] == pytest.approx(brute_force_split(rows[1:], [4, 10], "forward"))
    assert split["wait_for_index"] == 1.0
    assert "data" not in split
    alone = read_history(write_run(tmp_path / "alone", [start(), rows[0]]))
    assert alone.time_split()["wait_for_index"] == 9e9


def test_ranks_by_what_they_wrote_in_the_last_world(tmp_path: Path) -> None:
    alive = [{"event": "alive", "rss_gib": gib} for gib in (0.5, 2.0, 1.0)]
    alive[1] |= {"waiting_for": "trainer 0", "waited_s": 7.0}
    before = [joined(), {"event": "alive", "rss_gib": 99.0}]
    done = {"event": "done", "queries": 12}
    folder = write_run(
        tmp_path, [joined(), start(), step_row(1), {**done, "searches": 6}],
        others={("index", 0): [*before, joined(), *alive, done]},
    )  # fmt: skip
    history = read_history(folder)
    trainer, index = history.ranks
    assert (trainer.name, trainer.host, trainer.num_looks, trainer.counted) == ("trainer 0", "node0", 0, {})
    assert (index.num_looks, index.waiting_share, index.longest_wait_s) == (3, pytest.approx(1 / 3), 7.0)
    assert (index.longest_wait_for, index.peak_rss_gib, index.counted["queries"]) == ("trainer 0", 2.0, 12)
    assert history.totals["searches"] == 6
    assert history.environment.hosts == ("node0", "node1")
    assert (history.environment.code, history.environment.is_modified) == ("realm-ds 0.1.0, 1234567890abcdef", False)
    assert history.environment.libraries == LIBRARIES


def findings(probe: ProbeHistory) -> list[tuple[int, int, list[int]]]:
    return [(found.version, found.step, [one.uid for one in found.hits]) for found in probe.findings]


def test_probes_by_query_and_version_none_lost_or_doubled_by_a_resume(tmp_path: Path) -> None:
    events = [
        joined(), start(), probed(0, 0, {"a": [hit(1)], "b": [hit(2)]}), step_row(10),
        probed(20, 1, {"a": [hit(3)], "b": [hit(2)]}), step_row(30), joined(), start(20),
        probed(20, 1, {"a": [hit(3)], "b": [hit(2)]}), step_row(21),
    ]  # fmt: skip
    history = read_history(write_run(tmp_path, events))
    assert [probe.query for probe in history.probes] == ["a", "b"]
    assert findings(history.probes[0]) == [(0, 0, [1]), (1, 20, [3])]
    assert history.probes[0].answers == ("Niamey",)
    assert (history.probes[0].findings[0].null_p, history.probes[0].findings[0].hits[0].is_right) == (0.25, True)
    assert history.probe_ms == (3.0, 3.0)
    # A checkpoint after the adoption: the version is not asked about again.
    assert findings(read_history(write_run(tmp_path / "kept", [*events[:-3], start(21)])).probes[0])[1] == (1, 20, [3])


def test_a_half_written_line_and_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    rows = [step_row(1), step_row(2, loss="nan"), {"event": "evaluated", "step": 2, "held_out_recall_at_5": 0.5}]
    history = read_history(write_run(tmp_path, [start(), *rows], tail='{"event": "step", "st'))
    assert history.curve("loss") == [(1, 4.99)]
    assert history.held_out_curve("recall_at_5") == [(2, 0.5)]


def absent(folder: Path, events: list[Row], *settings: str, stage: str = "pretrain") -> str:
    history: RunHistory = read_history(write_run(folder, events, stage=stage, config=config_of(*settings)))
    return "\n".join(history.absent)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    said = absent(tmp_path / "a", [{"event": "joined"}])
    for words in ("No step is logged yet", "versions of its libraries", "No index version", "No probe queries"):
        assert words in said
    assert "evaluate.every_steps is not set" in said
    assert "it was not yet due" in absent(tmp_path / "b", [start(), step_row(1)], "evaluate.every_steps=50")
    assert "No questions are answered yet" in absent(tmp_path / "c", [start(), step_row(1)], stage="qa")
    assert absent(tmp_path / "d", [joined(), start(steps=1), step_row(1, steps=1)], stage="ict") == ""


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run: it has no config.yaml"):
        read_history(tmp_path)
    write_run(tmp_path, [])
    with pytest.raises(DataError, match="has no metrics yet"):
        read_history(tmp_path)
    write_run(tmp_path, [start()], stage="other")
    with pytest.raises(DataError, match="name none of the stages"):
        read_history(tmp_path)


def test_runs_of_a_demo_or_pipeline(tmp_path: Path) -> None:
    for stage in ("pretrain", "ict"):
        write_run(tmp_path / stage, [])
    assert [run.name for run in runs_in(tmp_path)] == ["ict", "pretrain"]
    assert runs_in(tmp_path / "ict") == [tmp_path / "ict"]
    assert run_in(tmp_path)[0] == tmp_path / "pretrain"
    with pytest.raises(ConfigError, match="it holds no run"):
        runs_in(tmp_path / "nowhere")
    study = tmp_path / "study"
    write_run(study / "qa" / "realm-seed-0", [])
    (study / "making.json").write_text("[]")
    (study / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=rf"is a study and no run: name one of its runs, {study}/qa/realm-seed-0$"):
        runs_in(study)
