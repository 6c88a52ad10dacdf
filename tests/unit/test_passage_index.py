"""Where fine-tuning has its passages from: index ranks find what a search in this process finds, refreshed or not."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from realm_ds.comm.loopback import LoopbackHub
from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import World, singleton
from realm_ds.config.schema import RealmConfig
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
from realm_ds.models.realm import build_model, frozen_tower, tower_from_snapshot
from realm_ds.models.towers import Towers
from realm_ds.observe.notice import Notice
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.train.passage_index import OwnIndex, PassageIndex, ServedIndex, open_index
from realm_ds.train.stage import Stage
from realm_ds.train.timing import StepTimer
from realm_ds.train.writer import Writer
from tests.support.index_cases import ServerThread
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_questions, qa_changes

NUM_PASSAGES = 72
REFRESHED = {"qa.refresh_passages": True, "refresh.every_steps": 3, "refresh.adopt_after_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    make_questions(folder)
    return folder


class Engine:
    """Hands out a model's weights as DeepSpeed's would."""

    def copy_weights(self, module: nn.Module, *, dtype: torch.dtype, keeps: bool) -> dict[str, Tensor]:
        return {name: value.to(dtype, copy=True) for name, value in module.state_dict().items()} if keeps else {}


class Trial:
    """One trainer of a run and its index ranks, threads of this process."""

    def __init__(self, data: Path, folder: Path, **changes: object) -> None:
        self.config: RealmConfig = tiny_config(data, **qa_changes(data, **{"qa.index": "sharded", **changes}))
        self.tokenizer = load_tokenizer(self.config.data.tokenizer)
        self.corpus = open_shards(self.config.data.corpus, kind="corpus", fingerprint=None)
        self.folder, self.notice, self.sinks = folder, Notice(), Sinks(folder, role="trainer", role_rank=0, stage="qa")
        self.world = World(world_rank=0, hosts=("here",) * 3, roles=("trainer", "index", "index"))
        self.hub = LoopbackHub(3, MESSAGES)
        model = build_model(self.config.model, vocab_size=self.tokenizer.vocab_size, max_tokens=48, seed=0).eval()
        with torch.no_grad():  # else no two passages are told apart
            for weight in model.passage_tower.parameters():
                weight += 0.02 * torch.randn_like(weight)
        self.towers = Towers(query=model.query_tower, passage=model.passage_tower)
        unused: Any = None
        self.stage = Stage(
            config=self.config, folder=folder, world=self.world, trainers=Trainers(singleton()),
            device=torch.device("cpu"), tokenizer=self.tokenizer, corpus=self.corpus, sinks=self.sinks,
            notice=self.notice, timer=StepTimer(), writer=Writer(timeout_s=5), pulse=unused,
        )  # fmt: skip

    def own(self) -> PassageIndex:
        """An index in this process, of the passage tower as it is."""
        index = open_index(self.stage, self.towers, None)
        assert isinstance(index, OwnIndex)
        return index

    @contextmanager
    def served(
        self, *, before_embedding: Callable[[], object] = lambda: None, writes: bool = True
    ) -> Iterator[ServedIndex]:
        """That of the index ranks, which are there until it is left."""
        store = IndexStore(self.folder / "index", corpus_sha256=self.corpus.digest) if writes else None

        def embed_factory(snapshot: bytes) -> Embed:
            before_embedding()
            tower = frozen_tower(self.config.model, vocab_size=self.tokenizer.vocab_size, max_tokens=48)
            return embed_with(tower_from_snapshot(snapshot, tower))

        with ExitStack() as servers:
            for rank in self.world.index_ranks:
                passages = load_shard(self.corpus, shard_rank=rank - 1, num_shards=2)
                builder = Builder(
                    passages, embed_factory=embed_factory, special=self.tokenizer.special, passage_tokens=32, width=16,
                    spec=spec_of(self.config.index), batch_tokens=512, num_threads=1, store=store,
                )  # fmt: skip
                server = ServerThread(
                    self.hub.mailbox(rank), passages, builder, trainer_ranks=[0], tree=SnapshotTree.of(self.world),
                    shard_rank=rank - 1,
                )  # fmt: skip
                servers.enter_context(server)
            index = open_index(self.stage, self.towers, self.hub.mailbox(0))
            assert isinstance(index, ServedIndex)
            index.start(Engine(), step=0)
            yield index

    def train(self) -> None:
        """A step that changes the passages."""
        with torch.no_grad():
            for weight in self.towers.passage.parameters():
                weight += 0.02 * torch.randn_like(weight)


def queries(num: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((num, 16)).astype(np.float32)


@pytest.mark.parametrize("num_hits", [1, 9, 1000])
@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8"])
def test_index_ranks_find_what_a_search_in_this_process_finds(
    data: Path, tmp_path: Path, num_hits: int, factory: str
) -> None:
    trial = Trial(data, tmp_path, **{"index.factory": factory, "index.search_parameters": "nprobe=4"})
    passages = list(trial.corpus.passages())
    own = trial.own()
    with trial.served() as served:
        assert served.prepare_step(0)
        wanted, found = (index.retrieve(queries(6), num_hits) for index in (own, served))
        assert found.uids_BK.shape == (6, min(num_hits, NUM_PASSAGES))
        np.testing.assert_array_equal(found.uids_BK, wanted.uids_BK)
        np.testing.assert_array_equal(found.places_BK, wanted.places_BK)
        np.testing.assert_allclose(found.scores_BK, wanted.scores_BK, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.vectors_BKP, wanted.vectors_BKP, rtol=1e-4, atol=1e-5)
        for row, places in enumerate(found.places_BK.tolist()):
            bodies = [passages[place].body_ids for place in places]
            assert found.uids_BK[row].tolist() == [passages[place].uid for place in places]
            for each in (found, wanted):
                tokens_T, offsets = each.bodies(row)
                assert [tuple(part) for part in np.split(tokens_T, offsets[1:-1])] == bodies
                assert [tuple(hit.title_ids) for hit in each.hits(row)] == [passages[n].title_ids for n in places]
        for theirs, ours in zip(served.search(queries(600), num_hits), own.search(queries(600), num_hits), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
        _, figures, facts = served.take_step()
        assert figures["search_ms"][0] > 0
        assert (facts["version"], facts["staleness_steps"]) == (0, 0)
        served.leave(early=False)


def test_frozen_passages_are_those_of_the_start_throughout(data: Path, tmp_path: Path) -> None:
    trial = Trial(data, tmp_path, **{"refresh.every_steps": 3})
    own = trial.own()
    with trial.served() as served:
        for step in range(7):
            assert served.prepare_step(step)
            trial.train()
            found, wanted = (index.retrieve(queries(2), 5) for index in (served, own))
            np.testing.assert_array_equal(found.uids_BK, wanted.uids_BK)
            assert served.take_step()[2]["version"] == 0
        assert served.finish(7)
        vectors = served.vectors()
        assert vectors is not None
        assert [type(part) for part in vectors] == [np.memmap, np.memmap]
        np.testing.assert_allclose(np.concatenate(vectors), own.vectors()[0], rtol=1e-4, atol=1e-5)
        served.leave(early=False)


@pytest.mark.parametrize("share_towers", [False, True])
def test_refreshed_passages_are_those_of_the_step_of_their_version(
    data: Path, tmp_path: Path, share_towers: bool
) -> None:
    """Launched at steps 0, 3 and 6, used from 0, 5 and 8 on; and one more at the end."""
    trial = Trial(data, tmp_path, **REFRESHED, **{"model.share_towers": share_towers, "qa.steps": 9})
    as_of: dict[int, PassageIndex] = {}
    with trial.served() as served:
        for step, version in enumerate([0, 0, 0, 0, 0, 1, 1, 1, 2]):
            if step % 3 == 0:
                as_of[step // 3] = trial.own()
            assert served.prepare_step(step)
            found, wanted = served.retrieve(queries(3), 8), as_of[version].retrieve(queries(3), 8)
            np.testing.assert_array_equal(found.uids_BK, wanted.uids_BK)
            np.testing.assert_allclose(found.vectors_BKP, wanted.vectors_BKP, rtol=1e-4, atol=1e-5)
            _, _, facts = served.take_step()
            assert (facts["version"], facts["staleness_steps"]) == (version, step - 3 * version)
            trial.train()
        last = trial.own()
        assert served.finish(9)
        np.testing.assert_array_equal(served.search(queries(4), 6)[0], last.search(queries(4), 6)[0])
        vectors = served.vectors()
        assert vectors is not None
        np.testing.assert_allclose(np.concatenate(vectors), last.vectors()[0], rtol=1e-4, atol=1e-5)
        served.leave(early=False)


def test_the_last_version_waits_for_none_that_no_step_asks_for(data: Path, tmp_path: Path) -> None:
    """One launched at step 6 would be used from 8 on."""
    trial = Trial(data, tmp_path, **REFRESHED, **{"qa.steps": 8})
    with trial.served() as served:
        for step in range(8):
            assert served.prepare_step(step)
        assert served.finish(8)
        launched = read_events(metrics_path(tmp_path, role="trainer", role_rank=0), event="launched")
        assert [(row["version"], row["step"]) for row in launched] == [(0, 0), (1, 3), (2, 8)]
        served.leave(early=False)


def test_who_is_asked_to_end_does_not_wait_for_the_index(data: Path, tmp_path: Path) -> None:
    trial, gate = Trial(data, tmp_path), threading.Event()
    with trial.served(before_embedding=lambda: gate.wait(20)) as served:
        trial.notice.name = "SIGTERM"
        assert not served.prepare_step(0)
        gate.set()
        served.leave(early=True)


def test_who_is_asked_to_end_does_not_wait_for_vectors_to_be_written(data: Path, tmp_path: Path) -> None:
    trial = Trial(data, tmp_path)
    with trial.served(writes=False) as served:
        assert served.prepare_step(0)
        assert served.finish(1)
        trial.notice.name = "SIGTERM"
        assert served.vectors() is None
        served.leave(early=True)
