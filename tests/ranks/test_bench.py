"""Every benchmark runs, in small: its measures are all there, and none is judged. Speed is no test's business."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realm_ds.bench import peer
from realm_ds.planning.cost import CostModel, predict

REPOSITORY = Path(__file__).parents[2]


def bench(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "realm_ds", "bench", *arguments, "--quick", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=240)
    assert result.returncode == 0, result.stderr
    measures = [json.loads(line) for line in result.stdout.splitlines()]
    for measure in measures:
        if measure["value"] is None:  # a rebuild of a tiny index, over before a step was
            assert measure["measure"] == "step_refresh"
            continue
        assert {"measure", "value", "reference", "ratio", "bar", "ok"} <= set(measure)
        assert measure["ok"] is None
        assert isinstance(measure["value"], float | int), measure
    return measures


@pytest.mark.slow
def test_search() -> None:
    measures = bench("search")
    assert [(measure["measure"], measure["bar"]) for measure in measures] == [
        ("throughput_flat_1m", 0.95),
        ("overhead_small_contrib", 1.8),
        ("overhead_small_raw", 1.0),
        ("latency_small_p50", 1.0),
        ("latency_small_p99", 5.0),
        ("latency_idle_core", 0.05),
    ]


@pytest.mark.slow
def test_refresh() -> None:
    measures = {measure["measure"]: measure for measure in bench("refresh")}
    assert {name: measure["bar"] for name, measure in measures.items()} == {
        "encode_throughput": 1.3,
        "encode_memory": 1.1,
        "serving_p50_during_rebuild": 1.2,
        "encode_slowdown_while_serving": None,
        "swap_refused": 0.0,
        "swap_latest": 1.0,
    }
    assert measures["swap_refused"]["value"] == 0


@pytest.mark.slow
def test_plan() -> None:
    names = ("step", "memory", "refresh", "index_memory")
    assert [(measure["measure"], measure["bar"]) for measure in bench("plan")] == [
        (f"plan_{name}_quick", 0.25) for name in names
    ]


@pytest.mark.slow
def test_scale(tmp_path: Path) -> None:
    names = [measure["measure"] for measure in bench("scale", "--out", str(tmp_path))]
    assert {"passages_2000", "shards_1", "shards_2", "clients_1", "shards_2_two_phase_16_hits"} <= set(names)
    model = CostModel.load(tmp_path / "scale.json")
    assert predict(model, passages=10**6, shards=2, queries=16, hits=8, tokens=140) > 0
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_step_beside_a_bare_loop() -> None:
    (measure,) = bench("step", "--only", "step_bare")
    assert measure["bar"] == 1.1
    assert measure["ratio"] > 0


@pytest.mark.slow
def test_step_and_the_index() -> None:
    bars = {measure["measure"]: measure["bar"] for measure in bench("step", "--only", "step_wait")}
    assert bars == {"step_wait": 2}


@pytest.mark.skipif(not peer.is_ready(), reason="`realm-ds bench step` has not made transformers' environment here yet")
def test_step_beside_transformers() -> None:
    (measure,) = bench("step", "--only", "transformers")
    assert measure["bar"] == 2
    assert measure["value"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not peer.is_ready(), reason="`realm-ds bench qa` has not made transformers' environment here yet")
def test_answers_beside_transformers() -> None:
    measures = {measure["measure"]: measure for measure in bench("qa")}
    assert {name: measure["bar"] for name, measure in measures.items()} == {
        "qa_retrieve_transformers": 5, "qa_read_transformers": 5, "qa_same_answers": 99,
        "qa_read_transformers_bf16": 5, "qa_same_answers_bf16": 99,
    }  # fmt: skip
    assert measures["qa_same_answers"]["value"] == 100


@pytest.mark.slow
def test_resume() -> None:
    measures = {measure["measure"]: measure["bar"] for measure in bench("resume")}
    assert measures == {
        "checkpoint_stall": 2, "checkpoint_slowdown": None, "snapshot_stall": 1, "resume_first_step": None,
    }  # fmt: skip


@pytest.mark.slow
def test_memory() -> None:
    measures = {measure["measure"]: measure for measure in bench("memory")}
    assert measures["zero3_state"]["bar"] == 0.3
    # Two trainers, and weights that are their own master copy: half, and the small parameters that stay whole.
    assert measures["zero3_state"]["ratio"] == pytest.approx(0.5, abs=0.02)
    parameters = float(measures["zero3_state"]["note"].split("ZeRO-0's; ")[1].split(" M")[0])
    assert measures["zero3_state"]["reference"] * 2**20 == pytest.approx(12 * parameters * 1e6, rel=0.05)
    assert measures["zero3_process"]["value"] > 0
    assert measures["export_hf-realm_verify"]["bar"] == 1.3
    # Beside a model so small, what libraries load when they are first used.
    assert 0 < measures["export_hf-realm_verify"]["value"] < 500
    assert measures["export_answers"]["bar"] == 1.3
    assert 0 < measures["export_answers"]["value"] < 500


@pytest.mark.slow
def test_data() -> None:
    measures = {measure["measure"]: measure for measure in bench("data")}
    assert {name: measure["bar"] for name, measure in measures.items()} == {
        "prepare_packing": 0.8, "prepare_corpus": 0.8, "read_passages": 0.8, "read_examples": 0.8, "stream_share": 1,
    }  # fmt: skip
    assert all(measure["value"] > 0 for measure in measures.values())
