"""Whole small runs under the real launcher: the same seed gives the same run, stopped and resumed or not."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from realm_ds.launch.index_check import verify_index
from realm_ds.launch.index_open import Wanted
from realm_ds.launch.index_search import search_index
from realm_ds.observe.logs import log_path
from realm_ds.observe.sinks import metrics_path, read_events
from realm_ds.train.checkpoint import read_states
from realm_ds.train.export import export_run
from tests.support.consolidated import consolidate
from tests.support.runs import check_weights, forget_after, steps, train
from tests.support.tiny import make_data


def adoptions(folder: Path) -> list[tuple[object, ...]]:
    """What both trainers measured at the adoption of each version."""
    paths = [metrics_path(folder, role="trainer", role_rank=rank) for rank in (0, 1)]
    names = ("version", "step", "changed_share", "mean_age_steps", "interval_steps")
    return [tuple(row[name] for name in names) for path in paths for row in read_events(path, event="adopted")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def whole_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine steps without a break, with a checkpoint after the fifth."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(folder, data, **{"pretrain.save_every_steps": 5})
    return folder


def test_versions_follow_the_steps(whole_run: Path) -> None:
    versions = [row[4] for row in steps(whole_run)[:9]]
    assert versions == [0, 0, 0, 0, 0, 1, 1, 1, 2]
    (done,) = read_events(metrics_path(whole_run, role="trainer", role_rank=0), event="done")
    assert done["mixed_version_replies"] == 0
    assert done["searches"] == 2 * (9 + 3)  # of the steps, and at each adoption of the probe queries
    own, other = adoptions(whole_run)[:3], adoptions(whole_run)[3:]
    assert own == other  # measured over both
    assert [row[:2] + row[3:] for row in own] == [(0, 0, None, 3), (1, 5, 2.0, 3), (2, 8, 3.0, 3)]
    assert own[0][2] is None
    assert all(0.0 <= share <= 1.0 for _, _, share, _, _ in own[1:])
    assert [row[6] for row in steps(whole_run)[:9]] == [None] * 5 + [own[1][2]] * 3 + [own[2][2]]


def test_resume_is_exact(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """Also when the adopted version must be rebuilt: the vectors of one version are taken away, another is kept."""
    folder = tmp_path / "resumed"
    shutil.copytree(whole_run, folder)
    forget_after(folder, 5, last=9)
    train(folder, data, resume=True, **{"pretrain.save_every_steps": 5})
    expected = [row for row in steps(whole_run) if row[0] > 5]
    assert steps(folder) == expected


@pytest.mark.parametrize("num_shards", [1, 3])
def test_another_number_of_index_ranks_changes_nothing(
    data: Path, whole_run: Path, tmp_path: Path, num_shards: int
) -> None:
    """Two shards wrote the vectors; one or three find the same candidates in them, and losses are the same bits."""
    folder = tmp_path / "resumed"
    shutil.copytree(whole_run, folder)
    forget_after(folder, 5, last=9)
    train(folder, data, resume=True, **{"pretrain.save_every_steps": 5, "index.num_shards": num_shards})
    assert steps(folder) == [row for row in steps(whole_run) if row[0] > 5]


@pytest.mark.slow
def test_another_number_of_trainers_shares_what_is_unread(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """Two trainers read 20 sentences each of epoch 0, three the other 32 and go on with epoch 1."""
    folder = tmp_path / "resumed"
    shutil.copytree(whole_run, folder)
    forget_after(folder, 5, last=9)
    changes = {"pretrain.save_every_steps": 5, "runtime.trainers": 3, "index.num_shards": 1}
    train(folder, data, resume=True, **changes)
    path = metrics_path(folder, role="trainer", role_rank=0)
    assert [event["text"].partition(":")[0] for event in read_events(path, event="remark")] == [
        "the layout has changed",
        "the global batch was 8 examples up to step 5, and is 12 from here",
    ]
    rows = list(read_events(path, event="step"))
    assert [row["step"] for row in rows] == [6, 7, 8, 9]
    assert all(row["loss"] == pytest.approx(rows[0]["loss"], rel=0.5) for row in rows)
    states = [state.streams["examples"] for state in read_states(folder / "checkpoints" / "step-00000009")]
    # 16 sentences each: of the 32 that were left, ten or eleven, then five or six of epoch 1.
    assert [(state.epoch, state.position, state.rest) for state in states] == [(1, 6, ()), (1, 5, ()), (1, 5, ())]
    assert [path.name for path in (folder / "checkpoints").glob("universal-*")] == []


@pytest.mark.slow
def test_an_auto_schedule_resumes_exactly(data: Path, tmp_path: Path) -> None:
    """With all that changes what is found and when: measured intervals, rounded snapshots, an approximate index that is
    audited, articles excluded, tokens in a second phase; and what is asked: wordpieces masked at random, no null
    passage, a temperature, Google's marginal."""
    changes = {
        "refresh.every_steps": "auto", "refresh.shortest_steps": 2, "refresh.longest_steps": 6,
        "refresh.target_change": 0.5, "refresh.snapshot_dtype": "bf16", "index.exclude": "article",
        "index.most_shared": 0.8, "index.ngram": 2, "index.factory": "IVF4,SQ8", "index.search_parameters": "nprobe=3",
        "index.audit_every": 1, "index.replies": "two_phase", "pretrain.steps": 14, "pretrain.save_every_steps": 7,
        "pretrain.search_ahead": 2, "pretrain.masking": "bert", "pretrain.null_passage": False,
        "pretrain.temperature": 2.0, "pretrain.marginal": "per_token",
    }  # fmt: skip
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(whole, data, **changes)
    intervals = [row[4] for row in adoptions(whole)]
    assert len(set(intervals)) > 1, intervals  # it has decided something
    path = metrics_path(whole, role="trainer", role_rank=0)
    recalls = [row["index_recall"] for row in read_events(path, event="step") if "index_recall" in row]
    assert recalls
    assert all(0.5 < recall <= 1.0 for recall in recalls)
    assert not {"retrieval_utility", "ru_doc", "null_share"} & set(next(read_events(path, event="step")))
    (done,) = read_events(path, event="done")
    assert done["audited_hits"] > 0
    probes = len(adoptions(whole))  # each trainer's; they ask for ids alone
    assert done["two_phase"] == done["searches"] - probes
    shutil.copytree(whole, resumed)
    forget_after(resumed, 7, last=14)
    train(resumed, data, resume=True, **changes)
    assert steps(resumed) == [row for row in steps(whole) if row[0] > 7]
    assert adoptions(resumed) == [row for row in adoptions(whole) if row[1] >= 7]


@pytest.mark.slow
def test_same_seed_same_run_whatever_the_zero_stage(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """Again with ZeRO-3 and without search ahead: candidates are the same, losses within rounding."""
    settings = tmp_path / "zero3.json"
    settings.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    again, zero3 = tmp_path / "again", tmp_path / "zero3"
    train(again, data, **{"pretrain.save_every_steps": 9})
    assert steps(again) == steps(whole_run)
    train(zero3, data, **{"runtime.deepspeed": settings, "pretrain.search_ahead": 0})
    for found, expected in zip(steps(zero3), steps(whole_run), strict=True):
        assert found[1] == pytest.approx(expected[1], rel=1e-4)
        assert (found[0], found[4]) == (expected[0], expected[4])
    first_version = [row for row in steps(whole_run) if row[4] == 0]
    assert [row[5] for row in steps(zero3) if row[4] == 0] == [row[5] for row in first_version]
    for folder in (again, zero3):
        check_weights(export_run(folder), folder / "checkpoints" / "step-00000009")


@pytest.mark.slow
def test_queries_of_current_weights_resume_exactly(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """They find others than the snapshot's do, from the second step on; that they lag behind nothing costs the search
    ahead."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    changes = {"pretrain.save_every_steps": 5, "pretrain.retrieve_with": "current", "pretrain.search_ahead": 0}
    train(whole, data, **changes)
    assert steps(whole)[0] == steps(whole_run)[0]
    assert steps(whole)[-1] != steps(whole_run)[-1]
    shutil.copytree(whole, resumed)
    forget_after(resumed, 5, last=9)
    train(resumed, data, resume=True, **changes)
    assert steps(resumed) == [row for row in steps(whole) if row[0] > 5]


def test_builder_ranks_change_nothing_but_who_embeds(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """A run goes on with two of them: they read version 1 from disk and embed those that come after."""
    folder = tmp_path / "resumed"
    shutil.copytree(whole_run, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000009")
    for name in ("metrics", "logs", "index/version-00002"):
        shutil.rmtree(folder / name)
    train(folder, data, resume=True, **{"pretrain.save_every_steps": 5, "index.builders": 2})
    assert steps(folder) == [row for row in steps(whole_run) if row[0] > 5]
    parts = [path.name for path in (folder / "index" / "version-00002").glob("part-*.json")]
    assert sorted(parts) == ["part-000000000-000000036.json", "part-000000036-000000072.json"]
    for number in (0, 1):
        log = log_path(folder, role="builder", role_rank=number).read_text()
        last = 36 * number + 35
        assert re.findall(rf"version (\d): passages {last - 35} to {last} (\w+)", log)[:2] == [
            ("1", "read"),
            ("2", "embedded"),
        ]


def test_warm_start_trains_towers_and_encoder_and_resumes_exactly(data: Path, tmp_path: Path) -> None:
    """Both of its streams go on where they were: passages, and sentences for the encoder."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    names = ("step", "loss", "masked_loss", "in_batch_accuracy_of_sentences")
    changes = {"ict.save_every_steps": 2, "ict.warmup_micro_batch_size": 3, "ict.symmetric": True}
    train(whole, data, stage="ict", **changes)
    path = metrics_path(whole, role="trainer", role_rank=0)
    rows = [tuple(row[name] for name in names) for row in read_events(path, event="step")]
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert rows[-1][2] < rows[0][2]
    shutil.copytree(whole, resumed)
    for name in ("checkpoints/step-00000004", "metrics"):
        shutil.rmtree(resumed / name)
    train(resumed, data, stage="ict", resume=True, **changes)
    path = metrics_path(resumed, role="trainer", role_rank=0)
    assert [tuple(row[name] for name in names) for row in read_events(path, event="step")] == rows[2:]
    last = [consolidate(folder / "checkpoints" / "step-00000004") for folder in (whole, resumed)]
    assert all(torch.equal(last[1][name], value) for name, value in last[0].items())


def test_the_index_of_a_run_is_searched_on_its_own(whole_run: Path) -> None:
    """By the towers of the version's snapshot, whose digest is that of what the index ranks were sent."""
    assert verify_index(whole_run, version=None) == 0
    wanted = Wanted(store=whole_run, queries=("the mayor of delft",), num_hits=3, version=None, factory=None)
    (hits,) = search_index(wanted, processes=0)
    assert [hit.rank for hit in hits] == [1, 2, 3]
