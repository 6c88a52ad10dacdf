"""Index versions from the trainers' side: launched on schedule, launched again after a resume, pruned in the end."""

import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox
from realm_ds.config.index import RefreshConfig
from realm_ds.errors import CheckpointError
from realm_ds.index.messages import MESSAGES, NO_SHARD, BuildReport, SnapshotChunk, SnapshotStart
from realm_ds.index.store import stored_versions, version_folder
from realm_ds.index.tree import SnapshotTree
from realm_ds.index.versions import Schedule
from realm_ds.models.realm import RealmModel, build_model, frozen_tower, tower_from_snapshot
from realm_ds.models.towers import Towers
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.train.refresh import BuildWatch, Launcher, QueryTowers
from realm_ds.train.writer import Writer
from tests.support.tiny import tiny_config

TRAINER, SHARDS = 0, (1, 2)
REFRESH = RefreshConfig(every_steps=3, adopt_after_steps=2)
AUTO = RefreshConfig(every_steps="auto", adopt_after_steps=2, shortest_steps=3, longest_steps=9)
VOCABULARY = 50


class Engine:
    """Hands out a model's weights as DeepSpeed's would."""

    def __init__(self) -> None:
        self.kept: list[bool] = []

    def copy_weights(self, module: nn.Module, *, dtype: torch.dtype, keeps: bool) -> dict[str, Tensor]:
        self.kept.append(keeps)
        return {name: value.to(dtype, copy=True) for name, value in module.state_dict().items()} if keeps else {}


class Run:
    """A trainer with a model that a stand-in for DeepSpeed hands out, and two shards that only listen."""

    def __init__(
        self, folder: Path, *, refresh: RefreshConfig = REFRESH, share_towers: bool = False,
        launches: tuple[int, ...] = (), is_first_trainer: bool = True, holds: bool = True,
    ) -> None:  # fmt: skip
        config = tiny_config(folder, **{"model.share_towers": share_towers})
        self.hub = LoopbackHub(3, MESSAGES)
        self.tree = SnapshotTree(trainer=TRAINER, embedders=SHARDS, others=())
        self.model: RealmModel = build_model(config.model, vocab_size=VOCABULARY, max_tokens=48, seed=0)
        self.new_tower = partial(frozen_tower, config.model, vocab_size=VOCABULARY, max_tokens=config.data.joint_tokens)
        self.engine, self.schedule = Engine(), Schedule(refresh, launches=launches)
        self.writer = Writer(timeout_s=5)
        self.towers = QueryTowers(self.new_tower, schedule=self.schedule)
        self.launcher = Launcher(
            engine=self.engine, towers=Towers(query=self.model.query_tower, passage=self.model.passage_tower),
            mailbox=self.hub.mailbox(TRAINER), writer=self.writer, tree=self.tree, schedule=self.schedule,
            index_folder=folder, snapshot_dtype=refresh.snapshot_dtype, chunk_bytes=1000,
            is_first_trainer=is_first_trainer, hold=self.towers.hold if holds else None,
        )  # fmt: skip

    def train(self, first: int, last: int) -> None:
        """Steps that change all weights, with the launches that are due before them."""
        for step in range(first, last):
            self.launcher.launch_if_due(step)
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.add_(0.01 * (step + 1))
        self.writer.drain()

    def sent(self) -> list[tuple[SnapshotStart, bytes]]:
        return received(self.hub.mailbox(self.tree.root))


def received(mailbox: Mailbox) -> list[tuple[SnapshotStart, bytes]]:
    snapshots: list[tuple[SnapshotStart, bytes]] = []
    while (arrived := mailbox.poll()) is not None:
        message = arrived[1]
        if isinstance(message, SnapshotStart):
            snapshots.append((message, b""))
        elif isinstance(message, SnapshotChunk):
            start, data = snapshots[-1]
            assert message.version == start.version
            snapshots[-1] = (start, data + message.data.tobytes())
    return snapshots


@pytest.mark.parametrize("share_towers", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_root_gets_every_version_and_a_resume_sends_the_same(
    tmp_path: Path, share_towers: bool, dtype: str
) -> None:
    refresh = REFRESH.model_copy(update={"snapshot_dtype": dtype})
    run = Run(tmp_path, refresh=refresh, share_towers=share_towers)
    run.train(0, 4)
    first = run.sent()
    assert [(start.version, start.step) for start, _ in first] == [(0, 0), (1, 3)]
    assert {value.dtype for value in load(first[1][1]).values()} == {
        {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    }
    again = Run(tmp_path, refresh=refresh, share_towers=share_towers)
    assert again.launcher.relaunch(4) == [0, 1]
    assert again.sent() == first
    version, tower = again.towers.at(5)
    assert version == 1
    for name, value in run.towers.at(5)[1].state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(tower.state_dict()[name], value), name
    # The two towers start equal and are changed alike: a builder's tower is the trainers' query tower, bit for bit.
    built = tower_from_snapshot(first[1][1], again.new_tower())
    assert all(torch.equal(value, tower.state_dict()[name]) for name, value in built.state_dict().items())


def test_other_trainers_keep_their_query_tower_alone(tmp_path: Path) -> None:
    first, other = Run(tmp_path / "first"), Run(tmp_path / "other", is_first_trainer=False)
    for run in (first, other):
        run.train(0, 4)
    assert (first.engine.kept, other.engine.kept) == ([True] * 4, [True, False] * 2)
    assert other.sent() == []
    assert not list((tmp_path / "other").glob("version-*"))
    for name, value in first.towers.at(5)[1].state_dict().items():
        assert torch.equal(other.towers.at(5)[1].state_dict()[name], value)
    resumed = Run(tmp_path / "first", is_first_trainer=False)
    assert resumed.launcher.relaunch(4) == [0, 1]
    assert resumed.sent() == []


def test_where_nobody_holds_query_towers_other_trainers_keep_nothing(tmp_path: Path) -> None:
    first, other = Run(tmp_path / "first", holds=False), Run(tmp_path / "other", holds=False, is_first_trainer=False)
    for run in (first, other):
        run.train(0, 4)
    assert (first.engine.kept, other.engine.kept) == ([True] * 4, [False] * 4)
    sent = first.sent()
    assert first.launcher.digests == {start.version: start.sha256 for start, _ in sent}
    again = Run(tmp_path / "first", holds=False)
    assert again.launcher.relaunch(4) == [0, 1]
    assert again.sent() == sent


def test_a_version_besides_the_schedule_is_the_next(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 6)
    assert [run.schedule.next_version(step) for step in (0, 1, 3, 4, 6, 7)] == [0, 1, 1, 2, 2, 3]
    run.launcher.launch(run.schedule.next_version(6), step=6)
    assert [(start.version, start.step) for start, _ in run.sent()] == [(0, 0), (1, 3), (2, 6)]


def test_an_auto_schedule_is_resumed_by_its_launches(tmp_path: Path) -> None:
    run = Run(tmp_path, refresh=AUTO)
    run.train(0, 6)
    run.schedule.decide(1, 0.0)  # nothing has changed: twice the interval
    run.train(6, 10)
    assert [(start.version, start.step) for start, _ in run.sent()] == [(0, 0), (1, 3), (2, 9)]
    again = Run(tmp_path, refresh=AUTO, launches=run.schedule.launches)
    assert again.launcher.relaunch(10) == [1, 2]
    assert [(start.version, start.step) for start, _ in again.sent()] == [(1, 3), (2, 9)]


def test_files_that_no_checkpoint_needs_are_deleted(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 10)
    run.launcher.prune(3, lambda: [4])
    run.writer.drain()
    assert sorted(path.name for path in tmp_path.glob("version-*")) == [f"version-0000{v}" for v in (0, 1, 2, 3)]
    run.launcher.prune(3, lambda: [8])
    run.writer.drain()
    assert sorted(path.name for path in tmp_path.glob("version-*")) == ["version-00002", "version-00003"]


def test_a_version_launched_while_the_deleting_waits_stays(tmp_path: Path) -> None:
    run, gate = Run(tmp_path), threading.Event()
    run.train(0, 7)
    run.writer.submit("checkpoint", lambda: gate.wait(5) and None)
    run.launcher.prune(2, lambda: [6])
    later = version_folder(tmp_path, 3)
    later.mkdir()  # by an index rank: its part of what step 9 launches
    gate.set()
    run.writer.drain()
    assert stored_versions(tmp_path) == [1, 2, 3]


def test_another_schedule_cannot_resume(tmp_path: Path) -> None:
    Run(tmp_path).train(0, 7)
    other = Run(tmp_path, refresh=RefreshConfig(every_steps=2, adopt_after_steps=2))
    with pytest.raises(
        CheckpointError, match=r"is of step 6, but by this run's refresh settings index version 2 is that of step 4"
    ):
        other.launcher.relaunch(7)
    with pytest.raises(CheckpointError, match=r"is missing \(snapshot.json\): index version 3 .*refresh settings"):
        other.launcher.relaunch(8)


def report(version: int, done: int, total: int, took_s: float, *, shard: int = 0) -> BuildReport:
    return BuildReport(version=version, shard=shard, passages_done=done, passages_total=total, took_s=took_s)


def test_a_build_is_watched_with_its_speed_and_the_time_it_will_take(tmp_path: Path) -> None:
    sinks = Sinks(tmp_path, role="trainer", role_rank=0, stage="pretrain")
    watch = BuildWatch(100, sinks=sinks)
    assert watch.facts() == {}
    watch.take([(3, report(0, 20, 50, 2.0)), (4, report(0, 10, 50, 4.0))])
    expected = {"rebuilt_share": 0.3, "rebuild_passages_per_s": 12.5, "rebuild_eta_s": 16.0}
    assert watch.facts() == pytest.approx(expected)
    watch.take([(3, report(0, 50, 50, 5.0)), (4, report(0, 25, 50, 10.0))])
    assert watch.facts() == pytest.approx({"rebuilt_share": 0.75, "rebuild_passages_per_s": 2.5, "rebuild_eta_s": 10})
    watch.take([(5, report(0, 100, 100, 9.0, shard=NO_SHARD))])  # of a builder rank: the shards report the same ones
    watch.take([(4, report(0, 50, 50, 20.0))])
    assert watch.facts() == {"rebuilt_share": 1.0}
    watch.take([(3, report(1, 0, 50, 0.0))])  # the newest alone counts
    assert watch.facts() == {"rebuilt_share": 0.0}
    sinks.close()
    built = read_events(metrics_path(tmp_path, role="trainer", role_rank=0), event="built")
    assert [(row["version"], row["index_rank"], row["took_s"]) for row in built] == [(0, 3, 5.0), (0, 4, 20.0)]
    embedded = read_events(metrics_path(tmp_path, role="trainer", role_rank=0), event="embedded")
    assert [(row["version"], row["builder_rank"], row["took_s"]) for row in embedded] == [(0, 5, 9.0)]
