"""What is put to every index version, and what is written down. Whole runs are in tests/ranks/test_evaluation.py."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.config.index import RefreshConfig
from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import passage_uid
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import NO_HIT
from realm_ds.index.versions import Schedule
from realm_ds.models.towers import TokenBatch
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.reports.history import ProbeHistory, read_history
from realm_ds.train.probes import ProbeRecorder, probes_of
from realm_ds.train.stage import Stage
from tests.support.batches import candidates_with
from tests.support.run_folders import write_run
from tests.support.tiny import make_data, make_held_out, tiny_config

NULL_SCORE = 2.0


class Tower(torch.nn.Module):
    """A query is 1, the null passage, of two special tokens and a third, NULL_SCORE."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, tokens: TokenBatch) -> torch.Tensor:
        is_passage = tokens.types_NL.any(dim=1, keepdim=True)
        return torch.where(is_passage, torch.tensor(NULL_SCORE), torch.tensor(1.0)) * self.scale


class Client:
    """Finds places version, version + 1, ... of the corpus for everything; the last is none."""

    def __init__(self, passages: list[Any]) -> None:
        self.passages, self.asked = passages, []

    def submit(self, vectors_BP: np.ndarray, **asked: Any) -> int:
        self.asked.append({"num_queries": len(vectors_BP), **asked})
        return len(self.asked) - 1

    def collect(self, request: int) -> Candidates:
        asked = self.asked[request]
        places = list(range(asked["version"], asked["version"] + asked["num_hits"] - 1))
        found = [self.passages[place] for place in places]
        uids = [*(passage.uid for passage in found), NO_HIT]
        candidates = candidates_with(
            [uids] * asked["num_queries"], {passage.uid: (passage.title_ids, passage.body_ids) for passage in found}
        )
        rows = asked["num_queries"]
        scores = np.array([[*(-float(number) for number in range(len(found))), -np.inf]] * rows, dtype=np.float32)
        parts = {**vars(candidates), "version": asked["version"], "wait_s": 0.5, "scores_BK": scores}
        return Candidates(**{**parts, "places_BK": np.array([[*places, -1]] * rows)})


class Run:
    """One trainer's probes, with stand-ins for models, index and writer."""

    def __init__(self, folder: Path, config: RealmConfig, *, trainer_rank: int = 0) -> None:
        self.folder = folder
        corpus = open_shards(config.data.corpus, kind="corpus", fingerprint=None)
        unused: Any = None
        trainers: Any = Trainers(singleton()) if trainer_rank == 0 else SimpleNamespace(rank=trainer_rank, size=2)
        self.stage = Stage(
            config=config, folder=folder, world=singleton(), trainers=trainers, device=torch.device("cpu"),
            tokenizer=load_tokenizer(config.data.tokenizer), corpus=corpus, notice=unused, timer=unused, pulse=unused,
            sinks=Sinks(folder, role="trainer", role_rank=trainer_rank, stage="pretrain"),
            writer=SimpleNamespace(submit=lambda kind, job: job()),
        )  # fmt: skip
        self.passages = list(corpus.passages())
        self.client = Client(self.passages)
        self.schedule = Schedule(RefreshConfig(every_steps=4, adopt_after_steps=2))
        towers: Any = SimpleNamespace(at=lambda step: (self.schedule.version_at(step), Tower()))
        self.probes = probes_of(self.stage)
        self.recorder = ProbeRecorder(
            self.stage, self.probes, schedule=self.schedule, towers=towers, client=self.client
        )  # fmt: skip

    def steps(self, first: int, last: int) -> float:
        """The time waited."""
        waited_s = 0.0
        for step in range(first, last):
            self.recorder.ask(step)
            waited_s += self.recorder.record(step)
        return waited_s

    def rows(self) -> list[dict[str, Any]]:
        return list(read_events(metrics_path(self.folder, role="trainer", role_rank=0), event="probed"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_held_out(folder, make_data(folder))
    return folder


def probing(data: Path, **changes: object) -> RealmConfig:
    settings = {
        "data.held_out": data / "held_out", "evaluate.questions": data / "held_out.jsonl",
        "model.share_towers": True, "pretrain.temperature": 2.0,
    }  # fmt: skip
    return tiny_config(data, **{**settings, **changes})


def test_half_of_the_probes_are_questions_half_sentences(data: Path, tmp_path: Path) -> None:
    probes = Run(tmp_path, probing(data)).probes
    assert len(probes) == 6
    assert [probe.text for probe in probes[:2]] == ["arlon mayor is called", "brest mayor is called"]
    assert all("[MASK]" in probe.text and len(probe.answers) == 1 for probe in probes[3:])
    few = Run(tmp_path / "few", probing(data, **{"evaluate.num_probes": 1})).probes
    assert ["[MASK]" in probe.text for probe in few] == [True]


def test_where_there_is_one_kind_alone_all_are_of_it(data: Path, tmp_path: Path) -> None:
    questions = Run(tmp_path / "q", probing(data, **{"data.held_out": None})).probes
    sentences = Run(tmp_path / "s", probing(data, **{"evaluate.questions": None})).probes
    assert ["[MASK]" in probe.text for probe in questions] == [False] * 6
    assert ["[MASK]" in probe.text for probe in sentences] == [True] * 6


@pytest.mark.parametrize(
    ("changes", "trainer_rank"),
    [({"evaluate.num_probes": 0}, 0), ({"data.held_out": None, "evaluate.questions": None}, 0), ({}, 1)],
)
def test_nothing_is_asked(data: Path, tmp_path: Path, changes: dict[str, Any], trainer_rank: int) -> None:
    run = Run(tmp_path, probing(data, **changes), trainer_rank=trainer_rank)
    assert (run.probes, run.steps(0, 12), run.client.asked) == ([], 0.0, [])


def test_a_file_of_probes_needs_no_answers(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    uid = passage_uid("arlon mayor", "arlon has a mayor. the mayor of arlon is called mayarl.")
    lines = [{"question": "the mayor of arlon is [MASK]"}, {"question": "who?", "gold_uids": [uid]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(tmp_path, probing(data, **{"evaluate.probes": path}))
    assert run.stage.tokenizer.special.mask in run.probes[0].example.ids
    run.steps(0, 1)
    ((first, second),) = [row["probes"] for row in run.rows()]
    assert [hit["is_right"] for hit in first["hits"]] == [None, None]
    place = next(place for place, passage in enumerate(run.passages) if passage.uid == uid)
    assert [hit["is_right"] for hit in second["hits"]] == [place == 0, place == 1]


def test_each_adoption_is_one_search_written_down(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, probing(data, **{"evaluate.num_probes": 2}))
    assert run.steps(0, 11) == 3 * 0.5
    assert [(row["version"], row["step"]) for row in run.rows()] == [(0, 0), (1, 6), (2, 10)]
    assert [(one["version"], one["num_queries"], one["counts"]) for one in run.client.asked] == [
        (0, 2, False), (1, 2, False), (2, 2, False),
    ]  # fmt: skip
    probe = run.rows()[1]["probes"][0]
    assert [hit["uid"] for hit in probe["hits"]] == [passage.uid for passage in run.passages[1:3]]
    assert probe["hits"][0]["title"] == run.passages[1].title
    assert probe["hits"][0]["text"] == run.passages[1].text
    # By hand: scores 0 and -1 beside the null passage's 2, over a temperature of 2.
    weights = [np.exp(score / 2.0) for score in (NULL_SCORE, 0.0, -1.0)]
    assert probe["null_p"] == pytest.approx(weights[0] / sum(weights))
    assert [hit["p"] for hit in probe["hits"]] == pytest.approx([weight / sum(weights) for weight in weights[1:]])


def test_the_null_passage_has_no_share_where_it_is_none_or_its_vector_not_known(data: Path, tmp_path: Path) -> None:
    for number, changes in enumerate(({"model.share_towers": False}, {"pretrain.null_passage": False})):
        run = Run(tmp_path / str(number), probing(data, **{"evaluate.num_probes": 1, **changes}))
        run.steps(0, 1)
        (probe,) = run.rows()[0]["probes"]
        assert probe["null_p"] is None
        assert sum(hit["p"] for hit in probe["hits"]) == pytest.approx(1.0)


@pytest.mark.parametrize("stop_at", [1, 6, 7])
def test_a_resume_neither_loses_nor_doubles(data: Path, tmp_path: Path, stop_at: int) -> None:
    config = probing(data, **{"evaluate.num_probes": 2})

    def probes_after(folder: Path, *worlds: tuple[int, int]) -> tuple[ProbeHistory, ...]:
        write_run(folder, [], config=config)
        for first, last in worlds:
            run = Run(folder, config)
            run.stage.sinks.write("start", step=first, steps=11, trainers=1)
            run.steps(first, last)
            run.stage.sinks.close()
        return read_history(folder).probes

    whole = probes_after(tmp_path / "whole", (0, 11))
    assert [len(probe.findings) for probe in whole] == [3, 3]
    assert probes_after(tmp_path / "stopped", (0, 8), (stop_at, 11)) == whole
