"""Index versions from the trainers' side: launched on schedule, launched again after a resume, pruned in the end."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.mailbox import Mailbox
from realm_ds.config.schema import RefreshConfig
from realm_ds.errors import CheckpointError
from realm_ds.index.messages import MESSAGES, SnapshotChunk, SnapshotStart
from realm_ds.models.realm import RealmModel, build_model, frozen_tower, tower_from_snapshot
from realm_ds.train.refresh import Refresher, needed_versions
from tests.support.tiny import tiny_config

TRAINER, SHARDS = 0, (1, 2)
REFRESH = RefreshConfig(every_steps=3, adopt_after_steps=2)
VOCABULARY = 50


class Run:
    """A trainer with a model that a stand-in for DeepSpeed hands out, and two shards that only listen."""

    def __init__(self, folder: Path, *, refresh: RefreshConfig = REFRESH, share_towers: bool = False) -> None:
        config = tiny_config(folder, **{"model.share_towers": share_towers})
        self.hub = LoopbackHub(3, MESSAGES)
        self.model: RealmModel = build_model(config.model, vocab_size=VOCABULARY, max_tokens=48, seed=0)
        self.new_tower = partial(frozen_tower, config.model, vocab_size=VOCABULARY, max_tokens=config.data.joint_tokens)
        self.refresher = Refresher(
            engine=SimpleNamespace(copy_weights=lambda module: {k: v.clone() for k, v in module.state_dict().items()}),
            model=self.model, new_tower=self.new_tower, mailbox=self.hub.mailbox(TRAINER), index_ranks=SHARDS,
            refresh=refresh, index_folder=folder, chunk_bytes=1000, is_first_trainer=True,
        )  # fmt: skip

    def train(self, first: int, last: int) -> None:
        """Steps that change all weights, with the launches that are due before them."""
        for step in range(first, last):
            self.refresher.launch_if_due(step)
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.add_(0.01 * (step + 1))


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


@pytest.mark.parametrize(
    ("step", "expected"), [(0, []), (1, [0]), (3, [0]), (4, [0, 1]), (5, [1]), (6, [1]), (7, [1, 2])]
)
def test_versions_needed_after_a_resume(step: int, expected: list[int]) -> None:
    assert list(needed_versions(step, REFRESH)) == expected


@pytest.mark.parametrize("share_towers", [False, True])
def test_every_shard_gets_every_version_and_a_resume_sends_the_same(tmp_path: Path, share_towers: bool) -> None:
    run = Run(tmp_path, share_towers=share_towers)
    run.train(0, 4)
    first = received(run.hub.mailbox(1))
    assert received(run.hub.mailbox(2)) == first
    assert [(start.version, start.step) for start, _ in first] == [(0, 0), (1, 3)]
    again = Run(tmp_path, share_towers=share_towers)
    assert again.refresher.relaunch(4) == [0, 1]
    assert received(again.hub.mailbox(2)) == first
    version, tower = again.refresher.query_tower(5)
    assert version == 1
    for name, value in run.refresher.query_tower(5)[1].state_dict().items():
        assert torch.equal(tower.state_dict()[name], value), name
    built = tower_from_snapshot(first[1][1], again.new_tower())
    assert all(torch.equal(value, tower.state_dict()[name]) for name, value in built.state_dict().items())


def test_files_that_no_checkpoint_needs_are_deleted(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(0, 10)
    run.refresher.prune([4])
    assert sorted(path.name for path in tmp_path.glob("version-*")) == [f"version-0000{v}" for v in (0, 1, 2, 3)]
    run.refresher.prune([8])
    assert sorted(path.name for path in tmp_path.glob("version-*")) == ["version-00002", "version-00003"]


def test_another_schedule_cannot_resume(tmp_path: Path) -> None:
    Run(tmp_path).train(0, 7)
    other = Run(tmp_path, refresh=RefreshConfig(every_steps=2, adopt_after_steps=2))
    with pytest.raises(
        CheckpointError, match=r"is of step 6, but with refresh.every_steps=2 index version 2 is that of"
    ):
        other.refresher.relaunch(7)
    with pytest.raises(CheckpointError, match=r"snapshot.safetensors is missing: index version 3 .*refresh settings"):
        other.refresher.relaunch(8)
