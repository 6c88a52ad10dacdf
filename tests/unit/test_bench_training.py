"""Benchmarks of training: how steps are sorted and stalls told apart, the bare loop, batches as transformers takes
them, and the environment for it."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from realm_ds.bench import memory, peer, resume, step, train_jobs
from realm_ds.bench.bare_loop import BareLoop, Recorder
from realm_ds.bench.memory_jobs import random_batch
from realm_ds.bench.peer_batch import padded, padded_tokens, peer_weights, write_work
from realm_ds.config.load import load
from realm_ds.config.schema import ModelConfig, RealmConfig
from realm_ds.errors import LaunchError
from realm_ds.models.objectives import MarginalBatch, MarginalObjective, MaskedBatch
from realm_ds.models.realm import RealmModel, build_model
from realm_ds.models.towers import TokenBatch

VOCABULARY = 40
MODEL = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, intermediate_size=32, projection_size=8, dropout=0.0, start="narrow"
)


def config(*overrides: str) -> RealmConfig:
    return load("demo", ["data.corpus=/none", "data.tokenizer=/none", *overrides])


def row(number: int, ended_at: float, *, drawn_s: float = 1.0, after_s: float = 0.0, wait_s: float = 0.0) -> dict:
    return {"step": number, "drawn_s": drawn_s, "after_s": after_s, "wait_s": wait_s, "version": 0,
            "ended_at": ended_at}  # fmt: skip


def test_steps_that_a_rebuild_fills_or_leaves_alone() -> None:
    rows = [row(number, ended_at=float(number)) for number in range(1, 11)]
    beside, idle = step.by_rebuild(rows, [(0.5, 1.5), (4.2, 7.0), (9.5, math.inf)])
    assert [found["step"] for found in beside] == [6, 7]
    assert [found["step"] for found in idle] == [3, 4, 8, 9]  # 5 saw a launch, 2 an end; 10 is the last


def test_a_rebuild_too_short_to_be_seen_is_no_good_number() -> None:
    assert math.isnan(step._mean_ms([]))


def test_stalls_are_told_apart_and_from_usual_steps() -> None:
    rows = []
    for number in range(2, 21):
        drawn_s = 1.0 + (0.5 if (number - 1) % 5 == 0 else 0.0)  # launches at steps 6, 11, 16
        drawn_s += 0.2 if number in (9, 17) else 0.0  # behind a save, writing in the background disturbs
        wait_s = 3.0 if number in (6, 12) else 0.0  # for the index, which is not their doing
        rows.append(
            row(number, 0.0, drawn_s=drawn_s + wait_s, wait_s=wait_s, after_s=0.01 + (0.8 if number % 8 == 0 else 0.0))
        )
    found = resume.stalls_of(rows, save_every=8, launch_every=5)
    assert found["usual_s"] == pytest.approx(1.01)
    assert found["save_s"] == pytest.approx([0.8, 0.8])
    assert found["launch_s"] == pytest.approx([0.5, 0.5, 0.5])
    assert found["lost_s"] == pytest.approx([1.0])  # of the first: no second save ends the last interval


def test_gradients_do_not_count_as_state() -> None:
    assert memory.state_bytes({"weights": 3, "optimizer": 4, "gradients": 100}) == 7


@pytest.mark.parametrize("groups", [step.step_groups, resume.resume_groups, memory.memory_groups])
def test_measures_are_named_as_promised(groups) -> None:
    names = [name for group in groups(is_quick=False) for name in group.names]
    words = {
        step.step_groups: ("bare", "transformers", "wait", "refresh"),
        resume.resume_groups: ("checkpoint", "snapshot"),
        memory.memory_groups: ("zero3",),
    }[groups]
    assert all(any(word in name for name in names) for word in words)


def model() -> RealmModel:
    return build_model(MODEL, vocab_size=VOCABULARY, max_tokens=32, seed=1)


def test_the_bare_loop_moves_weights_and_the_recorder_hands_it_the_batches() -> None:
    settings = config("pretrain.micro_batch_size=2", "pretrain.candidates=2", "pretrain.steps=20")
    ours, same = (MarginalObjective(model(), form="joint") for _ in range(2))
    recorder = Recorder(ours)
    bare = BareLoop(same, stage=settings.pretrain, optimizer=settings.optimizer)
    batch = random_batch(VOCABULARY, seed=0)
    first = ours(batch).loss.item()
    batches, losses = recorder.take()
    assert batches[0] is batch
    assert losses == [first]
    assert recorder.take() == ([], [])
    found = [bare.step(batches, step=number).item() for number in range(12)]
    assert found[0] == first
    assert found[-1] < found[0]
    recorder.close()
    ours(batch)
    assert recorder.take() == ([], [])


def test_sides_that_do_other_work_are_not_compared() -> None:
    assert train_jobs.apart(1.00001, 1.0) == pytest.approx(1e-5)
    for loss, other in ((1.02, 1.0), (float("nan"), 1.0), (1.0, float("nan"))):
        with pytest.raises(LaunchError, match="losses of the two sides differ by .* cannot be compared"):
            train_jobs.apart(loss, other)


def tokens(*lengths: int) -> TokenBatch:
    """Sequences of these lengths; each holds its length at every place."""
    mask_NL = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return TokenBatch(mask_NL * torch.tensor(lengths)[:, None], mask_NL, torch.zeros_like(mask_NL))


BUCKETED = MarginalBatch(
    queries=tokens(5, 4),
    passages=(tokens(3, 4), tokens(9)),
    passage_rows_BC=torch.tensor([[0, 2], [0, 1]]),
    joint=(
        MaskedBatch(tokens(6, 7), torch.tensor([2, 0]), torch.tensor([[1, 2], [3, 0]]), torch.tensor([[8, 9], [7, 0]])),
        MaskedBatch(
            tokens(10, 11), torch.tensor([1, 3]), torch.tensor([[3, 0], [1, 2]]), torch.tensor([[7, 0], [8, 9]])
        ),
    ),
    masks_BM=torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
)


def test_batches_leave_their_buckets() -> None:
    arrays = padded(BUCKETED)
    assert arrays["passage_ids_BCL"].shape == (2, 2, 9)
    assert arrays["passage_ids_BCL"].max(axis=-1).tolist() == [[3, 9], [3, 4]]
    assert arrays["joint_mask_BCL"].sum(axis=-1).tolist() == [[7, 10], [6, 11]]
    assert arrays["labels_BL"][:, :4].tolist() == [[0, 0, 0, 7], [0, 8, 9, 0]]
    assert arrays["mlm_mask_BL"][:, :4].tolist() == [[0, 0, 0, 1], [0, 1, 1, 0]]
    ours = (2 * 5) + (2 * 4 + 9) + (2 * 7 + 2 * 11)
    assert padded_tokens([BUCKETED]) == {"ours": ours, "peer": 2 * 5 + 4 * 9 + 4 * 11}


def test_weights_go_by_transformers_names(tmp_path: Path) -> None:
    realm = model()
    weights = peer_weights(realm.passage_tower.state_dict(), realm.encoder.state_dict())
    assert torch.equal(weights["scorer.embedder.cls.dense.weight"], realm.passage_tower.dense.weight)
    assert "encoder.cls.predictions.transform.LayerNorm.weight" in weights
    assert "encoder.realm.encoder.layer.0.attention.self.query.weight" in weights
    assert all(name.startswith(("scorer.embedder.", "encoder.realm.", "encoder.cls.")) for name in weights)
    settings = config("pretrain.rates.towers=0.25")
    write_work(tmp_path, model=realm, batches=[BUCKETED], config=settings, rate_factors=[0.5])
    work = json.loads((tmp_path / "work.json").read_text())
    assert (work["scorer_rate"], work["config"]["num_candidates"], work["rate_factors"]) == (0.25, 2, [0.5])
    with np.load(tmp_path / "batch-000.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == set(padded(BUCKETED))


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        python = peer.peer_environment(tmp_path, install=made.append)
    assert made == [python]
    (python.parents[1] / peer.READY_FILE).write_text("another installation's packages")
    peer.peer_environment(tmp_path, install=made.append)
    assert len(made) == 2


def test_without_an_index_of_packages_the_bar_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> Path:
        raise LaunchError("transformers 4.57.6 could not be installed (no network)")

    monkeypatch.setattr(step, "peer_environment", offline)

    class Bar:
        def update(self, *_: object, **__: object) -> None: ...

    (measure,) = step.beside_transformers(step.FULL, runs=None, bar=Bar())
    assert measure.is_ok is False
    assert "not measured: transformers 4.57.6 could not be installed (no network)" in measure.to_json()


def test_an_installation_that_fails_is_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No matching distribution' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(LaunchError, match=r"4.57.6 could not be installed \(No matching distribution\)"):
        peer._install(python)


def test_a_side_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with (
        peer.Peer(Path(sys.executable), tmp_path, program="peer_step.py") as side,
        pytest.raises(LaunchError, match="transformers' side ended with exit code 1: .*Error"),
    ):
        side.ask("1")
