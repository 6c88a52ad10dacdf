"""What a run folder tells of its ranks, and what people see of that."""

import io
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.errors import ConfigError, IndexFault
from realm_ds.files import write_durably
from realm_ds.launch.failures import forget_last_world, read_records, record_error, record_preemption, record_rank
from realm_ds.launch.watch import SILENT_S, keep_looking, look, writes_on
from realm_ds.observe.pulse import EVERY_S
from realm_ds.observe.sinks import Sinks
from realm_ds.observe.table import headline, print_once, show
from realm_ds.sealed import MANIFEST
from realm_ds.train.manifest import step_folder

HOST = "node1"
NOW = 1000.0
STEP = {
    "loss": 2.5, "step_ms": 100.0, "forward_ms": 40.0, "other_ms": 60.0, "wait_for_index_ms": 2.0,
    "tokens_per_s": 12_345.0, "mfu": 0.31, "peak_rss_gib": 1.5,
}  # fmt: skip


def write(run: Path, role: str, *events: tuple[float, str, dict[str, object]], role_rank: int = 0) -> None:
    for at, event, values in events:
        with Sinks(run, role=role, role_rank=role_rank, stage="pretrain", clock=lambda at=at: at) as sinks:
            sinks.write(event, **values)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two steps of one trainer and one index rank that rebuilds."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").touch()
    record_rank(folder, world_rank=0, role="trainer", role_rank=0, host=HOST)
    record_rank(folder, world_rank=1, role="index", role_rank=0, host=HOST)
    waits = {"rss_gib": 1.25, "last_step": 2, "waiting_for": "a sum", "waited_s": 70.0}
    write(folder, "trainer", (990.0, "step", {"step": 2, "steps": 9, **STEP}), (995.0, "alive", waits))
    rebuild = {"building": 1, "rebuilt_share": 0.62, "rebuild_passages_per_s": 900.0, "rebuild_eta_s": 70.0}
    figures = {"version": 0, "parked": 1, "rss_gib": 0.5}
    alive = [(at, "alive", {**figures, **rebuild, "queries": 10 * at}) for at in (990.0, 995.0)]
    write(folder, "index", *alive)
    return folder


def drawn(run: Path, **how: object) -> str:
    out = io.StringIO()
    print_once(look(run, **{"now": NOW, "host": HOST, "lives": lambda pid: True} | how), out=out)
    return out.getvalue()


def test_a_run_as_people_see_it(run: Path) -> None:
    text = drawn(run)
    assert f"{run}  running" in text
    assert "pretrain step 2/9: loss 2.500, 12.3k tokens/s, wait 2.0 ms (2%)" in text
    assert "a step takes 100.0 ms: wait for index 2.0, forward 40.0, other 60.0" in text
    assert "model FLOPs utilisation 31.0%; at most on any trainer: memory 1.5 GiB" in text
    rows = {" ".join(line.split()) for line in text.splitlines()}
    assert f"trainer 0 {HOST} waits 5s ago 2 1.25 GiB a sum, for 1m10s" in rows
    assert f"index 0 {HOST} works 5s ago 0 10.0 1 v1 62%, 900/s, 1m10s left 0.50 GiB" in rows


def test_a_run_for_machines(run: Path) -> None:
    found = json.loads(json.dumps(asdict(look(run, now=NOW, host=HOST, lives=lambda pid: True))))
    assert (found["state"], found["is_over"], found["step"]["loss"]) == ("running", False, 2.5)
    assert [rank["state"] for rank in found["ranks"]] == ["waits", "works"]
    assert found["ranks"][1]["queries_per_s"] == 10.0


def test_how_a_run_ended(run: Path) -> None:
    for role in ("trainer", "index"):
        write(run, role, (997.0, "ended", {}))
    view = look(run, now=NOW, host=HOST)
    assert (view.state, view.is_over, view.why) == ("done", True, "all 9 steps are done")
    write_durably(step_folder(run, 2) / MANIFEST, "{}")
    record_preemption(run, step=2)
    view = look(run, now=NOW, host=HOST)
    assert view.state == "preempted"
    assert "checkpoint of step 2 is written" in view.why
    record_error(run, IndexFault("version 1 could not be built"), pid=os.getpid())
    view = look(run, now=NOW, host=HOST)
    assert view.state == "failed"
    assert "IndexFault: version 1 could not be built" in view.why


def test_a_run_that_starts_again_is_not_taken_for_what_it_was(run: Path) -> None:
    write(run, "trainer", (997.0, "ended", {}))
    forget_last_world(run)
    view = look(run, now=NOW, host=HOST)
    assert (view.state, view.is_over, view.why) == ("starting", False, "its ranks have not met yet")
    write(run, "trainer", (998.0, "joined", {}))
    record_rank(run, world_rank=0, role="trainer", role_rank=0, host=HOST)
    view = look(run, now=NOW, host=HOST)
    assert (view.state, view.is_over, view.ranks[0].state) == ("running", False, "works")


def test_records_that_go_while_they_are_read_are_passed_over(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*glob(self, pattern), self / "gone.json"])
    assert [record["role"] for record in read_records(run / "ranks")] == ["trainer", "index"]


def test_a_dead_run_is_called_so(run: Path) -> None:
    view = look(run, now=NOW, host=HOST, lives=lambda pid: False)
    assert (view.state, [rank.state for rank in view.ranks]) == ("dead", ["gone", "gone"])
    assert view.why.startswith("trainer 0, index 0 ended without a word (Ctrl-C, or the machine went down): go on")
    elsewhere = look(run, now=NOW, host="login", lives=lambda pid: False)
    assert elsewhere.state == "running"
    later = look(run, now=NOW + SILENT_S, host="login", lives=lambda pid: False)
    assert (later.state, later.why) == ("dead", "no rank has written anything for 65 s: look at the job and at logs/")
    write(run, "index", (NOW + SILENT_S, "alive", {}))
    half = look(run, now=NOW + SILENT_S, host="login")
    assert (half.state, half.why) == ("running", "trainer 0 silent for more than 60 s")


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    view = look(tmp_path)
    assert (view.state, view.ranks) == ("starting", ())
    assert headline(view).endswith("starting")


def test_of_a_demo_its_newest_stage(run: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    with pytest.raises(ConfigError, match="has no config.yaml, so it holds no run"):
        look(demo)
    (demo / "ict").mkdir()
    (demo / "ict" / "config.yaml").touch()
    run.rename(demo / "pretrain")
    (demo / "stages.json").write_text(json.dumps({"stages": {"data": {}, "random": {}, "ict": {}}}))
    assert look(demo).folder == str(demo / "pretrain")
    assert "stages done: data, random, ict" in drawn(demo)
    write(demo / "pretrain", "trainer", (997.0, "ended", {}))
    assert not look(demo).is_over  # questions and the report are still to come
    (demo / "report.json").touch()
    assert look(demo).is_over


def test_watching_ends_with_the_run(run: Path) -> None:
    def end_it(seconds: float) -> None:
        assert seconds == 3.0
        write(run, "trainer", (time.time(), "ended", {}))

    write(run, "trainer", (time.time(), "alive", {}))
    out = io.StringIO()
    view = show(keep_looking(run, every_s=3.0, sleep=end_it), out=out)
    assert view.state == "done"
    running, done, *table = out.getvalue().splitlines()
    assert running.startswith("pretrain running step 2/9: loss 2.500")
    assert done.startswith("pretrain done step 2/9: loss 2.500")
    assert len(table) > 5


def test_the_verb(run: Path) -> None:
    runner = CliRunner()
    record_error(run, IndexFault("boom"), pid=os.getpid())
    result = runner.invoke(app, ["watch", str(run), "--once"])
    assert (result.exit_code, "IndexFault: boom" in result.stdout) == (1, True)
    result = runner.invoke(app, ["watch", str(run), "--json"])
    assert json.loads(result.stdout)["state"] == "failed"
    result = runner.invoke(app, ["watch", str(run / "nothing")])
    assert result.exit_code == 2
    assert "nothing is no folder, so it holds no run" in result.stderr


def test_a_rank_elsewhere_that_goes_on_writing_is_seen(run: Path) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            write(run, "index", (NOW, "alive", {}))

    def unexpected(seconds: float) -> None:
        raise AssertionError("nothing to wait for")

    found = writes_on(run, host="node2", now=NOW, sleep=sleep)
    assert found is not None
    assert (found.name, found.host, len(naps)) == ("index 0", HOST, 3)
    assert writes_on(run, host="node2", now=NOW, sleep=naps.append) is None  # killed, it seems
    assert sum(naps[3:]) >= EVERY_S
    assert writes_on(run, host="node2", now=NOW + 60, sleep=unexpected) is None
    assert writes_on(run, host=HOST, now=NOW, sleep=unexpected) is None
    write(run, "trainer", (NOW, "ended", {}))
    write(run, "index", (NOW, "ended", {}))
    assert writes_on(run, host="node2", now=NOW, sleep=unexpected) is None
    write(run, "index", (NOW, "joined", {}))
    record_preemption(run, step=2)
    assert writes_on(run, host="node2", now=NOW, sleep=unexpected) is None
