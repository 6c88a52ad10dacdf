"""Bad input from end to end: whole jobs, as people run them, end with whole shards and counted skips, or with one line
that says what to do."""

import bz2
import errno
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from realm_ds.cli.main import app
from realm_ds.data.records import record_bytes
from realm_ds.data.shards import open_shards
from realm_ds.data.tokenizer import train_wordpiece
from realm_ds.prepare import corpus, json_lines, rows, wikipedia
from realm_ds.prepare.unfinished import GO_ON
from tests.support.records import make_passage, write_corpus


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(["The tower is in Ghent. 天地 שלום سلام"] * 3, vocab_size=200, folder=folder)
    return folder


def prepare(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# Documents: (the line, the text that comes of it, what is counted).
LINES: dict[str, tuple[bytes, str, str]] = {
    "good": (b'{"id": "a", "text": "The tower."}', "The tower.", ""),
    "invalid UTF-8": (b'{"text": "A caf\xe9\xff here."}', "A caf here.", rows.BAD_UTF8),
    "null bytes": (b'{"text": "A\\u0000 tower\\u0000."}', "A tower.", rows.NUL),
    "control characters": (b'{"text": "A\\u0007 bell\\u001b."}', "A bell.", "control characters left out"),
    "raw control characters": (b'{"text": "A\x07 raw one."}', "A raw one.", json_lines.MENDED),
    "half a surrogate pair": (b'{"text": "A \\ud83d half."}', "A half.", json_lines.MENDED),
    "an empty article": (b'{"text": ""}', "", rows.NO_TEXT),
    "an article of white space": (b'{"text": " \\n\\t\\u3000"}', "", rows.NO_TEXT),
    "an article of nothing to see": (b'{"text": "\\u0001\\u0002"}', "", "documents without text"),
    "wreckage of HTML": (b'{"text": "A <p>wreck</b &nbsp; &#x; <!-- of"}', "A <p>wreck</b &nbsp; &#x; <!-- of", ""),
    "wreckage of templates": (b'{"text": "{{cite|[[a|{| b }} ]] <ref>c"}', "{{cite|[[a|{| b }} ]] <ref>c", ""),
    "right to left": ('{"text": "שלום سلام."}'.encode(), "שלום سلام.", ""),
    "direction marks": ('{"text": "\u202eשלום\u202c there."}'.encode(), "שלום there.", "invisible characters left out"),
    "CJK": ('{"text": "天地。天地！"}'.encode(), "天地。 天地！", ""),
    "a twin": (b'{"id": "z", "text": "The tower."}', "", "duplicates left out"),
    "the id of another": (b'{"id": "a", "text": "Another one."}', "Another one.", rows.SAME_ID),
    "a missing field": (b'{"id": "m"}', "", "documents left out (no field 'text')"),
    "a number for a text": (b'{"text": 5}', "", rows.NOT_TEXT),
    "a list for a title": (b'{"text": "A list.", "title": [1]}', "A list.", rows.ODD_TITLE),
    "no object": (b"[1, 2]", "", json_lines.NOT_JSON),
    "no JSON": (b"{broken", "", json_lines.NOT_JSON),
    "absurd depth": (b'{"text": ' + b'{"a":' * 100_000, "", json_lines.NOT_JSON),
}


def test_lines_of_every_kind(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(line for line, _, _ in LINES.values()))
    out = tmp_path / "out"
    code, said = prepare("corpus", tmp_path / "a.jsonl", "--tokenizer", tokenizer, "--out", out, "--workers", 1)
    assert code == 0, said
    shards = open_shards(out, kind="corpus", fingerprint=None)
    assert [passage.text for passage in shards.passages()] == [text for _, text, _ in LINES.values() if text]
    counts, first = (shards.manifest.settings[name] for name in ("counts", "first"))
    for what in {what for _, _, what in LINES.values()} - {""}:
        numbers = [number for number, line in enumerate(LINES.values(), start=1) if line[2] == what]
        assert counts[what] >= len(numbers), what  # characters are counted one by one
        assert f"{what}: {counts[what]}" in said
        assert what == "duplicates left out" or first[what] == f"a.jsonl:{numbers[0]}"


def test_pages_of_every_kind(tokenizer: Path, tmp_path: Path) -> None:
    def page(number: int, text: str) -> str:
        inner = f"<id>{number}</id><revision><text>{text}</text></revision>"
        return f"<page><title>t{number}</title><ns>0</ns>{inner}</page>"

    texts = ["The '''tower'''.", "", "{{a|[[b|{|c &lt;ref>The rest.", "A <b>wreck</i>", "שלום [[x|سلام]]。天地"]
    pages = "".join(page(number, text) for number, text in enumerate(texts))
    (tmp_path / "a.xml").write_text(f"<mediawiki>{pages}</mediawiki>")
    out = tmp_path / "out"
    code, said = prepare("corpus", tmp_path / "a.xml", "--tokenizer", tokenizer, "--out", out, "--workers", 1)
    assert code == 0, said
    shards = open_shards(out, kind="corpus", fingerprint=None)
    assert [passage.text for passage in shards.passages()] == ["The tower.", "a|b|{|c The rest.", "שלום سلام。 天地"]
    counts = shards.manifest.settings["counts"]
    assert (counts[wikipedia.BROKEN], counts[rows.NO_TEXT]) == (1, 1), counts


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_a_file_that_is_cut_off_and_got_again(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(corpus, "CHUNK_CHARACTERS", 1000)
    # bz2 gives a block of 900 kB or nothing of it.
    first, last = (
        b"".join(b'{"id": "%d", "text": "The tower %d is in Ghent."}\n' % (number, number) for number in part)
        for part in (range(400), range(400, 500))
    )
    path, out = tmp_path / f"a.jsonl.{ending}", tmp_path / "out"
    arguments = ["corpus", path, "--tokenizer", tokenizer, "--out", out, "--per-shard", 30, "--workers", 1]
    whole = compress(first) + compress(last)
    path.write_bytes(whole[:-20])
    code, said = prepare(*arguments)
    assert (code, f"a.jsonl.{ending} is cut off: its compressed data ends too early" in said) == (1, True), said
    assert "get the file again, and begin anew" in said
    assert list(out.glob("shard-*.tar"))
    path.write_bytes(whole)
    code, said = prepare(*arguments, "--resume")
    assert (code, f"was begun otherwise: identity.files.a.jsonl.{ending}.bytes was {len(whole) - 20}" in said) == (2, 1)


AND_TELL_PEAK = """
import resource, sys
from realm_ds.cli.main import app
app(sys.argv[1:], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.parametrize("num_mb", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_an_article_in_one_line(tokenizer: Path, tmp_path: Path, num_mb: int) -> None:
    words = " ".join(f"the tower {number} is in ghent," for number in range(num_mb * 1_000_000 // 29))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": words}) + "\n")
    out = tmp_path / "out"
    options = ["--tokenizer", tokenizer, "--out", out, "--workers", 2]
    # A process of its own: the peak is that of its workers, which are all its children.
    command = [sys.executable, "-c", AND_TELL_PEAK, "prepare", "corpus", tmp_path / "a.jsonl", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "long documents, worked on in parts: 1 (first: a.jsonl:1)" in done.stdout + done.stderr
    passages = open_shards(out, kind="corpus", fingerprint=None).passages()
    assert " ".join(passage.text for passage in passages).split() == words.split()
    assert int(done.stdout.splitlines()[-1]) << 10 < 512 << 20


def _archive(name: str, record: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(record)
        archive.addfile(member, io.BytesIO(record))
    return buffer.getvalue()


RECORD = record_bytes(make_passage(0))
SHARDS: dict[str, tuple[Callable[[bytes], bytes], bool, str]] = {
    # What becomes of the shard, whether the manifest knows, and what is said.
    "cut off": (lambda data: data[:1000], False, "shard-00000.tar: 1000 bytes, but manifest.json says 10240"),
    "cut off, as the manifest has it": (lambda data: data[:600], True, "shard-00000.tar: ends after 0 of 1 records"),
    "a byte changed": (lambda data: data[:700] + b"#" + data[701:], False, "the file is damaged; copy it again"),
    "a name that leads out": (lambda data: _archive("../../x.json", RECORD), True, "record 0 is named '../../x.json'"),
    "an absolute name": (lambda data: _archive("/tmp/x.json", RECORD), True, "record 0 is named '/tmp/x.json', not"),
    "absurd depth": (lambda data: _archive("000000000.json", b"[" * 100_000), True, "record 000000000"),
    "no UTF-8": (lambda data: _archive("000000000.json", RECORD[:-1] + b"\xff"), True, "record 000000000"),
    "a wrong type": (lambda data: _archive("000000000.json", b'{"uid": "x"}'), True, "record 000000000"),
}


@pytest.mark.parametrize(("damage", "is_known", "message"), SHARDS.values(), ids=SHARDS)
def test_shards_that_are_not_what_they_should_be(
    tmp_path: Path, damage: Callable[[bytes], bytes], is_known: bool, message: str
) -> None:
    vocabulary = train_wordpiece(["text title"], vocab_size=200, folder=tmp_path / "tokenizer")
    write_corpus(tmp_path / "corpus", [make_passage(0)])
    shard, manifest = tmp_path / "corpus" / "shard-00000.tar", tmp_path / "corpus" / "manifest.json"
    shard.write_bytes(damage(shard.read_bytes()))
    told: dict[str, Any] = json.loads(manifest.read_text()) | {"tokenizer_fingerprint": vocabulary.fingerprint}
    if is_known:
        data = shard.read_bytes()
        told["shards"][0] |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(told))
    there = sorted(tmp_path.rglob("*"))
    out = ["--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "new" / "out", "--workers", 1]
    code, said = prepare("pretrain", "--corpus", tmp_path / "corpus", *out)
    assert (code, message in said) == (1, True), said
    assert sorted(tmp_path.rglob("*")) == there


def test_an_output_that_cannot_be_written(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    texts, asked = tmp_path / "a.jsonl", tmp_path / "q.jsonl"
    texts.write_text('{"text": "The tower."}\n')
    asked.write_text('{"question": "Where?", "answer": ["Ghent"]}\n')
    for verb in (
        ["corpus", texts, "--tokenizer", tokenizer],
        ["pretrain", texts, "--tokenizer", tokenizer],
        ["qa", asked, "--split", "dev"],
        ["tokenizer", texts, "--vocab-size", 120],
        ["tokenizer", "--from", tokenizer],
    ):
        code, said = prepare(*verb, "--out", tmp_path / "file" / "out")
        message = f"realm-ds: cannot write to {tmp_path}/file/out: Not a directory; mend that, or name another folder\n"
        assert (code, message in said) == (1, True), said


@pytest.mark.parametrize("verb", ["corpus", "pretrain"])
def test_a_full_disk(tokenizer: Path, tmp_path: Path, verb: str) -> None:
    texts = [f"Anna Lee met {number} others in Ghent on 3 May {number}." for number in range(1800, 1830)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out, fsync = tmp_path / "out", os.fsync

    def run(folder: Path, *more: str, room_for: int) -> tuple[int, str]:
        """With room for so many calls of fsync, of which a shard has six: two each for itself, keys and journal."""
        calls = iter(range(room_for))

        def fsync_or_stop(descriptor: int) -> None:
            if next(calls, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        options = ["--tokenizer", tokenizer, "--per-shard", 4, "--passage-tokens", 64, "--workers", 1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync_or_stop)
            return prepare(verb, tmp_path / "a.jsonl", *options, "--out", folder, *more)

    assert run(tmp_path / "whole", room_for=1000)[0] == 0
    for room_for, message in (
        (0, f"cannot write tar shards to {out}: No space left on device, after 0 complete shards; "),
        (9, f"cannot write to {out}: No space left on device; "),
    ):
        code, said = run(out, room_for=room_for)
        assert (code, f"realm-ds: {message}{GO_ON}\n" in said) == (1, True), said
        assert not list(tmp_path.rglob("*.tmp-*"))
    assert (out / "shard-00000.tar").exists()
    assert run(out, "--resume", room_for=1000)[0] == 0
    assert _content(out) == _content(tmp_path / "whole")


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
