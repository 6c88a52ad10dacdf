"""block_records.npy: what numpy writes is read without unpickling; else it is refused, and nothing in it is called."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.errors import CheckpointError
from realm_ds.models.hf_block_records import read_block_records, write_block_records

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), max_size=8)


def write(path: Path, records: list[object], *, protocol: int) -> None:
    """As np.save does it, in the protocol of any of its versions."""
    array = np.array([*records, None], dtype=object)[:-1]
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol=protocol)


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 7), max_size=4), st.sampled_from([3, 4, 5]))
def test_what_numpy_wrote_is_read(tmp_path_factory, texts: list[str], again: list[int], protocol: int) -> None:
    """Also where the same object is there more than once."""
    path = tmp_path_factory.mktemp("records") / "block_records.npy"
    records = [text.encode() for text in texts]
    records += [records[place] for place in again if place < len(records)]
    write(path, records, protocol=protocol)
    assert [text.encode() for text in read_block_records(path)] == records


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.integers(0, 3000))
def test_what_we_write_numpy_reads(tmp_path_factory, texts: list[str], more: int) -> None:
    path = tmp_path_factory.mktemp("records") / "records.npy"
    bodies = [*texts, "two " * 2000, "x" * 255, "y" * 256, *(f"passage {number}" for number in range(more))]
    for written in (bodies, []):
        write_block_records(path, iter(written), count=len(written))
        found = np.load(path, allow_pickle=True)
        assert (found.dtype, found.shape) == (object, (len(written),))
        assert [record.decode() for record in found] == written
        assert list(read_block_records(path)) == written


def test_records_are_written_one_at_a_time(tmp_path: Path) -> None:
    """Of 40 MB."""
    tracemalloc.start()
    write_block_records(tmp_path / "records.npy", ("x" * 2000 for _ in range(20_000)), count=20_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20, peak


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([b"fine", "a text"], "record of SHORT_BINUNICODE, not of bytes"),
        ([b"fine", 7], "record of BININT1, not of bytes"),
        ([b"fine", [b"deep"]], "record of EMPTY_LIST, not of bytes"),
        ([b"fine", Trap()], "record of .*, not of bytes"),
    ],
)
def test_other_objects_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "records.npy", records, protocol=4)
    with pytest.raises(CheckpointError, match=rf"records.npy cannot be read \({message}\): copy the passages again"):
        list(read_block_records(tmp_path / "records.npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["records.npy"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.npy"
    for array, message in ((np.arange(3), "an array of int64 in 1"), (np.array([[b"x", None]]), "of object in 2")):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(CheckpointError, match=message):
            list(read_block_records(path))
    write(path, [b"one" * 40, b"two" * 40], protocol=4)
    whole = path.read_bytes()
    for end in (0, 5, 100, len(whole) - 30):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"records.npy cannot be read \(.*\): copy the passages again"):
            list(read_block_records(path))
    path.write_bytes(whole.replace(b"(2,)", b"(3,)"))
    with pytest.raises(CheckpointError, match=r"holds 2 passages and says that it has 3: copy it again"):
        list(read_block_records(path))
    with pytest.raises(CheckpointError, match="No such file"):
        list(read_block_records(tmp_path / "none.npy"))
