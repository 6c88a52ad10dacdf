"""What a stage's settings make of its data: masks and candidates, as pre-training is told to have them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from realm_ds.config.schema import RealmConfig
from realm_ds.data.records import Example
from realm_ds.data.redeal import StreamState
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.train.stage import Stage
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_questions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, num_facts=1)
    return folder


def stage_of(data: Path, *, config: RealmConfig | None = None, **changes: object) -> Stage:
    """Without other trainers or metrics, which this has no need of."""
    nothing: Any = None
    return Stage(
        config=config or tiny_config(data, **changes), folder=data, world=nothing, trainers=nothing,
        device=torch.device("cpu"), tokenizer=load_tokenizer(data / "tokenizer"),
        corpus=open_shards(data / "corpus", kind="corpus", fingerprint=None), sinks=nothing, writer=nothing,
        notice=nothing, pulse=nothing, timer=nothing,
    )  # fmt: skip


def epochs(count: int) -> Iterator[tuple[Example, StreamState]]:
    example = Example(
        id="a", text="", ids=tuple(range(60, 74)), sentences=((0, 14),), spans=((2, 4), (6, 9)), origin_uid=0
    )
    for epoch in range(count):
        yield example, StreamState(epoch=epoch, position=1)


def masks(stage: Stage, count: int = 12) -> list[tuple[int, ...]]:
    return [masked.mask_positions for masked, _ in stage.masked(epochs(count), seed=0)]


def test_masking_is_as_the_settings_have_it(data: Path) -> None:
    assert set(masks(stage_of(data))) == {(3, 4), (7, 8, 9)}
    few = masks(stage_of(data, **{"pretrain.masking": "bert", "pretrain.mask_rate": 0.01}))
    assert {len(positions) for positions in few} == {1}
    many = masks(stage_of(data, **{"pretrain.masking": "bert", "pretrain.mask_rate": 1.0}))
    assert {len(positions) for positions in many} == {3}  # data.max_masks
    spans = masks(stage_of(data, **{"pretrain.masking": "random_span"}))
    assert len(set(spans)) > 3
    assert len(set(masks(stage_of(data, **{"pretrain.masking": "random_span", "pretrain.remask": False})))) == 1


def test_the_null_passage_takes_one_place_of_the_candidates(data: Path) -> None:
    with_null, without = stage_of(data), stage_of(data, **{"pretrain.null_passage": False})
    assert with_null.config.pretrain.num_retrieved == with_null.config.pretrain.candidates - 1 == 3
    assert without.config.pretrain.num_retrieved == without.config.pretrain.candidates == 4
    assert with_null.collator()._has_null
    assert not without.collator()._has_null


def test_what_a_resumed_run_must_share(data: Path) -> None:
    common = {"runtime.seed", "data.corpus", "data.shuffle_shards", "data.shuffle_records"}
    pretrain = stage_of(data).fixed_settings("pretrain")
    assert pretrain.keys() == common | {"data.pretrain", "refresh.every_steps", "refresh.adopt_after_steps"}
    ict = stage_of(data).fixed_settings("ict")
    assert ict.keys() == common | {"data.pretrain", "ict.passages_per_article"}
    assert (ict["data.pretrain"], ict["ict.passages_per_article"]) == (pretrain["data.pretrain"], "2")
    without = stage_of(data, **{"ict.encoder_warmup": False}).fixed_settings("ict")
    assert without.keys() == common | {"ict.passages_per_article"}


def test_questions_are_those_that_were_asked_before(data: Path) -> None:
    make_questions(data)
    config = tiny_config(data)
    config = config.model_copy(update={"qa": config.qa.model_copy(update={"data": data / "qa"})})
    path = data / "qa" / "train.jsonl"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    fixed = stage_of(data, config=config).fixed_settings("qa")
    assert fixed["qa.data/train.jsonl"] == expected
    assert fixed.keys() == {
        "runtime.seed",
        "data.corpus",
        "qa.data/train.jsonl",
        "qa.index",
        "qa.answer_by",
        "qa.refresh_passages",
    }
    refreshed = stage_of(data, **{"qa.index": "sharded", "qa.refresh_passages": True}).fixed_settings("qa")
    assert refreshed.keys() - fixed.keys() == {"refresh.every_steps", "refresh.adopt_after_steps", "qa.steps"}
    assert (refreshed["qa.index"], refreshed["qa.refresh_passages"]) == ("sharded", "True")
