"""Held-out evaluation in real runs: its numbers against brute force in one process, and that training does not notice.

Under ZeRO-3 with every weight in shards: passes that are not made together would hang, and weights that evaluation left
half gathered would spoil the snapshot that follows it.

Shapes: C candidates (null first), M masks, N passages, K hits, P embedding.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from realm_ds.config.load import load
from realm_ds.data.batches import joint_batch, masked_query_batch, passage_batch, query_batch
from realm_ds.data.masking import MaskedExample, masked_examples
from realm_ds.data.question_files import load_questions
from realm_ds.data.shards import open_shards
from realm_ds.data.stream import ExampleStream
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval.corpus import tensors
from realm_ds.models.names import check_export, strip_prefix
from realm_ds.models.realm import build_model, frozen_tower
from realm_ds.models.towers import Embedder, embed
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.reports.history import read_history
from tests.support.consolidated import consolidate
from tests.support.runs import check_weights, forget_after, steps, train
from tests.support.tiny import make_data, make_held_out

EVERY, LAST, EXAMPLES = 6, 9, 9
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_held_out(folder, make_data(folder), count=EXAMPLES)
    (folder / "zero3.json").write_text(
        json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}})
    )
    return folder


def settings(data: Path, *, evaluates: bool) -> dict[str, object]:
    """Sentences and questions that two trainers cannot share evenly: 3 batches, 5 and 4 questions."""
    changes: dict[str, object] = {"runtime.deepspeed": data / "zero3.json", "pretrain.save_every_steps": EVERY}
    if evaluates:
        changes |= {
            "data.held_out": data / "held_out", "evaluate.questions": data / "held_out.jsonl",
            "evaluate.every_steps": EVERY, "evaluate.examples": EXAMPLES,
        }  # fmt: skip
    return changes


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "measured"
    train(folder, data, **settings(data, evaluates=True))
    return folder


def events(folder: Path, event: str, *, rank: int = 0) -> list[dict[str, Any]]:
    return list(read_events(metrics_path(folder, role="trainer", role_rank=rank), event=event))


def measured(folder: Path, *, rank: int = 0) -> dict[int, dict[str, float]]:
    """What was held out at each evaluation of a run, by step."""
    return {
        row["step"]: {name: value for name, value in row.items() if name.startswith("held_out_")}
        for row in events(folder, "evaluated", rank=rank)
    }


class BruteForce:
    """A run's models as they were after a step, and the whole corpus by the towers of an index version."""

    def __init__(self, run: Path, *, step: int, version: int) -> None:
        self.config = load(run)
        data = self.config.data
        self.tokenizer = load_tokenizer(data.tokenizer)
        self.special = self.tokenizer.special
        self.model = build_model(
            self.config.model, vocab_size=self.tokenizer.vocab_size, max_tokens=data.joint_tokens, seed=0
        )
        self.model.load_state_dict(
            strip_prefix(consolidate(run / "checkpoints" / f"step-{step:08d}"), "model"), strict=False
        )
        self.model.eval()
        self.passages = list(open_shards(data.corpus, kind="corpus", fingerprint=None).passages())
        snapshot = load_file(run / "index" / f"version-{version:05d}" / "snapshot.safetensors")
        self.query_tower = self._tower(strip_prefix(snapshot, "query_tower"))
        passage_tower = self._tower(strip_prefix(snapshot, "passage_tower"))
        self.vectors_NP = np.stack([self._embed(passage_tower, p.title_ids, p.body_ids) for p in self.passages])

    def sentence(self, example: MaskedExample) -> dict[str, tuple[float, float]]:
        """The objective for one sentence, written out (REALM Eq. 1 and 2)."""
        query = masked_query_batch([example], special=self.special)
        hits = self._search(embed(self.query_tower, tensors(query, CPU)).numpy()[0], example.origin_uid)
        found = [self.passages[place] for place in hits[: self.config.pretrain.candidates - 1]]
        pairs = [((), ()), *((passage.title_ids, passage.body_ids) for passage in found)]
        query_P = embed(self.model.query_tower, tensors(query, CPU)).numpy()[0]
        relevance_C = np.array([query_P @ self._embed(self.model.passage_tower, *pair) for pair in pairs])
        p_z_C = np.exp(relevance_C - relevance_C.max()) / np.exp(relevance_C - relevance_C.max()).sum()
        read = [self._read(example, body) for _, body in pairs]
        log_p_CM, right_CM = np.array([log_p for log_p, _ in read]), np.array([right for _, right in read])
        log_likelihood, num_masks = np.log((p_z_C * np.exp(log_p_CM.sum(axis=1))).sum()), len(example.targets)
        null_M = log_p_CM[0].sum()
        return {
            "loss": (-log_likelihood, 1), "log_likelihood": (log_likelihood / num_masks, num_masks),
            "retrieval_utility": ((log_likelihood - null_M) / num_masks, 1),
            "ru_doc": ((log_p_CM[1:].sum(axis=1).max() - null_M) / num_masks, 1),
            "null_share": (p_z_C[0], 1), "retrieval_entropy": (-(p_z_C * np.log(p_z_C)).sum(), 1),
            "masked_accuracy": ((p_z_C @ right_CM).sum() / num_masks, num_masks),
        }  # fmt: skip

    def question(self, question: Any) -> dict[str, tuple[float, float]]:
        (ids,) = self.tokenizer.encode_questions([question.question])
        query = query_batch([ids], special=self.special, max_tokens=self.config.data.query_tokens)
        hits = self._search(embed(self.query_tower, tensors(query, CPU)).numpy()[0], 0)
        found = [self.passages[place] for place in hits[:20]]
        if question.gold_uids:
            is_right = [passage.uid in question.gold_uids for passage in found]
        else:
            answer = " ".join(map(str, self.tokenizer.encode(question.answers[0])))
            is_right = [f" {answer} " in f" {' '.join(map(str, passage.body_ids))} " for passage in found]
        return {f"recall_at_{k}": (float(any(is_right[:k])), 1) for k in (1, 5, 20)}

    def _tower(self, weights: Mapping[str, torch.Tensor]) -> Embedder:
        tower = frozen_tower(
            self.config.model, vocab_size=self.tokenizer.vocab_size, max_tokens=self.config.data.joint_tokens
        )
        tower.load_state_dict(weights)
        return tower

    def _embed(self, tower: Embedder, title: Any, body: Any) -> np.ndarray:
        tokens = passage_batch(
            [(title, body)], special=self.special, max_tokens=self.config.data.passage_tokens
        )  # fmt: skip
        vector_P: np.ndarray = embed(tower, tensors(tokens, CPU)).numpy()[0]
        return vector_P

    def _search(self, query_P: np.ndarray, origin_uid: int) -> list[int]:
        scores_N = self.vectors_NP @ query_P
        order = sorted(range(len(scores_N)), key=lambda place: (-scores_N[place], self.passages[place].uid))
        return [place for place in order if self.passages[place].uid != origin_uid]

    def _read(self, example: MaskedExample, body: Any) -> tuple[list[float], list[float]]:
        tokens = joint_batch(
            [example], [[body]], special=self.special, passage_tokens=self.config.data.passage_tokens
        )  # fmt: skip
        with torch.no_grad():
            log_p, is_right = self.model.encoder(
                tensors(tokens, CPU), torch.tensor([example.mask_positions]), torch.tensor([example.targets])
            )
        return log_p[0].tolist(), is_right[0].tolist()


@pytest.mark.parametrize(("step", "version"), [(EVERY, 1), (LAST, 2)])
def test_what_is_measured_is_what_brute_force_finds(run: Path, step: int, version: int) -> None:
    by_hand = BruteForce(run, step=step, version=version)
    data = by_hand.config.data
    assert data.held_out is not None
    held_out = open_shards(data.held_out, kind="pretrain", fingerprint=None)
    stream = ExampleStream(held_out, seed=0, reader=0, num_readers=1)
    one_epoch = [next(stream) for _ in range(EXAMPLES)]
    masked = masked_examples(
        one_epoch, special=by_hand.special, query_tokens=data.query_tokens, max_masks=data.max_masks, seed=0
    )
    sums: dict[str, tuple[float, float]] = {}
    rows = [by_hand.sentence(example) for example, _ in masked]
    rows += [by_hand.question(question) for question in load_questions(by_hand.config.evaluate.questions)]
    for name, (value, weight) in (item for row in rows for item in row.items()):
        total, weights = sums.get(name, (0.0, 0.0))
        sums[name] = total + value * weight, weights + weight
    expected = {f"held_out_{name}": total / weights for name, (total, weights) in sums.items()}
    assert measured(run)[step] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    (version_found,) = [row["version"] for row in events(run, "evaluated") if row["step"] == step]
    assert version_found == version


def found(folder: Path, *, since: int = 0) -> list[tuple[int, str, list[int]]]:
    """(version, probe, uids of its hits) of every version adopted at step `since` or later."""
    return [
        (one.version, probe.query, [hit.uid for hit in one.hits])
        for probe in read_history(folder).probes for one in probe.findings if one.step >= since
    ]  # fmt: skip


def test_probes_are_what_brute_force_finds_in_each_version(run: Path) -> None:
    by_hand, probed = BruteForce(run, step=LAST, version=2), found(run)
    assert [version for version, _, _ in probed] == [0, 1, 2] * 6
    uids = {query: uids for version, query, uids in probed if version == 2}
    for question in load_questions(by_hand.config.evaluate.questions)[:3]:
        (ids,) = by_hand.tokenizer.encode_questions([question.question])
        query = query_batch([ids], special=by_hand.special, max_tokens=by_hand.config.data.query_tokens)
        hits = by_hand._search(embed(by_hand.query_tower, tensors(query, CPU)).numpy()[0], 0)
        wanted = [by_hand.passages[place].uid for place in hits[: by_hand.config.pretrain.num_retrieved]]
        assert uids[question.question] == wanted
    assert all(row["probe_ms"] > 0 for row in events(run, "probed"))
    assert events(run, "probed", rank=1) == []


def test_training_does_not_notice(data: Path, run: Path, tmp_path: Path) -> None:
    """Bit for bit the losses and searches of a run that measures nothing."""
    plain = tmp_path / "plain"
    train(plain, data, **settings(data, evaluates=False))
    assert steps(plain) == steps(run)
    assert measured(run) == measured(run, rank=1)
    assert list(measured(run)) == [EVERY, LAST]
    (without,), (with_it,) = events(plain, "done"), events(run, "done")
    for name in ("searches", "queries", "strangers"):
        assert with_it[name] == without[name], name
    assert not (plain / "best").exists()


def test_the_best_models_are_those_of_the_step_and_survive_a_resume(data: Path, run: Path, tmp_path: Path) -> None:
    """Also where the checkpoint to go on from is older than they are."""
    record = json.loads((run / "best" / "best.json").read_text())
    utility = {step: row["held_out_retrieval_utility"] for step, row in measured(run).items()}
    assert record["step"] == max(utility, key=lambda step: utility[step])
    assert (record["measure"], record["value"]) == ("held_out_retrieval_utility", utility[record["step"]])
    check_export(run / "best")
    check_weights(run / "best", run / "checkpoints" / f"step-{record['step']:08d}")
    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    forget_after(resumed, EVERY, last=LAST)
    (resumed / "best" / "best.json").write_text(json.dumps({**record, "step": LAST, "value": 1e9}))
    train(resumed, data, resume=True, **settings(data, evaluates=True))
    assert steps(resumed) == [row for row in steps(run) if row[0] > EVERY]
    assert measured(resumed) == {LAST: measured(run)[LAST]}
    assert found(resumed) == found(run, since=EVERY)
    again = json.loads((resumed / "best" / "best.json").read_text())
    assert (again["step"], again["value"]) == (LAST, utility[LAST])  # not that of the future
    check_weights(resumed / "best", resumed / "checkpoints" / f"step-{LAST:08d}")
