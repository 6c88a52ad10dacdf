"""The end of fine-tuning: who waits for the export and how long, and a split that is answered batch after batch."""

import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from realm_ds import sealed
from realm_ds.comm.trainers import Trainers
from realm_ds.comm.world import singleton
from realm_ds.data.places import Place
from realm_ds.data.records import Question
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.eval import qa as answering
from realm_ds.eval.corpus import CorpusIndex
from realm_ds.eval.exported import EXPORTED_VERSION, _read_vectors
from realm_ds.eval.qa import in_batches
from realm_ds.index.passages import PassageShard
from realm_ds.index.store import IndexStore
from realm_ds.models.qa import QaModel, build_qa_model
from realm_ds.models.realm import build_model
from realm_ds.observe.notice import Notice
from realm_ds.observe.sinks import Sinks, metrics_path, read_events
from realm_ds.sealed import sha256
from realm_ds.train import qa
from realm_ds.train.passage_index import OwnIndex
from realm_ds.train.stage import Stage
from realm_ds.train.timing import StepTimer
from realm_ds.train.writer import Writer
from tests.support.records import make_passage
from tests.support.tiny import make_data, tiny_config
from tests.support.tiny_qa import make_corpus, make_questions, qa_changes


class Ending:
    """One trainer whose steps are all trained."""

    def __init__(self, data: Path, folder: Path) -> None:
        make_data(data)
        self.questions = make_questions(data)
        config = tiny_config(data, **qa_changes(data))
        tokenizer = load_tokenizer(config.data.tokenizer)
        realm = build_model(config.model, vocab_size=tokenizer.vocab_size, max_tokens=48, seed=0)
        self.model: QaModel = build_qa_model(realm, span_hidden_size=16, max_span_tokens=6, seed=1).eval()
        self.notice, unused = Notice(), None
        self.stage = Stage(
            config=config, folder=folder, world=singleton(), trainers=Trainers(singleton()),
            device=torch.device("cpu"), tokenizer=tokenizer,
            corpus=open_shards(config.data.corpus, kind="corpus", fingerprint=None),
            sinks=Sinks(folder, role="trainer", role_rank=0, stage="qa"), notice=self.notice, timer=StepTimer(),
            writer=Writer(timeout_s=5), pulse=unused,  # type: ignore[arg-type]
        )  # fmt: skip
        self.index = Counted(make_corpus(data, width=config.model.projection_size))

    def evaluate(self) -> bool:
        return qa.evaluate_split(self.stage, self.model, self.index, self.questions["train"], split="dev")

    def rows(self) -> str:
        return (self.stage.folder / "qa" / "dev.jsonl").read_text()


class Counted(OwnIndex):
    """Tells how many questions each search was for, and does something after it."""

    def __init__(self, corpus: CorpusIndex) -> None:
        super().__init__(corpus)
        self.asked: list[int] = []
        self.then: Any = lambda: None

    def search(self, queries_BP: np.ndarray, num_hits: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(len(queries_BP))
        found = super().search(queries_BP, num_hits)
        self.then()
        return found


@pytest.fixture
def ending(tmp_path: Path) -> Ending:
    return Ending(tmp_path / "data", tmp_path / "run")


@given(num_questions=st.integers(0, 2000), num_answering=st.integers(1, 9))
def test_all_who_answer_have_equally_many_batches_and_each_its_questions_in_order(
    num_questions: int, num_answering: int
) -> None:
    questions = [Question(id=str(number), question="?", answers=("a",)) for number in range(num_questions)]
    batches = list(in_batches(questions, num_answering=num_answering))
    for rank in range(num_answering):
        own = [batch[rank::num_answering] for batch in batches]
        assert max(map(len, own), default=0) <= 256
        assert [question for part in own for question in part] == questions[rank::num_answering]


def test_a_split_is_answered_in_batches_as_at_once(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending.evaluate()
    at_once, num_questions = ending.rows(), len(ending.questions["dev"])
    assert ending.index.asked == [num_questions]
    monkeypatch.setattr(answering, "QUESTIONS_AT_ONCE", 5)
    assert ending.evaluate()
    assert ending.rows() == at_once
    said = list(read_events(metrics_path(ending.stage.folder, role="trainer", role_rank=0), event="doing"))[1:]
    assert [row["text"] for row in said] == [
        f"answering dev questions, {number} of {num_questions}" for number in range(0, num_questions, 5)
    ]
    assert ending.index.asked[1:] == [5] * (num_questions // 5) + [num_questions % 5] * bool(num_questions % 5)


def test_who_is_asked_to_end_leaves_the_other_batches_out(ending: Ending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "QUESTIONS_AT_ONCE", 5)
    ending.index.then = lambda: setattr(ending.notice, "name", "SIGTERM")
    assert not ending.evaluate()
    assert ending.index.asked == [5]
    assert not (ending.stage.folder / "qa").exists()


def test_a_corpus_that_is_elsewhere_is_taken_from_the_export(ending: Ending) -> None:
    """Else each batch would fetch all of it."""
    assert ending.evaluate()
    rows = ending.rows()
    folder, fetched = Path(str(ending.stage.corpus)), []

    def fetch(url: str) -> BinaryIO:
        fetched.append(url)
        return (folder / url.rpartition("/")[2]).open("rb")

    elsewhere = replace(ending.stage.corpus, place=Place("https://host/corpus", opener=fetch))
    ending.stage = replace(ending.stage, corpus=elsewhere)
    qa._export(ending.stage, ending.model, ending.index)
    num_fetched = len(fetched)
    assert ending.evaluate()
    assert (ending.rows(), len(fetched)) == (rows, num_fetched)


def test_the_export_is_sealed_without_reading_again_what_is_large(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr(sealed, "sha256", noted)
    qa._export(ending.stage, ending.model, ending.index)
    assert "model.safetensors" in read
    assert [name for name in read if name.endswith((".tar", ".npy"))] == []
    sealed.check(ending.stage.folder / "export")
    assert {name for name in read if name.endswith((".tar", ".npy"))} >= {
        "shard-00000.tar",
        "part-000000000-000000072.npy",
    }


def test_the_export_has_a_card_whose_code_works(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    qa._export(ending.stage, ending.model, ending.index)
    export = ending.stage.folder / "export"
    card = ModelCard.load(export / "README.md")
    assert (card.data.license, card.data.tags) == ("unknown", ["realm", "question-answering"])
    for words in ("from 72 passages", "Fine-tuned in 12 steps with realm-ds", "## Data\n\n", "max_span_tokens: 6"):
        assert words in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    monkeypatch.chdir(export)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_card_of_a_model_that_names_words_says_so_and_how_many_questions_it_learned_from(ending: Ending) -> None:
    config, questions = ending.stage.config, ending.questions["train"]
    asked = config.model_copy(update={"qa": config.qa.model_copy(update={"answer_by": "masked_word"})})
    ending.stage = replace(ending.stage, config=asked)
    unanswerable = replace(questions[0], answers=("the mayor of arlon",))
    assert qa._learnable(ending.stage, [unanswerable, *questions]) == questions
    (told,) = read_events(metrics_path(ending.stage.folder, role="trainer", role_rank=0), event="asked")
    assert (told["train_questions"], told["train_questions_skipped"]) == (len(questions), 1)
    model = qa._qa_model(ending.stage, build_model(asked.model, vocab_size=400, max_tokens=48, seed=0))
    qa._export(ending.stage, model, ending.index)
    card = ModelCard.load(ending.stage.folder / "export" / "README.md")
    for words in ("likeliest at a [MASK] after the question", "(`AutoModelForMaskedLM`)", "answer_by: masked_word"):
        assert words in card.text


@pytest.mark.parametrize(("wait_s", "build_s", "deadline_s"), [(600, 3600, 3600), (7200, 3600, 7200)])
def test_trainers_wait_for_the_export_as_long_as_for_an_index(wait_s: float, build_s: float, deadline_s: float) -> None:
    waits: list[tuple[float, str]] = []

    def barrier(*, timeout_s: float, waiting_for: str) -> None:
        waits.append((timeout_s, waiting_for))

    config = SimpleNamespace(
        runtime=SimpleNamespace(wait_timeout_s=wait_s), index=SimpleNamespace(build_timeout_s=build_s)
    )
    stage: Any = SimpleNamespace(
        config=config, folder=Path("run"), trainers=SimpleNamespace(rank=1, size=2, barrier=barrier)
    )
    nothing: Any = None  # trainer 1 has nothing to write
    qa._export(stage, nothing, nothing)
    assert waits == [(deadline_s, "trainer 0 to write run/export (index.build_timeout_s)")]


def test_all_vectors_of_an_export_are_in_memory_once(tmp_path: Path) -> None:
    """In faiss's, which tracemalloc does not see."""
    vectors_NP = np.random.default_rng(0).standard_normal((4000, 1024)).astype(np.float32)
    shards: Any = SimpleNamespace(count=len(vectors_NP), digest="of the corpus")
    store = IndexStore(tmp_path / "index", corpus_sha256=shards.digest)
    store.save(vectors_NP, version=EXPORTED_VERSION, snapshot_sha256="of the tower", start=0)
    passages = PassageShard.from_passages(map(make_passage, range(4000)), start=0)
    tracemalloc.start()
    try:
        table = _read_vectors(tmp_path / "index", shards)
        corpus = CorpusIndex(passages, table)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(corpus.vectors_NP, vectors_NP)
    assert peak_bytes < vectors_NP.nbytes / 2
