"""Pre-training in one process, its index rank a thread and a stand-in for DeepSpeed: whose weights ask for what is
trained on, and that what is measured goes by the index's own snapshot. Whole runs: tests/ranks/test_pretrain.py."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import World, singleton
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval.corpus import embed_with
from realm_ds.index.builder import Builder
from realm_ds.index.embedding import Embed
from realm_ds.index.factory import spec_of
from realm_ds.index.messages import MESSAGES
from realm_ds.index.passages import load_shard
from realm_ds.index.store import IndexStore
from realm_ds.index.tree import SnapshotTree
from realm_ds.models.objectives import Measures
from realm_ds.models.realm import frozen_tower, tower_from_snapshot
from realm_ds.observe.notice import Notice
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.train import pretrain
from realm_ds.train.service import leave_index
from realm_ds.train.stage import Stage
from realm_ds.train.timing import StepTimer
from realm_ds.train.writer import Writer
from tests.support.index_cases import ServerThread
from tests.support.tiny import make_data, make_held_out, tiny_config

NUM_STEPS = 7
ADOPTED = (0, 5)


class Engine:
    """Every step moves all weights in the same way, whatever it is trained on."""

    def __init__(self, objective: nn.Module, **settings: object) -> None:
        self._objective = objective

    def copy_weights(self, module: nn.Module, *, dtype: torch.dtype = torch.float32, keeps: bool = True) -> Any:
        return {name: value.to(dtype, copy=True) for name, value in module.state_dict().items()} if keeps else {}

    def train_step(self, batches: list[Any], *, step: int, timer: StepTimer) -> list[Measures]:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for weight in self._objective.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
        return [Measures(torch.zeros(()), {}) for _ in batches]


def trained(data: Path, folder: Path, **changes: object) -> tuple[list[int], list[dict[str, Any]]]:
    """What each step retrieved, and all that probes and adoptions wrote down but for times."""
    config = tiny_config(
        data, **{"index.num_shards": 1, "pretrain.steps": NUM_STEPS, "data.held_out": data / "held_out"}, **changes
    )
    tokenizer = load_tokenizer(config.data.tokenizer)
    corpus = open_shards(config.data.corpus, kind="corpus", fingerprint=None)
    world, hub = World(world_rank=0, hosts=("here",) * 2, roles=("trainer", "index")), LoopbackHub(2, MESSAGES)
    unused: Any = None
    stage = Stage(
        config=config, folder=folder, world=world, trainers=Trainers(singleton()), device=torch.device("cpu"),
        tokenizer=tokenizer, corpus=corpus, sinks=Sinks(folder, role="trainer", role_rank=0, stage="pretrain"),
        notice=Notice(), timer=StepTimer(), writer=Writer(timeout_s=5), pulse=unused,
    )  # fmt: skip
    passages = load_shard(corpus, shard_rank=0, num_shards=1)
    new_tower = partial(
        frozen_tower, config.model, vocab_size=tokenizer.vocab_size, max_tokens=config.data.joint_tokens
    )

    def embed_factory(snapshot: bytes) -> Embed:
        return embed_with(tower_from_snapshot(snapshot, new_tower()))

    builder = Builder(
        passages, embed_factory=embed_factory, special=tokenizer.special, passage_tokens=32, width=16,
        spec=spec_of(config.index), batch_tokens=512, num_threads=1,
        store=IndexStore(folder / "index", corpus_sha256=corpus.digest),
    )  # fmt: skip
    with ServerThread(hub.mailbox(1), passages, builder, trainer_ranks=[0], tree=SnapshotTree.of(world)):
        training = pretrain.prepare(stage, hub.mailbox(0), deepspeed_json={}, resume=False)
        retrieved = [int(info.facts["retrieved_crc32"]) for info in training.steps]
        leave_index(stage, training.client, early=False)
    stage.writer.drain()
    stage.sinks.close()
    path = metrics_path(folder, role="trainer", role_rank=0)
    told = [row for event in ("adopted", "probed") for row in read_events(path, event=event)]
    return retrieved, [{name: row.get(name) for name in ("step", "changed_share", "probes")} for row in told]


def test_current_weights_find_others_and_what_is_measured_goes_by_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_held_out(tmp_path, make_data(tmp_path))
    monkeypatch.setattr(pretrain, "Engine", Engine)
    snapshot, measured = trained(tmp_path, tmp_path / "snapshot", **{"pretrain.search_ahead": 2})
    current, as_measured = trained(
        tmp_path, tmp_path / "current", **{"pretrain.retrieve_with": "current", "pretrain.search_ahead": 0}
    )
    assert len(snapshot) == len(current) == NUM_STEPS
    differ = [step for step in range(NUM_STEPS) if current[step] != snapshot[step]]
    assert differ == list(range(1, NUM_STEPS))  # before the first step both have the weights of version 0
    assert [row["step"] for row in measured] == [*ADOPTED, *ADOPTED]
    assert measured[1]["changed_share"] > 0
    assert measured == as_measured
