"""`prepare corpus`: documents to corpus shards, as people run it."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.config.schema import DataConfig
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare import corpus
from realm_ds.prepare.corpus import (
    BERT_POSITIONS,
    Cutting,
    chunks_of,
    estimate_corpus,
    parts_of,
    prepare_corpus,
    start_work,
)
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.job_report import estimate_lines
from realm_ds.prepare.packing import IN_PARTS
from realm_ds.prepare.sources import open_source

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
    assert f"prepare corpus: {len(texts)} passages in {len(manifest['shards'])} tar shards" in said
    assert "duplicates left out" in said
    assert f"next: realm-ds prepare pretrain --corpus {out} --tokenizer {tokenizer}" in said
    code, said = realm_ds(*arguments, "--out", out, "--resume")
    assert (code, "done before" in said) == (0, True), said
    # As large as it was, but other text.
    articles.write_text(articles.read_text()[:-4] + '!"}\n')
    code, said = realm_ds(*arguments, "--out", out, "--resume")
    assert (code, "was begun otherwise: input_digest was '" in said) == (2, True), said
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
    assert (code, "go on behind it with --on-damage skip" in said) == (1, True), said
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
    counts = {"passage": estimate.num_records}
    assert list(estimate_lines(estimate, "towns", counts=counts, workers=2))[:3] == [
        "read for this: 12.50% of towns", "about 40 passages", "time   40s with --workers 2: 1 passage/s each",
    ]  # fmt: skip
    assert list(estimate_lines(estimate, "towns", counts={"example": 3, "passage": 10}, workers=1))[1:3] == [
        "about 24 examples of 80 passages", "time   40s with --workers 1: 2 passages/s each",
    ]  # fmt: skip
    source.share = None
    estimate = estimate_corpus(source, Cutting(tokenizer=tokenizer), clock=lambda: float(next(clock)))
    assert list(estimate_lines(estimate, "stdin", counts=counts, workers=1))[:2] == [
        "read for this: the beginning of stdin",
        "about 5 passages in what was read; how much there is of it is not known",
    ]


@pytest.mark.parametrize("num_chunks", [4, 9, 20])
def test_an_estimate_is_by_what_was_worked_on(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_chunks: int
) -> None:
    monkeypatch.setattr("realm_ds.prepare.corpus.CHUNK_CHARACTERS", 20_000)
    monkeypatch.setattr("realm_ds.prepare.estimate.SAMPLE_S", num_chunks)
    rows = [{"title": f"{number} {town}", "text": text(town)} for number in range(30) for town in TOWNS]
    source, clock = open_source([write_rows(tmp_path / "a.jsonl", rows)]), iter(range(1000))
    estimate = estimate_corpus(source, Cutting(tokenizer=tokenizer), clock=lambda: float(next(clock)))
    assert estimate.share is not None
    assert estimate.num_records / estimate.share == pytest.approx(len(rows), rel=0.05)
    (told, *_) = estimate_lines(estimate, source.name, counts={"passages": 1}, workers=1)
    assert told == f"read for this: {'all' if num_chunks == 20 else f'{estimate.share:.2%}'} of a.jsonl"


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
        ({"keep_all_pages": True}, ConfigError, "--keep-all-pages would be ignored: .* is no dump of Wikipedia"),
        ({"drop_titles": ("(",)}, ConfigError, "--drop-title '\\(' is no regular expression: missing \\)"),
        (
            {"tokenizer": tmp_path / "nowhere"},
            DataError,
            "no tokenizer in .*nowhere: it is no folder, and no hub is asked",
        ),
    ):
        cutting = Cutting(**({"tokenizer": tokenizer} | changes))
        with pytest.raises(error, match=message):
            prepare_corpus(open_source([articles]), tmp_path / "c", cutting, per_shard=5, workers=0, resume=False)
    assert not (tmp_path / "c").exists()


def test_passages_too_long_for_bert_are_remarked_upon(tokenizer: Path) -> None:
    fits = BERT_POSITIONS - DataConfig.model_fields["query_tokens"].default
    assert Cutting(tokenizer=tokenizer, passage_tokens=fits).remark is None
    remark = Cutting(tokenizer=tokenizer, passage_tokens=1000).remark
    assert remark is not None
    assert remark.startswith(
        "--passage-tokens 1000 is more than the 416 that fit into the 512 positions of BERT and most"
    )


def test_chunks_depend_on_the_documents_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.corpus.CHUNK_CHARACTERS", 10)
    documents = [Document(id=str(size), title="", text="x" * size, where="") for size in (3, 7, 30, 0, 9, 1, 2)]
    assert [[document.num_characters for document in chunk] for chunk in chunks_of(documents)] == [
        [3, 7], [30], [0, 9, 1], [2],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x" * 20, ["x" * 20]),
        ("x" * 21, ["x" * 20, "x"]),
        ("One is it.\nTwo. Now three is.", ["One is it.\n", "Two. Now three is."]),
        ("One is here. Two it is. Three", ["One is here. ", "Two it is. Three"]),
        ("天地玄黄宇宙洪荒日月盈昃。辰宿列张寒来暑往", ["天地玄黄宇宙洪荒日月盈昃。", "辰宿列张寒来暑往"]),
        ("this is it, and it is not", ["this is it, and it", " is not"]),
        (" " * 25, [" " * 20, " " * 5]),
        ("Anna met J. S. Bach of Eisenach", ["Anna met J. S. Bach", " of Eisenach"]),
    ],
)
def test_a_long_text_is_cut_where_it_hurts_least(text: str, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.corpus.PART_CHARACTERS", 20)
    document = Document(id="1", title="t", text=text, where="a:1")
    assert [part.text for part in parts_of(document)] == parts
    wikitext = replace(document, markup="wikitext")
    assert list(parts_of(wikitext)) == [wikitext]


def test_no_word_is_cut_where_no_sentence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.corpus.PART_CHARACTERS", 20)
    monkeypatch.setattr("realm_ds.prepare.corpus._SENTENCE_CHARACTERS", 3)  # these begin in the middle of a word
    document = Document(id="1", title="t", text="this is, so they say, it", where="a:1")
    assert [part.text for part in parts_of(document)] == ["this is, so they", " say, it"]


@given(st.text("aB. \n。", max_size=200), st.integers(2, 30))
def test_parts_are_the_whole(text: str, most: int) -> None:
    document = Document(id="1", title="t", text=text, where="a:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realm_ds.prepare.corpus.PART_CHARACTERS", most)
        parts = list(parts_of(document))
        assert [again for part in parts for again in parts_of(part)] == parts
    assert "".join(part.text for part in parts) == text
    assert [replace(part, text=text, part=0) for part in parts] == [document] * len(parts)
    assert [part.part for part in parts] == list(range(len(parts)))
    assert all(most // 2 <= part.num_characters <= most for part in parts[:-1])
    assert parts[-1].num_characters <= most


@pytest.mark.parametrize("markup", ["plain", "wikitext"])
def test_a_document_in_parts_is_one(tokenizer: Path, monkeypatch: pytest.MonkeyPatch, markup: Any) -> None:
    document = Document(id="1", title="town " * 40, text=text("town 1") * 3, markup=markup, where="a:1")
    make = start_work(Cutting(tokenizer=tokenizer, passage_tokens=64))
    (whole,) = map(make, chunks_of([document]))
    monkeypatch.setattr("realm_ds.prepare.corpus.PART_CHARACTERS", 300)
    monkeypatch.setattr("realm_ds.prepare.corpus.CHUNK_CHARACTERS", 1)
    chunks = list(map(make, chunks_of([document])))
    assert len(chunks) == {"plain": 3, "wikitext": 1}[markup]
    passages = [json.loads(record) for chunk in chunks for record in chunk.records]
    words = [passage["text"] for passage in passages]
    assert " ".join(words) == " ".join(json.loads(record)["text"] for record in whole.records)
    assert {(passage["article"], passage["title"]) for passage in passages} == {
        (json.loads(record)["article"], json.loads(record)["title"]) for record in whole.records
    }
    tally = Tally()
    for chunk in chunks:
        tally.absorb(chunk.tally)
    assert tally.counts[IN_PARTS] == tally.counts["documents"] == tally.counts["titles cut"] == 1
    dropping = start_work(Cutting(tokenizer=tokenizer, drop_titles=("town",)))
    assert (
        sum(dropping(chunk).tally.counts["documents left out by their title"] for chunk in chunks_of([document])) == 1
    )


LONG_LINE = """
import functools, itertools, resource, sys
from pathlib import Path
from realm_ds.prepare.corpus import Cutting, chunks_of, start_work
from realm_ds.prepare.documents import Document
from realm_ds.prepare.workers import work_in_order

line = Document(id="1", title="t", text="天地玄黄" * 1_700_000, where="a:1")
work = functools.partial(start_work, Cutting(tokenizer=Path(sys.argv[1])))
assert len(list(work_in_order(itertools.islice(chunks_of([line]), 1), work, workers=1))) == 1
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


def test_what_a_worker_takes_for_a_line_of_20_mb(tokenizer: Path) -> None:
    """Some 75 MiB, most of them libraries; in one piece the line took 1,500. All its parts are alike: one is made."""
    done = subprocess.run(
        [sys.executable, "-c", LONG_LINE, tokenizer], capture_output=True, text=True, timeout=120, check=True
    )  # fmt: skip
    assert int(done.stdout) < 120
