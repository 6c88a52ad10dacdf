"""`prepare corpus`: documents to corpus shards, as people run it."""

import gzip
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare import corpus
from realm_ds.prepare.corpus import Cutting, chunks_of, estimate_corpus, prepare_corpus
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.sources import open_source
from realm_ds.prepare.telling import estimate_lines

TOWNS = [f"town {number}" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(iter([text(town) for town in TOWNS]), vocab_size=200, folder=folder)
    return folder


def text(town: str) -> str:
    return " ".join(f"The {town} has {number} towers and a market." for number in range(6))


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    rows = [{"id": str(number), "title": town, "text": text(town)} for number, town in enumerate(TOWNS)]
    rows[7]["text"] = " \n"
    rows[9] = rows[8] | {"id": "again"}
    return write_rows(tmp_path / "articles.jsonl", rows)


def realm_ds(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def passages_in(folder: Path, tokenizer: Tokenizer) -> list[str]:
    shards = open_shards(folder, kind="corpus", fingerprint=tokenizer.fingerprint)
    return [passage.text for passage in shards.passages(max_tokens=64)]


def test_from_documents_to_shards(articles: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    arguments = ["prepare", "corpus", articles, "--tokenizer", tokenizer, "--passage-tokens", 64, "--per-shard", 50]
    code, said = realm_ds(*arguments, "--out", out, "--workers", 1)
    assert code == 0, said
    texts = passages_in(out, load_tokenizer(tokenizer))
    assert " ".join(texts) == " ".join(text(town) for number, town in enumerate(TOWNS) if number not in (7, 9))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"] == "articles.jsonl"
    assert manifest["settings"]["passage_tokens"] == 64
    assert manifest["settings"]["counts"]["documents"] == 39
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert f"prepare corpus (MB read): {len(texts)} passages in {len(manifest['shards'])} tar shards" in said
    assert "duplicates left out" in said
    assert f"next: realm-ds prepare pretrain --corpus {out} --tokenizer {tokenizer}" in said
    code, said = realm_ds(*arguments, "--out", out, "--resume")
    assert (code, "done before" in said) == (0, True), said
    code, said = realm_ds(*arguments, "--out", out)
    assert (code, "holds a finished set" in said) == (2, True), said


def test_a_damaged_file_is_skipped_and_gone_on_with(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "CHUNK_CHARACTERS", 1000)
    lines = "".join(json.dumps({"id": town, "title": town, "text": text(town)}) + "\n" for town in TOWNS)
    packed = gzip.compress(lines.encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-8])
    source = ["prepare", "corpus", tmp_path / "a.jsonl.gz", "--tokenizer", tokenizer, "--passage-tokens", 64]
    source += ["--per-shard", 9, "--workers", 1]
    code, said = realm_ds(*source, "--out", tmp_path / "whole", "--on-damage", "skip")
    assert code == 0, said
    code, said = realm_ds(*source, "--out", tmp_path / "stopped")
    assert (code, "choose to skip what is damaged" in " ".join(said.split())) == (1, True), said
    assert list((tmp_path / "stopped").glob("shard-*.tar"))
    code, said = realm_ds(*source, "--out", tmp_path / "stopped", "--on-damage", "skip", "--resume")
    assert code == 0, said
    whole, stopped = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "stopped")
    )
    assert stopped == whole


def test_a_dry_run_writes_nothing(articles: Path, tokenizer: Path, tmp_path: Path) -> None:
    code, said = realm_ds(
        "prepare", "corpus", articles, "--tokenizer", tokenizer, "--out", tmp_path / "corpus", "--dry-run"
    )  # fmt: skip
    assert code == 0, said
    assert said.startswith("read for this: all of articles.jsonl\nabout 39 passages\ntime   0s with --workers ")
    assert "\ndisk   " in said
    assert "\nmemory " in said
    assert not (tmp_path / "corpus").exists()


def test_an_estimate_by_the_beginning(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.corpus.CHUNK_CHARACTERS", 1)
    documents = [Document(id=town, title=town, text=text(town), where=town) for town in TOWNS]
    source: Any = SimpleNamespace(
        documents=lambda: iter(documents), tally=Tally(counts=Counter({"bad lines": 2})), share=0.125
    )
    clock = iter(range(1000))
    # A chunk is a town; reading and making it take a second each, so five are looked at.
    estimate = estimate_corpus(source, Cutting(tokenizer=tokenizer), clock=lambda: float(next(clock)))
    assert (estimate.read_s, estimate.work_s, estimate.num_records, estimate.share) == (5.0, 5.0, 5, 0.125)
    assert estimate.tally.counts["bad lines"] == 2
    counts = {"passages": estimate.num_records}
    assert list(estimate_lines(estimate, "towns", counts=counts, workers=2))[:3] == [
        "read for this: 12.50% of towns", "about 40 passages", "time   40s with --workers 2: 1 passages/s each",
    ]  # fmt: skip
    assert list(estimate_lines(estimate, "towns", counts={"examples": 3, "passages": 10}, workers=1))[1:3] == [
        "about 24 examples of 80 passages", "time   40s with --workers 1: 2 passages/s each",
    ]  # fmt: skip
    source.share = None
    estimate = estimate_corpus(source, Cutting(tokenizer=tokenizer), clock=lambda: float(next(clock)))
    assert list(estimate_lines(estimate, "stdin", counts=counts, workers=1))[:2] == [
        "read for this: the beginning of stdin",
        "about 5 passages in what was read; how much there is of it is not known",
    ]


def test_pages_are_left_out_by_their_title(tokenizer: Path) -> None:
    titles = ["Arlon", "List of towns", "Index of towns", "Outline of towns", "Ghent (disambiguation)", "A List of it"]

    def kept(cutting: Cutting, markup: str) -> list[str]:
        pages = [Document(id=title, title=title, text="", markup=markup, where="") for title in titles]
        return [page.title for page in pages if cutting.wants(page)]

    cutting = Cutting(tokenizer=tokenizer)
    assert kept(cutting, "wikitext") == ["Arlon", "A List of it"]
    assert kept(cutting, "plain") == titles
    assert kept(Cutting(tokenizer=tokenizer, keep_all_pages=True), "wikitext") == titles
    assert kept(Cutting(tokenizer=tokenizer, drop_titles=("^A", "^Index")), "plain") == titles[1:2] + titles[3:5]


def test_settings_that_cannot_work(articles: Path, tokenizer: Path, tmp_path: Path) -> None:
    for changes, error, message in (
        ({"passage_tokens": 31}, ConfigError, "--passage-tokens 31: a passage needs 32 wordpieces at least"),
        ({"drop_titles": ("(",)}, ConfigError, "--drop-title '\\(' is no regular expression: missing \\)"),
        ({"tokenizer": tmp_path / "nowhere"}, DataError, "no tokenizer in .*nowhere"),
    ):
        cutting = Cutting(**({"tokenizer": tokenizer} | changes))
        with pytest.raises(error, match=message):
            prepare_corpus(open_source([articles]), tmp_path / "c", cutting, per_shard=5, workers=0, resume=False)
    assert not (tmp_path / "c").exists()


def test_chunks_depend_on_the_documents_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.corpus.CHUNK_CHARACTERS", 10)
    documents = [Document(id=str(size), title="", text="x" * size, where="") for size in (3, 7, 30, 0, 9, 1, 2)]
    assert [[document.num_characters for document in chunk] for chunk in chunks_of(documents)] == [
        [3, 7], [30], [0, 9, 1], [2],
    ]  # fmt: skip
