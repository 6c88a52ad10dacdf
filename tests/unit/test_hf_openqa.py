"""Models that answer questions to transformers' layout and back, with their passages: the same answers."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import load_tokenizer
from realm_ds.errors import CheckpointError, ConfigError
from realm_ds.eval.answerer import RealmForQA
from realm_ds.eval.exported import AnswerSettings, open_export, write_qa_export
from realm_ds.eval.pairs import ReadingSizes
from realm_ds.files import write_durably
from realm_ds.models.hf_block_records import BLOCK_RECORDS, write_block_records
from realm_ds.models.hf_realm_qa import HfQa, read_hf_qa
from realm_ds.models.qa import QaModel, build_qa_model
from realm_ds.train import export_qa, importing_qa
from realm_ds.train.export import Layout, export_run
from realm_ds.train.importing import import_model, look
from tests.support.hf_realm import SIZES, same_weights, small_realm
from tests.support.tiny import make_data
from tests.support.tiny_qa import make_corpus

READS = ReadingSizes(question_tokens=20, passage_tokens=30, read=3)
QUESTIONS = ("what is the river of brest called?", "The museum of Kiel", "tower of leon")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of question answering that has ended, in transformers' layout beside it, and what was said."""
    folder, said = tmp_path_factory.mktemp("made"), []
    fingerprint = make_data(folder).fingerprint
    model = build_qa_model(small_realm(folder, share_towers=True), span_hidden_size=12, max_span_tokens=4, seed=1)
    write_qa_export(
        folder / "run" / "export", model.eval(), shards=open_shards(folder / "corpus", kind="corpus", fingerprint=None),
        vectors=[make_corpus(folder, width=SIZES["projection_size"]).vectors_NP],
        tokenizer_folder=folder / "tokenizer", settings=AnswerSettings(
            sizes=READS, null_passage=False, temperature=1.0, tokenizer_fingerprint=fingerprint
        ),
    )  # fmt: skip
    export_run(folder / "run", out=folder / "theirs", layout="hf-realm", verify=True, say=said.append)
    return folder, said


@pytest.mark.parametrize("layout", ["realm", "sentence-transformers"])
def test_what_answers_has_its_export_already(made: tuple[Path, list[str]], layout: Layout) -> None:
    run = made[0] / "run"
    for folder in (run, run / "export"):
        with pytest.raises(
            ConfigError, match=f"{folder} answers questions, and {run}/export is its export already; .*"
        ):
            export_run(folder, layout=layout)


def test_what_was_written_answers_as_what_was_trained(made: tuple[Path, list[str]]) -> None:
    folder, said = made
    assert said[1:] == [
        "verified: 8 x 8 query vectors, equal bit for bit",
        f"verified: 8 x {said[2].split()[3]} logits of answers, equal bit for bit",
        "verified: 72 passages with their vectors, the same",
    ]
    names = sorted(path.name for path in (folder / "theirs").iterdir())
    assert names == ["README.md", "manifest.json", "openqa", "reader"]


def test_cards_say_licence_data_and_scores(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Of dev and test questions that were answered after the export was written: others are of an earlier one."""
    run = Path(shutil.copytree(made[0] / "run", tmp_path / "run"))
    plain = ModelCard.load(made[0] / "theirs" / "README.md")
    assert (plain.data.license, "All questions of a split" in plain.text) == ("unknown", False)
    assert "Before you publish this, say" in plain.text
    for split, value in (("dev", 0.25), ("test", 0.125)):
        write_durably(run / "qa" / f"{split}.json", json.dumps({"questions": 8, "exact_match": value, "mrr": 0.5}))
    card = ModelCard.load(export_run(run, layout="hf-realm", licence="cc-by-sa-4.0") / "README.md")
    assert (card.data.license, "`cc-by-sa-4.0`, as who exported it said." in card.text) == ("cc-by-sa-4.0", True)
    assert "| | dev | test |\n|---|---|---|\n| exact_match | 0.25 | 0.125 |\n| mrr | 0.5 | 0.5 |\n\n" in card.text
    assert f"## Data\n\n{open_export(run).shards.manifest.source}\n" in card.text
    os.utime(run / "qa" / "dev.json", (1, 1))
    assert "| | test |" in (export_run(run, layout="hf-realm") / "README.md").read_text()


def test_there_and_back_gives_the_same_answers(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, _ = made
    lines: list[str] = []
    for _ in range(2):  # an import replaces its like
        import_model(folder / "theirs", tmp_path / "back", say=lines.append)
    assert lines[-1] == f"imported to {tmp_path / 'back'}: ask it with `realm-ds ask QUESTION --model {tmp_path}/back`"
    card = tmp_path / "back" / "README.md"
    assert ModelCard.load(card).data.license == "unknown"
    card.write_text(card.read_text().replace("license: unknown", "license: cc0-1.0"))  # as the card asks for
    before, after = open_export(folder / "run"), open_export(tmp_path / "back")
    assert same_weights(QaModel.load(after.folder), QaModel.load(before.folder))
    assert after.settings == before.settings
    assert np.array_equal(after.corpus.vectors_NP, before.corpus.vectors_NP)
    bodies = [[(passage.text, passage.body_ids) for passage in opened.shards.passages()] for opened in (before, after)]
    assert bodies[0] == bodies[1]
    told = [
        [[(answer.text, answer.p, answer.span) for answer in answered.answers] for answered in opened.answer(QUESTIONS)]
        for opened in map(RealmForQA.from_pretrained, (before.folder, after.folder))
    ]
    assert told[0] == told[1]
    assert len(told[0][0]) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
    export_run(tmp_path / "back", out=tmp_path / "again", layout="hf-realm")
    for path in sorted(path for path in (folder / "theirs").rglob("*") if path.suffix in {".safetensors", ".npy"}):
        assert (tmp_path / "again" / path.relative_to(folder / "theirs")).read_bytes() == path.read_bytes(), path


def test_no_vectors_are_copied_where_no_passage_is_left_out(
    made: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, written = list[HfQa](), list[np.ndarray]()
    monkeypatch.setattr(importing_qa, "read_hf_qa", lambda folder: found.append(read_hf_qa(folder)) or found[0])
    monkeypatch.setattr(importing_qa, "write_qa_export", lambda *_, vectors, **__: written.extend(vectors))
    theirs = made[0] / "theirs" / "openqa"
    importing_qa.import_qa(theirs, tmp_path / "out", tokenizer_folder=theirs, kind="qa", say=lambda _: None)
    assert np.shares_memory(written[0], found[0].vectors_NP.numpy())


def test_passages_of_others(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Without a word of ours in the settings; a passage of nothing, and one that is too long."""
    folder, _ = made
    theirs = tmp_path / "openqa"
    shutil.copytree(folder / "theirs" / "openqa", theirs)
    config = json.loads((theirs / "config.json").read_text())
    del config["question_tokens"]
    (theirs / "config.json").write_text(json.dumps(config))
    bodies = [passage.text for passage in open_export(folder / "run").shards.passages()]
    bodies[3], bodies[5] = " ", " ".join([bodies[5]] * 20)
    write_block_records(theirs / BLOCK_RECORDS, bodies, count=len(bodies))
    lines: list[str] = []
    import_model(theirs, tmp_path / "ours", say=lines.append)
    assert (
        lines[0]
        == f"REALM that answers questions, in transformers' layout, with its passages: {theirs / BLOCK_RECORDS}"
    )
    assert lines[2:4] == [
        "1 of 72 passages of nothing, left out", "1 of 72 passages cut to the wordpieces that are read"
    ]  # fmt: skip
    ours, before = open_export(tmp_path / "ours"), open_export(folder / "run")
    assert ours.settings.sizes == ReadingSizes(question_tokens=5, passage_tokens=45, read=3)
    passages = list(ours.shards.passages())
    assert [passage.text for passage in passages[:4]] == [*bodies[:3], bodies[4]]
    assert len(passages[4].body_ids) == 42
    assert bodies[5].startswith(passages[4].text)
    assert load_tokenizer(tmp_path / "ours" / "tokenizer").encode(passages[4].text) == list(passages[4].body_ids)
    assert np.array_equal(ours.corpus.vectors_NP, np.delete(before.corpus.vectors_NP, 3, axis=0))


def test_what_does_not_belong_together(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    theirs = tmp_path / "openqa"
    shutil.copytree(made[0] / "theirs" / "openqa", theirs)
    for count in (1, 73):
        write_block_records(theirs / BLOCK_RECORDS, ["one passage"] * count, count=count)
        message = (
            f"openqa has {count} passages in block_records.npy and 72 vectors of passages in its weights: copy both"
        )
        with pytest.raises(CheckpointError, match=message):
            import_model(theirs, tmp_path / "ours", say=lambda _: None)
    (tmp_path / "words").mkdir()
    small = tmp_path / "words" / "vocab.txt"
    small.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    with pytest.raises(
        ConfigError, match=r"wordpieces and the tokenizer in .*words has 7: name the one that they were"
    ):
        import_model(theirs, tmp_path / "ours", tokenizer_folder=tmp_path / "words", say=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["openqa", "words"]


def test_a_copy_that_answers_otherwise_is_not_written(
    made: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, write = made[0] / "run", export_qa.write_hf_openqa

    def write_wrongly(exported, model, folder: Path) -> None:
        with torch.no_grad():
            model.reader.scorer.score.weight.mul_(1.5)
        write(exported, model, folder)

    monkeypatch.setattr(export_qa, "write_hf_openqa", write_wrongly)
    with pytest.raises(CheckpointError, match="does not compute what the checkpoint does: logits of answers differ by"):
        export_run(run, out=tmp_path / "out", layout="hf-realm", verify=True)

    def write_others(exported, model, folder: Path) -> None:
        write(exported, model, folder)
        write_block_records(
            folder / "openqa" / BLOCK_RECORDS, ["another"] * len(exported.corpus), count=len(exported.corpus)
        )

    monkeypatch.setattr(export_qa, "write_hf_openqa", write_others)
    with pytest.raises(CheckpointError, match=r"does not hold the passages of .*export; nothing was written"):
        export_run(run, out=tmp_path / "out", layout="hf-realm", verify=True)
    assert not list(tmp_path.iterdir())


def test_what_an_export_of_answers_cannot_be(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    run = made[0] / "run"
    message = "answers questions: its export is of its last step, and has no file for faiss; leave --step and --faiss-f"
    with pytest.raises(ConfigError, match=message):
        export_run(run, out=tmp_path / "out", layout="hf-realm", step=3)
    with pytest.raises(ConfigError, match=message):
        export_run(run, out=tmp_path / "out", layout="hf-realm", faiss_file=True)
    with pytest.raises(
        ConfigError, match=r"export is there and is no export of layout hf-realm, so it is not overwritten"
    ):
        export_run(run, out=run / "export", layout="hf-realm")


def test_the_command_line(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    runner, theirs = CliRunner(), made[0] / "theirs"
    dry = runner.invoke(app, ["import", str(theirs), "--dry-run"])
    assert (dry.exit_code, dry.output.split("\n")[:-1]) == (0, look(theirs))
    assert re.search(r"model.safetensors: \d+ MB, 2 layers of 16, \d+ wordpieces", dry.output)
    run, small = str(made[0] / "run"), str(tmp_path / "small")
    done = runner.invoke(app, ["export", "--run", run, "--layout", "hf-realm", "--dtype", "bf16", "--out", small])
    assert (done.exit_code, done.output.split("\n")[-2]) == (0, f"exported to {small}")
    back = runner.invoke(app, ["import", small, "--out", str(tmp_path / "back")])
    assert back.exit_code == 0, back.output
    asked = runner.invoke(app, ["ask", QUESTIONS[0], "--model", str(tmp_path / "back"), "--json"])
    assert len(json.loads(asked.stdout)["answers"]) == 5
