"""The values of a JSON file: those that json.loads finds in all of it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.errors import DataError
from realm_ds.prepare import compressed
from realm_ds.prepare.compressed import InputFile
from realm_ds.prepare.documents import Tally
from realm_ds.prepare.json_values import json_values

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 9999) | st.text('ab"\\]}[, é\u2028', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


class _Text(InputFile):
    """A file that is read a few bytes at a time."""

    def __init__(self, data: bytes, *, step: int) -> None:
        super().__init__(Path("set.json"), name="set.json")
        self.data, self.step = data, step

    def blocks(self):
        yield from (self.data[place : place + self.step] for place in range(0, len(self.data), self.step))


def _read(path: Path, tally: Tally | None = None) -> list[Any]:
    return [value for value, _ in json_values(InputFile(path, name=path.name), tally=tally or Tally())]


@given(st.lists(_VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_an_array_in_pieces(values: list[Any], step: int, indent: int | None, is_ascii: bool) -> None:
    from realm_ds.prepare.json_values import _values_of_array

    data = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode()
    found = list(_values_of_array(_Text(data, step=step), start=1))
    assert [value for value, _ in found] == values
    assert [where for _, where in found] == [f"set.json, record {number}" for number in range(1, len(values) + 1)]


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"b": 2}]', '{"Data": [{"a": 1}, {"b": 2}], "Version": 1.0}',
             ' {"version": "v2.0",\n "ok": true, "data": [{"a": 1},{"b": 2}]}', '{"a": 1}\n\n{"b": 2}\n']
)  # fmt: skip
def test_arrays_and_lines_are_told_apart(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode()))
    assert _read(tmp_path / "a.json") == _read(tmp_path / "a.json.gz") == [{"a": 1}, {"b": 2}]


def test_bad_lines_are_counted(tmp_path: Path) -> None:
    path, tally = tmp_path / "a.jsonl", Tally()
    path.write_bytes(b'{"a": 1}\n{"a"\n"\xff"\n' + b"[" * 100_000 + b'\n{"b": 2}')
    assert _read(path, tally) == [{"a": 1}, {"b": 2}]
    assert list(tally.lines()) == ["lines that are no JSON, or too long, left out: 3 (first: a.jsonl:2)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"b": ', "record 2 is no JSON, or the file is cut off there; get it again, or mend it"),
        ('[{"a": 1}', "record 2 is no JSON, or the file is cut off there"),
        ('[{"a": 1}, nonsense]', "record 2 is no JSON"),
        ('[{"a": 1}, ' + "[" * 100_000, "record 2 is nested too deeply, or has too long a number, to be read; mend"),
        (
            '[{"a": 1}, {"b": ' + "9" * 5000 + "}]",
            "record 2 is nested too deeply, or has too long a number, to be read; mend",
        ),
    ],
)
def test_a_broken_array_is_named_behind_what_is_whole(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    values = json_values(InputFile(tmp_path / "a.json", name="a.json"), tally=Tally())
    assert next(values)[0] == {"a": 1}
    with pytest.raises(DataError, match=message):
        next(values)


def test_a_value_too_long_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realm_ds.prepare.json_values.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 100)
    (tmp_path / "a.json").write_text('["' + "x" * 5000 + '"]')
    file = InputFile(tmp_path / "a.json", name="a.json")
    with pytest.raises(DataError, match="record 1 is no JSON"):
        list(json_values(file, tally=Tally()))
    assert file.bytes_read < 3000
