"""Sources: every format gives its documents in order, and nothing that is wrong with them goes unsaid."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare import arrow_files, csv_files, json_lines, rows
from realm_ds.prepare.compressed import InputFile
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.rows import Fields
from realm_ds.prepare.sources import DAMAGED, TEXT_BESIDE, TWICE, Source, open_source

ROWS = [
    {"id": "a1", "title": "Zürich", "text": 'Line one.\nLine two, "quoted".'},
    {"id": "a2", "title": "東京", "text": "東京は\u2028首都 \u05e9\u05dc\u05d5\u05dd"},
    {"id": "a3", "title": "", "text": "x" * 5000},
]


def _jsonl(objects: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in objects)


def _write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def _read(*paths: Path | str, **options: Any) -> tuple[list[Document], Source]:
    source = open_source(paths, **options)
    return list(source.documents()), source


def _plain(documents: list[Document]) -> list[dict[str, str]]:
    return [{"id": each.id, "title": each.title, "text": each.text} for each in documents]


def _told(source: Source) -> dict[str, int]:
    """What was counted, but for the titles that few of the rows here have."""
    return {what: number for what, number in source.tally.counts.items() if what != rows.NO_TITLE}


def _csv(delimiter: str) -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    lines = [["text", "id", "more", "title"], *([row["text"], row["id"], "m", row["title"]] for row in ROWS)]
    return "".join(delimiter.join(map(quoted, line)) + "\r\n" for line in lines)


def _dataset(folder: Path, rows: list[dict[str, Any]], *, name: str = "data-00000-of-00001.arrow") -> Path:
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(folder / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        for start in range(len(rows)):
            writer.write_table(table.slice(start, 1))
    _write(folder, "state.json", json.dumps({"_data_files": [{"filename": name}], "_split": "train"}))
    return folder / name


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    _write(tmp_path, "a.jsonl", _jsonl(ROWS))
    _write(tmp_path, "b.ndjson.gz", gzip.compress(b"\xef\xbb\xbf" + _jsonl(ROWS).replace(b"\n", b"\r\n\r\n")))
    _write(tmp_path, "c.csv", _csv(","))
    _write(tmp_path, "d.tsv.bz2", bz2.compress(_csv("\t").encode()))
    table = pyarrow.Table.from_pylist([{**row, "more": 1} for row in ROWS])
    parquet.write_table(table, tmp_path / "e.parquet", row_group_size=2)
    _dataset(tmp_path / "f", ROWS)
    for name in ("a.jsonl", "b.ndjson.gz", "c.csv", "d.tsv.bz2", "e.parquet", "f"):
        documents, source = _read(tmp_path / name)
        assert _plain(documents) == ROWS, name
        assert not _told(source)
        assert source.bytes_read == pytest.approx(source.total_bytes, abs=8), name
    first = _read(tmp_path / "b.ndjson.gz")[0][1]
    assert first.where == "b.ndjson.gz:3"
    assert first.markup == "plain"


def test_strings_as_arrow_may_hold_them(tmp_path: Path) -> None:
    kinds = (pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))
    for kind in kinds:
        text = pyarrow.array(["one", None, "three"]).cast(kind)
        parquet.write_table(pyarrow.table({"id": [7, 8, 9], "text": text}), tmp_path / "a.parquet")
        documents, source = _read(tmp_path / "a.parquet")
        assert [(each.id, each.text) for each in documents] == [("7", "one"), ("9", "three")]
        assert _told(source) == {rows.NO_TEXT: 1}
    parquet.write_table(pyarrow.table({"text": [b"caf\xe9"]}), tmp_path / "a.parquet")
    documents, source = _read(tmp_path / "a.parquet")
    assert documents[0].text == "caf\ufffd"
    assert _told(source) == {rows.BAD_UTF8: 1}


def test_text_files_are_documents_named_by_their_files(tmp_path: Path) -> None:
    _write(tmp_path, "b/New_York.txt.gz", gzip.compress(b"\xef\xbb\xbfA city.\r\nBig.\r"))
    _write(tmp_path, "a/Ulm.txt", "Also one.")
    _write(tmp_path, ".git/x.txt", "hidden")
    _write(tmp_path, "a/empty.txt", " \n")
    documents, source = _read(tmp_path)
    assert [(each.id, each.title, each.text) for each in documents] == [
        ("Ulm.txt", "Ulm", "Also one."),
        ("New_York.txt.gz", "New York", "A city.\nBig.\n"),
    ]
    assert _told(source) == {rows.NO_TEXT: 1}
    assert source.tally.first == {rows.NO_TEXT: "empty.txt"}


@given(share=st.floats(0, 1), odd=st.sampled_from([b"\x00", b"\x1b", b"\xe9"]))
def test_what_is_no_text_is_refused(share: float, odd: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    num_odd = round(share * 200)
    data = b" ".join([odd] * num_odd + [b"a"] * (200 - num_odd))  # by the blanks a half of this
    path = _write(tmp_path_factory.mktemp("odd"), "a.txt", data)
    if num_odd / 399 > 0.1:
        with pytest.raises(DataError, match=r"a.txt is no text in UTF-8: \d+% of .* with iconv -f latin1 -t utf-8"):
            _read(path)
        assert _told(_read(path, on_damage="skip")[1]) == {DAMAGED: 1}
    else:
        assert len(_read(path)[0]) == 1


def test_splits_of_a_dataset_come_in_its_order(tmp_path: Path) -> None:
    _write(tmp_path, "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    _dataset(tmp_path / "train", ROWS[:2])
    _dataset(tmp_path / "test", ROWS[2:])
    documents, source = _read(tmp_path)
    assert _plain(documents) == ROWS
    assert documents[2].where == "test/data-00000-of-00001.arrow:1"
    assert source.name == "train/data-00000-of-00001.arrow to test/data-00000-of-00001.arrow (2 files)"


def test_paths_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl.gz"):
        data = _jsonl([{"text": name}])
        _write(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data)
    _write(tmp_path, "README.txt", "about")
    texts = {
        "folder": [tmp_path],
        "pattern": [tmp_path / "*.jsonl", tmp_path / "sub" / "*"],
        "twice": [tmp_path / "?.jsonl", tmp_path / "a.jsonl", tmp_path],
    }
    for paths in texts.values():
        assert [each.text for each in _read(*paths)[0]] == ["a.jsonl", "b.jsonl", "sub/c.jsonl.gz"]
    assert _told(_read(tmp_path)[1]) == {TEXT_BESIDE: 1}
    source = open_source(texts["twice"])
    assert (source.tally.counts[TWICE], source.tally.first[TWICE]) == (3, "a.jsonl")
    assert [each.text for each in _read(tmp_path / "b.jsonl", tmp_path / "a.jsonl")[0]] == ["b.jsonl", "a.jsonl"]
    assert [each.text for each in _read(tmp_path, format="text")[0]] == ["about"]


def test_files_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/a.jsonl", "y/z/a.jsonl"):
        _write(tmp_path, name, _jsonl([{"text": name}]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_jsonl([{"text": "-"}]))))
    documents, _ = _read("x/a.jsonl", tmp_path / "y")
    assert [each.id for each in documents] == ["x/a.jsonl:1", "y/z/a.jsonl:1"]
    documents, _ = _read("x/a.jsonl", "-", tmp_path / "y/z/a.jsonl", format="jsonl")
    assert [each.id for each in documents] == ["x/a.jsonl:1", "stdin:1", "y/z/a.jsonl:1"]


def test_tables_without_a_row(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    _write(tmp_path, "b.csv", "id,text\n")
    _write(tmp_path, "c.csv", "")
    _write(tmp_path, "d.jsonl", "\n")
    for name in ("a.parquet", "b.csv", "c.csv", "d.jsonl"):
        documents, source = _read(tmp_path / name)
        assert not documents
        assert not _told(source)


def test_what_a_source_is_known_by(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", _jsonl([{"body": "x"}]))
    source = open_source([path], fields=Fields(text="body"))
    assert source.name == "a.jsonl"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(json.dumps(source.identity())) == {
        "files": {"a.jsonl": {"place": 0, "bytes": 14, "digest": digest, "format": "jsonl"}},
        "fields": {"id": "id", "title": "title", "text": "body"},
    }
    assert open_source([path], fields=Fields(text="body"), on_damage="skip").identity() == source.identity()
    assert (source.total_bytes, source.bytes_read) == (14, 0)
    assert (source.total, source.done, source.share, source.measure) == (1, 0, 0.0, "kB")
    assert str(tmp_path) not in json.dumps(source.identity())
    assert open_source([path, "-"], format="jsonl").identity() is None


def test_files_of_one_name_and_size_are_known_by_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.compressed.MB", 4)

    def known(data: str) -> object:
        return open_source([_write(tmp_path, "a.txt", data)]).identity()

    ends = known("0123456789")
    assert ends == known("0123xx6789")  # so that it costs the same, however large a file is
    assert ends != known("012x456789")
    assert ends != known("012345x789")
    assert known("01234") != known("0123x")
    assert known("") == known("")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.bz2", "a.parquet"])
def test_the_share_is_that_of_the_documents_and_not_of_what_was_read_ahead(tmp_path: Path, name: str) -> None:
    chance = random.Random(3)
    many = [{"id": str(n), "text": chance.randbytes(chance.randint(1, 4000)).hex()} for n in range(2000)]
    path = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(pyarrow.Table.from_pylist(many), path)
    else:
        packers = {".gz": gzip.compress, ".bz2": bz2.compress}
        path.write_bytes(packers.get(path.suffix, bytes)(_jsonl(many)))
    _write(tmp_path, "b.jsonl", _jsonl(many[:500]))
    source = open_source([path, tmp_path / "b.jsonl"])
    shares = [source.share for _ in source.documents()]
    first = path.stat().st_size / (source.total_bytes or 0)
    num_characters = sum(len(row["text"]) for row in many)
    for number in (300, 700, 1500, 1999):
        expected = first * sum(len(row["text"]) for row in many[:number]) / num_characters
        assert shares[number - 1] == pytest.approx(expected, rel=0.15), number
    assert max(shares) < 1.0 == source.share


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(_jsonl(ROWS)))))
    documents, source = _read("-", format="jsonl")
    assert _plain(documents) == ROWS
    assert (source.total, source.share) == (None, 1.0)
    assert documents[0].where == "stdin:1"


@pytest.mark.parametrize(
    ("paths", "format", "message"),
    [
        ([], "auto", "no source is named"),
        (["a.jsonl"], "yaml", "no format is called 'yaml'; choose one of auto, wikipedia, jsonl, csv"),
        (
            ["-"],
            "auto",
            "stdin has no name to tell its format by; give --format, one of wikipedia, jsonl, csv, tsv, text",
        ),
        (["-"], "parquet", "parquet cannot be read from stdin; give --format, one of wikipedia"),
        (["absent.jsonl"], "auto", r"absent.jsonl is not there"),
        (["no*.jsonl"], "auto", r"no\*.jsonl is not there"),
        (["empty"], "auto", r"empty has no file whose name ends in .jsonl .ndjson .* \(or in that and .gz"),
        (["shards"], "auto", "shards holds tar shards, no documents: prepare pretrain reads those of a corpus by --co"),
        (["mixed"], "auto", r"mixed has files of several formats \(1 csv, 1 jsonl\); give --format"),
        (["mixed"], "parquet", "mixed has no file whose name ends in .parquet .pq"),
        (["mixed"], "hf", "mixed is no dataset on disk"),
        (["a.doc"], "auto", "a.doc: its name does not say its format; give --format, one of wikipedia"),
    ],
)
def test_paths_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], format: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("shards/manifest.json", "mixed/a.csv", "mixed/b.jsonl", "a.jsonl", "a.doc"):
        _write(tmp_path, name, "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=message):
        open_source(paths, format=format)


def test_fields_that_no_file_has_are_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "b.xml", "c.jsonl"):
        _write(tmp_path, name, "")
    fields = Fields(title="head")
    message = r"--title-field head would be ignored: a.txt to b.xml \(2 files\) is read as text and wikipedia"
    with pytest.raises(ConfigError, match=message):
        open_source([tmp_path / "a.txt", tmp_path / "b.xml"], fields=fields)
    assert open_source([tmp_path / "a.txt", tmp_path / "c.jsonl"], fields=fields).formats == {"text", "jsonl"}


LINES = [
    (b"{broken", json_lines.NOT_JSON),
    (b"[1, 2]", json_lines.NOT_JSON),
    (b"\xff\xfe\x00", json_lines.NOT_JSON),
    (b"[" * 100_000, json_lines.NOT_JSON),
    (b'{"text": ' + b'{"a":' * 100_000, json_lines.NOT_JSON),
    (b'{"title": "t"}', "documents left out (no field 'text')"),
    (b'{"text": 5}', rows.NOT_TEXT),
    (b'{"text": ["a"]}', rows.NOT_TEXT),
    (b'{"text": null}', rows.NO_TEXT),
    (b'{"text": ""}', rows.NO_TEXT),
    (b'{"text": " \\n\\u3000"}', rows.NO_TEXT),
]


@pytest.mark.parametrize(("line", "what"), LINES, ids=[line[:20].decode(errors="replace") for line, _ in LINES])
def test_a_line_that_gives_no_document_is_counted(tmp_path: Path, line: bytes, what: str) -> None:
    path = _write(tmp_path, "a.jsonl", b"\n".join([b'{"text": "one"}', line, line, b'{"text": "two"}']))
    documents, source = _read(path)
    assert [each.text for each in documents] == ["one", "two"]
    assert source.tally.counts[what] == 2
    assert source.tally.first[what] == "a.jsonl:2"


MENDED = [
    (b'{"text": "caf\xe9"}', {"text": "caf\ufffd"}, rows.BAD_UTF8),
    (b'{"text": "a\tb"}', {"text": "a\tb"}, json_lines.MENDED),
    (b'{"text": "cut \\ud83d"}', {"text": "cut \ufffd"}, json_lines.MENDED),
    (b'{"text": "a\\u0000b", "title": "\\u0000"}', {"text": "ab", "title": ""}, rows.NUL),
    (b'{"text": "a", "title": ["t"]}', {"text": "a", "title": ""}, rows.ODD_TITLE),
    (b'{"text": "a", "title": null}', {"text": "a", "title": ""}, None),
    (b'{"text": "a", "title": 1984, "id": 7}', {"text": "a", "title": "1984", "id": "7"}, None),
    (b'{"text": "a", "id": null}', {"text": "a", "id": "a.jsonl:1"}, None),
]


@pytest.mark.parametrize(("line", "expected", "what"), MENDED)
def test_a_line_that_is_mended(tmp_path: Path, line: bytes, expected: dict[str, str], what: str | None) -> None:
    [document], source = _read(_write(tmp_path, "a.jsonl", line))
    assert {name: getattr(document, name) for name in expected} == expected
    assert _told(source) == ({what: 1} if what else {})


def test_ids_are_told_apart(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", _jsonl([{"id": name, "text": "t"} for name in ("x", "y", "x", "x ")]))
    documents, source = _read(path)
    assert [each.id for each in documents] == ["x", "y", "x (a.jsonl:3)", "x (a.jsonl:4)"]
    assert _told(source) == {rows.SAME_ID: 2}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"{\n" * 3, "a.jsonl: none of its first 3 lines is a JSON object"),
        ("a.jsonl", b"[\n" + b'{"text": "x"},\n' * 200, "a.jsonl: none of its first 100 lines is a JSON object; .*jq"),
        ("a.jsonl", b'{"body": "x", "n": 1}\n' * 200, "no object in its first 100 .* a string in .* 'text'; .*body, n"),
        ("a.jsonl", b'{"body": "x", "n": 1}\n{\n', "no object in its first 2 lines .* fields body, n: name"),
        ("a.csv", b"id,body\n1,x\n", "a.csv:1: no column 'text' among id, body: name one of these"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_an_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _read(_write(tmp_path, name, data))


def test_tables_without_the_column(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"body": ["x"], "text": [[1]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: the column 'text' holds list<.*>, no strings"):
        _read(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet: no column 'prose' among body, text"):
        _read(tmp_path / "a.parquet", fields=Fields(text="prose"))


def _as(name: str, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The same rows as a file of the format that the name says."""
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
        return folder / name
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return _write(folder, name, _jsonl(rows) if name.endswith(".jsonl") else "\n".join(lines))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_column_that_was_named_has_to_be_there(tmp_path: Path, name: str) -> None:
    path = _as(name, tmp_path, [{"key": "k1", "head": "One", "text": "a"}, {"key": "k2", "head": "Two", "text": "b"}])
    documents, _ = _read(path, fields=Fields(id="key", title="head"))
    assert [(each.id, each.title) for each in documents] == [("k1", "One"), ("k2", "Two")]
    for fields, missing in ((Fields(title="yyy"), "yyy"), (Fields(id="zzz"), "zzz")):
        with pytest.raises(DataError, match=f"'{missing}'.* key, head, text: name one of these"):
            _read(path, fields=fields)
    documents, source = _read(path)
    assert [each.title for each in documents] == ["", ""]
    assert source.tally.counts == {rows.NO_TITLE: 2}


def test_a_field_that_some_objects_have_is_there(tmp_path: Path) -> None:
    path = _write(
        tmp_path, "a.jsonl", _jsonl([{"text": "a"}] * 50 + [{"text": "b", "head": "B"}] + [{"text": "c"}] * 99)
    )
    assert len(_read(path, fields=Fields(title="head"))[0]) == 150


def test_rows_of_csv_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "MAX_FIELD_CHARACTERS", 50)
    lines = [
        "id,text",
        "1,one",
        "2",
        '3,"three"x',
        "",
        "4,four,4",
        "5,caf\xe9",
        '6,"' + "x" * 60 + '"',
        "7,seven",
        '8,"x',
    ]
    documents, source = _read(_write(tmp_path, "a.csv", "\n".join(lines).encode("latin-1")))
    assert [(each.id, each.text) for each in documents] == [("1", "one"), ("5", "caf\ufffd"), ("7", "seven")]
    assert _told(source) == {csv_files.OTHER_WIDTH: 2, csv_files.NO_ROW: 3, rows.BAD_UTF8: 1}
    assert source.tally.first[csv_files.NO_ROW] == "a.csv:4"


@pytest.mark.parametrize("closes_at", [None, 900])
def test_an_open_quote_takes_its_own_row_alone(tmp_path: Path, closes_at: int | None) -> None:
    texts = [f"row {number}" for number in range(2000)]
    texts[500] = '"' + texts[500]
    if closes_at is not None:
        texts[closes_at] = '"a row\nof two lines, or more"'
    documents, source = _read(_write(tmp_path, "a.csv", "text\n" + "\n".join(texts)))
    assert [each.text for each in documents] == [text.strip('"') for text in texts if text != texts[500]]
    assert source.tally.counts == {csv_files.NO_ROW: 1, rows.NO_TITLE: 1999}
    assert source.tally.first[csv_files.NO_ROW] == "a.csv:502"


@given(st.lists(st.text('a",', min_size=1, max_size=5), min_size=1, max_size=30))
def test_no_row_of_csv_is_lost_uncounted(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = _write(tmp_path_factory.mktemp("csv"), "a.csv", "text,more\n" + "\n".join(lines))
    counted = rows.Rows(tally=Tally())
    found = list(csv_files.csv_rows(InputFile(path, name="a.csv"), counted, needed=("text",)))
    places = [int(where.removeprefix("a.csv:")) for _, where in found]
    assert places == sorted(set(places))
    num_lines = sum(1 + "".join(row.values()).count("\n") for row, _ in found)
    num_others = counted.tally.counts[csv_files.NO_ROW] + counted.tally.counts[csv_files.OTHER_WIDTH]
    assert num_lines + num_others <= len(lines)
    if not counted.tally.counts[csv_files.OTHER_WIDTH]:  # one of these may be of several lines
        assert num_lines + num_others == len(lines)


def test_quotes_on_every_line_take_no_more_time(tmp_path: Path) -> None:
    num_taken = 0

    def lines() -> Iterator[tuple[int, str]]:
        nonlocal num_taken
        for number in range(1, 101):
            num_taken += 1
            yield number, 'a",",\n'

    taken = csv_files._Lines(lines())
    reader, left_out = csv.reader(taken, strict=True), []
    num_given = 0
    while True:
        taken.begin_record()
        try:
            next(reader)
        except StopIteration:
            break
        except csv.Error:
            num_given += len(taken._record)
            left_out += taken.go_back()
    assert sorted(left_out) == list(range(1, 101))
    assert (num_taken, num_given) == (100, 199)


def test_a_record_of_50_mb_in_one_line(tmp_path: Path) -> None:
    text = "word " * (10 << 20)
    path = _write(tmp_path, "a.jsonl", _jsonl([{"text": text}, {"text": "next"}]))
    assert [each.text for each in _read(path)[0]] == [text, "next"]


def test_a_batch_of_any_size_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.arrow_files.ROWS_AT_A_TIME", 3)
    parts = []
    documents_of = arrow_files._documents

    def watched(batch: Any, *others: Any, **named: Any) -> Iterator[Document]:
        parts.append(batch.num_rows)
        return documents_of(batch, *others, **named)

    monkeypatch.setattr("realm_ds.prepare.arrow_files._documents", watched)
    table = pyarrow.table({"text": [str(number) for number in range(8)]})
    _write(tmp_path / "a", "state.json", json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    with (
        pyarrow.OSFile(str(tmp_path / "a" / "a.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as to,
    ):
        to.write_table(table)
        to.write_table(table)
    documents, _ = _read(tmp_path / "a")
    assert parts == [3, 3, 2] * 2
    assert [(each.text, each.id) for each in documents] == [
        (str(number % 8), f"a.arrow:{number + 1}") for number in range(16)
    ]


def test_records_beyond_the_limit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.compressed.BLOCK_BYTES", 500)
    monkeypatch.setattr("realm_ds.prepare.compressed.MAX_RECORD_BYTES", 1000)
    for module in ("text_files", "arrow_files"):
        monkeypatch.setattr(f"realm_ds.prepare.{module}.MAX_RECORD_BYTES", 1000)
    long = "x" * 1001
    parquet.write_table(pyarrow.table({"text": [long, "next"]}), tmp_path / "a.parquet")
    documents, source = _read(tmp_path / "a.parquet")
    assert [(each.id, each.text) for each in documents] == [("a.parquet:2", "next")]
    assert source.tally.counts == {rows.TOO_LONG: 1, rows.NO_TITLE: 1}
    for name, data in {
        "a.jsonl": _jsonl([{"text": long}, {"text": "next"}]).decode(),
        "a.csv": f"text\n{long}\nnext\n",
        "a.txt": long,
    }.items():
        documents, source = _read(_write(tmp_path, name, data))
        assert [each.text for each in documents] == ["next"] * (name != "a.txt")
        assert _told(source) == {rows.TOO_LONG: 1}


def _damaged(folder: Path) -> list[Path]:
    """A cut-off file of each kind, all rows whole but for the last."""
    many = [{"id": str(number), "text": f"text {number} " * 200} for number in range(300)]
    packed = gzip.compress(_jsonl(many))
    jsonl = _write(folder, "a.jsonl.gz", packed[:-100])
    arrow = _dataset(folder / "b", many)
    arrow.write_bytes(arrow.read_bytes()[:-8])
    shorter = _dataset(folder / "c", many)
    shorter.write_bytes(shorter.read_bytes()[:-5000])
    parquet.write_table(pyarrow.Table.from_pylist(many), folder / "d.parquet")
    (folder / "d.parquet").write_bytes((folder / "d.parquet").read_bytes()[:-20])
    return [jsonl, folder / "b", folder / "c", folder / "d.parquet"]


def test_damage_stops_the_work_or_is_counted(tmp_path: Path) -> None:
    good = _write(tmp_path, "z.jsonl", _jsonl([{"id": "last", "text": "end"}]))
    for path in _damaged(tmp_path):
        documents: list[Document] = []
        with pytest.raises(
            DataError,
            match=r"documents before that are whole: go on behind it with --on-damage skip, .* get the file again",
        ):
            documents.extend(open_source([path, good]).documents())
        skipped, source = _read(path, good, on_damage="skip")
        assert skipped[:-1] == documents
        assert skipped[-1].id == "last"
        assert source.tally.counts[DAMAGED] == 1
        assert f"{len(documents)} documents before that" in source.tally.first[DAMAGED]
        assert (len(documents) > 200) == (path.suffix != ".parquet")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json cannot be read as JSON"),
        ("[]", "state.json has no list _data_files"),
        ('{"_data_files": [{"filename": "../../etc/passwd"}]}', "names '../../etc/passwd', which leads out of it"),
        ('{"_data_files": [{"filename": ".."}]}', "names '..', which leads out of it"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', r"gone.arrow is not there, but .*state.json names it"),
        ('{"_data_files": [{}], "_indices_data_files": [{}]}', r"selects rows .* call flatten_indices\(\)"),
    ],
)
def test_datasets_that_cannot_be_read(tmp_path: Path, state: str, message: str) -> None:
    _write(tmp_path, "state.json", state)
    with pytest.raises(DataError, match=message):
        open_source([tmp_path])


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    _write(folder, os.fsdecode(b"th\xe9.txt"), "tea")
    _write(folder, os.fsdecode(b"caf\xe9.jsonl"), _jsonl([{"text": "coffee"}]))
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "milk"}]), tmp_path / "a.parquet")
    milk = (tmp_path / "a.parquet").rename(tmp_path / os.fsdecode(b"a\xe9.parquet"))
    _dataset(tmp_path / "b", [{"text": "salt"}])
    salt = (tmp_path / "b").rename(tmp_path / os.fsdecode(b"b\xe9"))
    documents, source = _read(folder, folder / os.fsdecode(b"th\xe9.txt"), milk, salt)
    assert [(each.title, each.text) for each in documents] == [
        ("", "coffee"),
        ("th\ufffd", "tea"),
        ("", "milk"),
        ("", "salt"),
    ]
    assert documents[0].id == "caf\ufffd.jsonl:1"
    assert source.tally.first == {TEXT_BESIDE: "caf\ufffd", rows.NO_TITLE: "caf\ufffd.jsonl:1"}
    told = [*source.tally.lines(), source.name, json.dumps(source.identity(), ensure_ascii=False), str(documents)]
    assert all(text.encode() for text in told)
