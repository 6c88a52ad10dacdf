"""Sources: every format gives its documents in order, and nothing that is wrong with them goes unsaid."""

import bz2
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare import csv_files, json_lines, rows
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import Fields
from realm_ds.prepare.sources import DAMAGED, TEXT_BESIDE, Source, open_source

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
        assert not source.tally.counts
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
        assert source.tally.counts == {rows.NO_TEXT: 1}
    parquet.write_table(pyarrow.table({"text": [b"caf\xe9"]}), tmp_path / "a.parquet")
    documents, source = _read(tmp_path / "a.parquet")
    assert documents[0].text == "caf\ufffd"
    assert source.tally.counts == {rows.BAD_UTF8: 1}


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
    assert source.tally.counts == {rows.NO_TEXT: 1}
    assert source.tally.first == {rows.NO_TEXT: "empty.txt"}


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
    assert _read(tmp_path)[1].tally.counts == {TEXT_BESIDE: 1}
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
        assert not source.tally.counts


def test_what_a_source_is_known_by(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", _jsonl([{"body": "x"}]))
    source = open_source([path], fields=Fields(text="body"))
    assert source.name == "a.jsonl"
    assert json.loads(json.dumps(source.identity())) == {
        "files": [{"name": "a.jsonl", "bytes": 14, "format": "jsonl"}],
        "fields": {"id": "id", "title": "title", "text": "body"},
    }
    assert open_source([path], fields=Fields(text="body"), on_damage="skip").identity() == source.identity()
    assert (source.total_bytes, source.bytes_read) == (14, 0)
    assert (source.total, source.done, source.share) == (1, 0, 0.0)
    assert str(tmp_path) not in json.dumps(source.identity())


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
        (["-"], "auto", "stdin has no name to tell its format by; choose one of wikipedia, jsonl, csv, tsv, text"),
        (["-"], "parquet", "parquet cannot be read from stdin; choose one of wikipedia"),
        (["absent.jsonl"], "auto", r"absent.jsonl is not there"),
        (["no*.jsonl"], "auto", r"no\*.jsonl is not there"),
        (["empty"], "auto", r"empty has no file whose name ends in .jsonl .ndjson .* \(or in that and .gz"),
        (["mixed"], "auto", r"mixed has files of several formats \(1 csv, 1 jsonl\)"),
        (["mixed"], "parquet", "mixed has no file whose name ends in .parquet .pq"),
        (["mixed"], "hf", "mixed is no dataset on disk"),
        (["a.doc"], "auto", "a.doc: its name does not say its format; choose one of wikipedia"),
    ],
)
def test_paths_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], format: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("mixed/a.csv", "mixed/b.jsonl", "a.jsonl", "a.doc"):
        _write(tmp_path, name, "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=message):
        open_source(paths, format=format)


LINES = [
    (b"{broken", json_lines.NOT_JSON),
    (b"[1, 2]", json_lines.NOT_JSON),
    (b"\xff\xfe\x00", json_lines.NOT_JSON),
    (b"[" * 100_000, json_lines.NOT_JSON),
    (b'{"text": ' + b'{"a":' * 100_000, json_lines.NOT_JSON),
    (b'{"title": "t"}', "documents left out: they have no field 'text'"),
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
    assert source.tally.counts == ({what: 1} if what else {})


def test_ids_are_told_apart(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", _jsonl([{"id": name, "text": "t"} for name in ("x", "y", "x", "x ")]))
    documents, source = _read(path)
    assert [each.id for each in documents] == ["x", "y", "x (a.jsonl:3)", "x (a.jsonl:4)"]
    assert source.tally.counts == {rows.SAME_ID: 2}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"{\n" * 3, "a.jsonl: none of its first 3 lines is a JSON object"),
        ("a.jsonl", b"[\n" + b'{"text": "x"},\n' * 200, "a.jsonl: none of its first 100 lines is a JSON object; .*jq"),
        ("a.jsonl", b'{"body": "x", "n": 1}\n' * 200, "no string in the field 'text' of its first 100 .*body, n"),
        ("a.csv", b"id,body\n1,x\n", "a.csv:1: no column 'text' among id, body: name the one that holds the text"),
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
    assert source.tally.counts == {csv_files.OTHER_WIDTH: 2, csv_files.NO_ROW: 3, rows.BAD_UTF8: 1}
    assert source.tally.first[csv_files.NO_ROW] == "a.csv:4"


def test_a_record_of_50_mb_in_one_line(tmp_path: Path) -> None:
    text = "word " * (10 << 20)
    path = _write(tmp_path, "a.jsonl", _jsonl([{"text": text}, {"text": "next"}]))
    assert [each.text for each in _read(path)[0]] == [text, "next"]


def test_records_beyond_the_limit_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.compressed.BLOCK_BYTES", 500)
    monkeypatch.setattr("realm_ds.prepare.compressed.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("realm_ds.prepare.text_files.MAX_RECORD_BYTES", 1000)
    long = "x" * 1001
    for name, data in {
        "a.jsonl": _jsonl([{"text": long}, {"text": "next"}]).decode(),
        "a.csv": f"text\n{long}\nnext\n",
        "a.txt": long,
    }.items():
        documents, source = _read(_write(tmp_path, name, data))
        assert [each.text for each in documents] == ["next"] * (name != "a.txt")
        assert source.tally.counts == {rows.TOO_LONG: 1}


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
            DataError, match=r"documents before that are whole: choose to skip .* or get the file again"
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
