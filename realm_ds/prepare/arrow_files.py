"""Parquet files and Hugging Face datasets on disk (`save_to_disk`) as documents: one row each. The only door to
pyarrow but for zstd."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from realm_ds.errors import DataError
from realm_ds.prepare.compressed import MAX_RECORD_BYTES, Damaged, InputFile
from realm_ds.prepare.documents import Document
from realm_ds.prepare.rows import TOO_LONG, Rows, no_such_column

ROWS_AT_A_TIME = 256
_TEXTS = frozenset(("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null"))
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def read_parquet(file: InputFile, rows: Rows) -> Iterator[Document]:
    """The documents of a file, in order; only the columns that are needed are read."""
    import pyarrow
    from pyarrow import parquet

    try:
        # No pre-buffering: a row group may be most of the file.
        stored = pyarrow.OSFile(os.fsencode(file.path))  # Arrow takes names as text for UTF-8
        with stored, parquet.ParquetFile(stored, pre_buffer=False, buffer_size=1 << 20) as table:
            columns = _needed(table.schema_arrow, file, rows)
            number = 0
            for batch in table.iter_batches(ROWS_AT_A_TIME, columns=columns, use_threads=False):
                num_before, number = number, number + batch.num_rows
                file.bytes_read = (file.num_bytes or 0) * number // max(table.metadata.num_rows, 1)
                yield from _documents(batch, file, rows, num_before=num_before)
    except (pyarrow.ArrowException, OSError) as error:
        raise Damaged(f"{file.name} cannot be read as Parquet ({_first_line(error)})") from error


def read_dataset_file(file: InputFile, rows: Rows) -> Iterator[Document]:
    """The documents of one data file of a dataset, in order."""
    import pyarrow

    try:
        with pyarrow.memory_map(os.fsencode(file.path)) as mapped, pyarrow.ipc.open_stream(mapped) as batches:
            columns = _needed(batches.schema, file, rows)
            number = 0
            for batch in batches:
                file.bytes_read = mapped.tell()
                for start in range(0, batch.num_rows, ROWS_AT_A_TIME):
                    part = batch.select(columns).slice(start, ROWS_AT_A_TIME)
                    yield from _documents(part, file, rows, num_before=number + start)
                number += batch.num_rows
            # Arrow takes a stream that ends between two batches for whole.
            mapped.seek(mapped.size() - len(_END_OF_STREAM))
            is_whole = mapped.read() == _END_OF_STREAM
    except (pyarrow.ArrowException, OSError) as error:
        raise Damaged(f"{file.name} cannot be read as an Arrow stream ({_first_line(error)})") from error
    if not is_whole:
        raise Damaged(f"{file.name} is cut off: it has no end mark")


def is_dataset(folder: Path) -> bool:
    """Whether `datasets` saved it."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def dataset_files(folder: Path) -> Iterator[Path]:
    """The data files of a dataset, all its splits, in its own order."""
    if (folder / "dataset_dict.json").is_file():
        for split in _members(folder / "dataset_dict.json", "splits", str):
            yield from dataset_files(_within(folder, split))
        return
    state = folder / "state.json"
    if not state.is_file():
        raise DataError(
            f"{folder} is no dataset on disk: it has neither state.json nor dataset_dict.json; save it with "
            "save_to_disk"
        )
    for entry in _members(state, "_data_files", dict):
        path = _within(folder, str(entry.get("filename")))
        if not path.is_file():
            raise DataError(f"{path} is not there, but {state} names it; save the dataset again")
        yield path


def _members(path: Path, name: str, kind: type) -> list[Any]:
    """A list in a JSON file of a dataset."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); save the dataset again") from error
    members = data.get(name) if isinstance(data, dict) else None
    if not isinstance(members, list) or not members or not all(isinstance(member, kind) for member in members):
        raise DataError(f"{path} has no list {name}; save the dataset again")
    if data.get("_indices_data_files") or data.get("_indices_files"):
        raise DataError(f"{path} selects rows of other files; call flatten_indices() and save the dataset again")
    return members


def _within(folder: Path, name: str) -> Path:
    if name != Path(name).name or name in ("", ".."):
        raise DataError(f"{folder} names {name!r}, which leads out of it; save the dataset again")
    return folder / name


def _needed(schema: Any, file: InputFile, rows: Rows) -> list[str]:
    """The columns to read, checked."""
    fields = rows.fields
    if missing := [name for name in fields.needed if name not in schema.names]:
        raise no_such_column(missing[0], schema.names, where=file.name)
    kind = schema.field(fields.text).type
    if _is_text(kind):
        return [name for name in dict.fromkeys((fields.id, fields.title, fields.text)) if name in schema.names]
    raise DataError(
        f"{file.name}: the column {fields.text!r} holds {kind}, no strings; name the one that holds the text"
    )


def _documents(batch: Any, file: InputFile, rows: Rows, *, num_before: int) -> Iterator[Document]:
    names = batch.schema.names
    columns = [_values(batch.column(name)) for name in names]
    for number, values in enumerate(zip(*columns, strict=True), start=num_before + 1):
        where = f"{file.name}:{number}"
        if sum(len(value) for value in values if type(value) is bytes) > MAX_RECORD_BYTES:
            rows.tally.add(TOO_LONG, where=where)
            continue
        # Decoded here: Arrow does not check that strings are UTF-8.
        texts = [rows.decoded(value, where=where) if type(value) is bytes else value for value in values]
        if document := rows.from_row(dict(zip(names, texts, strict=True)), where=where):
            yield document


def _values(column: Any) -> list[Any]:
    """As Python has them, strings as bytes."""
    import pyarrow

    if not _is_text(column.type):
        return column.to_pylist()
    plain = column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
    return plain.cast(pyarrow.large_binary()).to_pylist()


def _is_text(kind: Any) -> bool:
    """Whether values of this Arrow type are strings, or bytes that may be such."""
    import pyarrow

    return str(kind.value_type if pyarrow.types.is_dictionary(kind) else kind) in _TEXTS


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
