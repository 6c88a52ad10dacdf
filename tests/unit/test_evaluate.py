"""Who measures which sentences, when, and what is a right hit. Whole runs are in tests/ranks/test_evaluation.py."""

import math
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.config.schema import RealmConfig
from realm_ds.data.batches import JOINT_BUCKETS
from realm_ds.data.masking import MaskedExample
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import DataError
from realm_ds.index.merge import Candidates
from realm_ds.index.messages import NO_HIT
from realm_ds.models.objectives import Measures
from realm_ds.models.towers import TokenBatch
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.train.evaluate import QuestionBatch, Turn, deal, evaluation_of, right_hits
from realm_ds.train.stage import Stage
from tests.support.batches import candidates_with
from tests.support.tiny import make_data, make_held_out, tiny_config


def sentence(number: int) -> MaskedExample:
    return MaskedExample(id=str(number), ids=(1, 4, 2), mask_positions=(1,), targets=(7,), origin_uid=0)


@given(
    count=st.integers(0, 40), most=st.integers(1, 9), candidates=st.integers(2, 8), num_trainers=st.integers(1, 7)
)  # fmt: skip
def test_every_sentence_counts_once_and_all_trainers_pass_in_step(
    count: int, most: int, candidates: int, num_trainers: int
) -> None:
    sentences = [sentence(number) for number in range(count)]
    dealt = [
        deal(sentences, most=most, candidates=candidates, trainer=trainer, num_trainers=num_trainers)
        for trainer in range(num_trainers)
    ]
    assert len({len(turns) for turns in dealt}) == 1
    counted = [item.id for turns in dealt for turn in turns if turn.counts for item in turn.sentences]
    assert Counter(counted) == Counter(item.id for item in sentences)
    every = [turn for turns in dealt for turn in turns]
    assert all(1 <= len(turn.sentences) <= most for turn in every)
    assert len({min(JOINT_BUCKETS, len(turn.sentences) * candidates) for turn in every}) <= 1
    # No more passes than there must be, but for the smallest batches, which are then of one sentence.
    rounds = math.ceil(math.ceil(count / most) / num_trainers)
    assert len(dealt[0]) == rounds or all(len(turn.sentences) == 1 for turn in every)


def candidates_of(uids_BK: list[list[int]], bodies: dict[int, list[int]]) -> Candidates:
    return candidates_with(uids_BK, {uid: ((), body) for uid, body in bodies.items()})


def test_right_is_a_gold_passage_or_one_that_holds_an_answer() -> None:
    found = candidates_of([[5, 6, 7], [6, 7, NO_HIT], [6, 5, NO_HIT]], {5: [1, 2, 3], 6: [8, 9], 7: [2, 3, 9]})
    questions = QuestionBatch(
        ids=[[1], [1], [1]],
        gold_uids=[(7, 99), (), ()],
        answers=[[[1, 2]], [[4], [2, 3]], [[8], [1, 2]]],
    )
    assert questions.needs_tokens
    continues_word_V = np.zeros(10, dtype=bool)
    assert right_hits(found, questions, continues_word_V=continues_word_V).tolist() == [
        [False, False, True],  # by uid alone, although the answer stands in passage 5
        [False, True, False],
        [True, True, False],
    ]
    continues_word_V[9] = True  # 8 and ##9 are one other word
    assert right_hits(found, questions, continues_word_V=continues_word_V)[2].tolist() == [False, True, False]
    assert not QuestionBatch(ids=[[1]], gold_uids=[(7,)], answers=[[[1]]]).needs_tokens


class Client:
    """Finds the first passages of the corpus for everything, and knows what it was asked."""

    def __init__(self, uids: list[int]) -> None:
        self.uids, self.asked, self.on_their_way, self.most = uids, [], 0, 0

    def submit(self, vectors_BP: np.ndarray, **asked: Any) -> int:
        self.asked.append({"num_queries": len(vectors_BP), **asked})
        self.on_their_way += 1
        self.most = max(self.most, self.on_their_way)
        return len(self.asked) - 1

    def collect(self, request: int) -> Candidates:
        self.on_their_way -= 1
        asked = self.asked[request]
        uids = [self.uids[: asked["num_hits"]]] * asked["num_queries"]
        return candidates_of(uids, {uid: [5, 6] for uid in self.uids})


class Tower(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, tokens: TokenBatch) -> torch.Tensor:
        return tokens.ids_NL[:, :1] * self.scale


class Engine:
    """Measures how many sentences there are in a batch."""

    @contextmanager
    def measuring(self) -> Any:
        def measure(batch: Any) -> Measures:
            count = float(len(batch.masks_BM))
            loss = torch.tensor(2.0)
            return Measures(loss, {"loss": (loss, count), "size": (torch.tensor(count), 1.0)})

        yield measure


class Trial:
    """An evaluation of a run whose models, index and other trainers are stand-ins."""

    def __init__(self, folder: Path, config: RealmConfig) -> None:
        self.folder, tokenizer = folder, load_tokenizer(config.data.tokenizer)
        corpus = open_shards(config.data.corpus, kind="corpus", fingerprint=None)
        self.client, self.steps = Client(list(range(1, 31))), []
        unused: Any = None
        stage = Stage(
            config=config, folder=folder, world=singleton(), trainers=Trainers(singleton()), device=torch.device("cpu"),
            tokenizer=tokenizer, corpus=corpus, sinks=Sinks(folder, role="trainer", role_rank=0, stage="pretrain"),
            notice=unused, timer=unused, writer=unused,
            pulse=SimpleNamespace(no_step_due=nullcontext),
        )  # fmt: skip

        def query_tower(step: int) -> tuple[int, Tower]:
            self.steps.append(step)
            return step // 2, Tower()

        self.evaluate = evaluation_of(
            stage, Engine(), model=None, client=self.client, first_step=0,
            towers=SimpleNamespace(at=query_tower),
        )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        return list(read_events(metrics_path(self.folder, role="trainer", role_rank=0), event="evaluated"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_held_out(folder, make_data(folder))
    return folder


def evaluating(data: Path, **changes: object) -> RealmConfig:
    settings = {
        "data.held_out": data / "held_out", "evaluate.questions": data / "held_out.jsonl", "evaluate.every_steps": 4,
        "evaluate.keep_best": False, "pretrain.micro_batch_size": 2, "pretrain.candidates": 3,
    }  # fmt: skip
    return tiny_config(data, **{**settings, **changes})


def test_without_every_steps_nothing_is_measured(data: Path, tmp_path: Path) -> None:
    assert Trial(tmp_path, evaluating(data, **{"evaluate.every_steps": None})).evaluate is None


def test_it_measures_at_multiples_and_at_the_end(data: Path, tmp_path: Path) -> None:
    trial = Trial(tmp_path, evaluating(data))
    assert trial.evaluate is not None
    for step in range(1, 10):
        trial.evaluate(step)
    assert [row["step"] for row in trial.rows()] == [4, 8, 9]
    assert trial.steps == [3, 7, 8]  # of the index that the step before was trained with
    assert [row["version"] for row in trial.rows()] == [1, 3, 4]
    assert all(row["held_out_log_likelihood"] == -2.0 * 9 / 18 for row in trial.rows())  # 1, 2, 3 masks in turn
    assert {(asked["step"], asked["version"]) for asked in trial.client.asked} == {(3, 1), (7, 3), (8, 4)}
    assert not any(asked["counts"] for asked in trial.client.asked)
    assert trial.client.most == 3  # searched while an earlier batch is worked on
    assert trial.client.on_their_way == 0


def test_sentences_are_searched_as_in_training_and_questions_without_excluding(data: Path, tmp_path: Path) -> None:
    trial = Trial(tmp_path, evaluating(data, **{"evaluate.examples": 7, "evaluate.max_questions": 8}))
    assert trial.evaluate is not None
    trial.evaluate(4)
    sizes = [(asked["num_queries"], asked["num_hits"], asked.get("ids_only")) for asked in trial.client.asked]
    # Sentences 2 at a time would be 2, 2, 2 and 1, of fewer buckets; questions as many as a micro-batch has sequences.
    assert sizes == [(1, 2, None)] * 7 + [(6, 20, False), (2, 20, False)]
    (row,) = trial.rows()
    assert (row["held_out_loss"], row["held_out_size"]) == (2.0, 1.0)
    assert row["held_out_recall_at_20"] == 0.0
    assert row["evaluate_ms"] > 0


def test_without_a_null_passage_one_passage_more_is_retrieved(data: Path, tmp_path: Path) -> None:
    changes = {"pretrain.null_passage": False, "evaluate.questions": None, "pretrain.micro_batch_size": 9}
    trial = Trial(tmp_path, evaluating(data, **changes))
    assert trial.evaluate is not None
    trial.evaluate(4)
    assert [(asked["num_queries"], asked["num_hits"]) for asked in trial.client.asked] == [(9, 3)]


def test_the_sentences_and_their_masks_are_the_same_for_every_seed(data: Path, tmp_path: Path) -> None:
    seen: list[list[Turn]] = []
    for seed in (0, 1):
        trial = Trial(tmp_path, evaluating(data, **{"runtime.seed": seed, "evaluate.examples": 5}))
        assert trial.evaluate is not None
        seen.append(list(trial.evaluate._turns))
    assert seen[0] == seen[1]
    assert sum(len(turn.sentences) for turn in seen[0]) == 5


def test_only_questions_or_only_sentences(data: Path, tmp_path: Path) -> None:
    for changes, there in (({"data.held_out": None}, "recall_at_5"), ({"evaluate.questions": None}, "loss")):
        trial = Trial(tmp_path / there, evaluating(data, **changes))
        assert trial.evaluate is not None
        trial.evaluate(4)
        (row,) = trial.rows()
        assert [name in row for name in ("held_out_recall_at_5", "held_out_loss")] == [
            there == "recall_at_5", there == "loss",
        ]  # fmt: skip


def test_sentences_that_cannot_be_masked_are_a_fault(data: Path, tmp_path: Path) -> None:
    message = r"none of the 9 sentences in data.held_out=.* can be masked within data.query_tokens=3: raise that, or"
    with pytest.raises(DataError, match=message):
        Trial(tmp_path, evaluating(data, **{"data.query_tokens": 3}))
