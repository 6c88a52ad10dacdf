"""Index versions on disk: read back by any number of shards, never when damaged or of something else."""

import errno
import itertools
import json
import logging
import re
import tracemalloc
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.errors import IndexFault
from realm_ds.index import store as store_module
from realm_ds.index.store import IndexStore, prune, stored_parts, stored_versions, version_folder

VECTORS = np.random.default_rng(0).standard_normal((20, 3)).astype("f4")


def write(
    folder: Path, *, num_shards: int = 2, version: int = 3, snapshot: str = "snap", dtype: str = "fp32"
) -> IndexStore:
    store = IndexStore(folder, corpus_sha256="corpus", dtype=dtype)
    edges = [20 * shard // num_shards for shard in range(num_shards + 1)]
    for start, stop in itertools.pairwise(edges):
        store.save(VECTORS[start:stop], version=version, snapshot_sha256=snapshot, start=start)
    return store


def read(
    store: IndexStore, start: int = 0, stop: int = 20, *, version: int = 3, snapshot: str = "snap", width: int = 3,
    dtype: str = "f4",
):  # fmt: skip
    out = np.full((stop - start, width), np.nan, dtype=dtype)
    return out if store.load(out, version=version, snapshot_sha256=snapshot, start=start) else None


@settings(max_examples=12)
@given(st.integers(1, 20), st.integers(0, 19), st.integers(1, 20))
def test_any_range_is_read_from_any_number_of_parts(tmp_path_factory, num_shards: int, start: int, length: int):
    store = write(tmp_path_factory.mktemp("index"), num_shards=num_shards)
    stop = min(20, start + length)
    found = read(store, start, stop)
    assert found is not None
    assert found.tobytes() == VECTORS[start:stop].tobytes()


def test_parts_of_runs_with_other_numbers_of_shards_lie_side_by_side(tmp_path: Path):
    store = write(tmp_path, num_shards=3)
    write(tmp_path, num_shards=2)
    damaged = version_folder(tmp_path, 3) / "part-000000000-000010000.npy"
    assert not damaged.exists()
    (version_folder(tmp_path, 3) / "part-000000000-000000010.npy").write_bytes(b"gone")
    assert np.array_equal(read(store), VECTORS)  # 0-6 and 6-13 of three, 10-20 of two


def test_absent_versions_snapshots_corpora_and_ranges_are_none(tmp_path: Path):
    store = write(tmp_path)
    assert read(store, version=4) is None
    assert read(store, snapshot="other") is None
    assert read(store, 10, 21) is None
    assert read(IndexStore(tmp_path, corpus_sha256="other")) is None
    assert read(store, width=4) is None


@pytest.mark.parametrize("written", ["fp32", "fp16"])
@pytest.mark.parametrize("asked", ["f4", "f2"])
def test_parts_are_read_whatever_they_were_written_in(tmp_path: Path, written: str, asked: str):
    """float32 into float16 rounds as building into float16 would have; float16 is not taken for float32."""
    store = write(tmp_path, dtype=written)
    found = read(store, dtype=asked)
    if (written, asked) == ("fp16", "f4"):
        assert found is None
    else:
        assert found.tobytes() == VECTORS.astype(asked).tobytes()
    (part, _) = stored_parts(tmp_path, 3)
    assert part.manifest().dtype == written
    assert np.load(part.vectors_path).dtype == store_module.NUMPY_DTYPES[written]


def test_vectors_beyond_fp16_are_refused_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    large = np.full((2, 3), 1e5, dtype="f4")
    with pytest.raises(IndexFault, match=r"reach 100000, and fp16 holds at most 65504: set index\.vectors=fp32"):
        IndexStore(tmp_path, corpus_sha256="c", dtype="fp16").save(large, version=0, snapshot_sha256="s", start=0)
    assert stored_parts(tmp_path, 0) == []
    store = IndexStore(tmp_path, corpus_sha256="c")
    store.save(large, version=0, snapshot_sha256="s", start=0)
    assert not store.load(np.empty((2, 3), "f2"), version=0, snapshot_sha256="s", start=0)
    assert "part-000000000-000000002.npy holds vectors beyond what float16 can: not used" in caplog.text


@pytest.mark.parametrize("order", ["C", "F"])
def test_nothing_is_copied_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str):
    """Pieces of 5 rows; a slice of a larger array, in either order of memory, is written as it is."""
    monkeypatch.setattr(store_module, "PIECE_BYTES", 5 * 3 * 4)
    store = IndexStore(tmp_path, corpus_sha256="corpus")
    store.save(np.asarray(VECTORS, order=order)[2:19], version=3, snapshot_sha256="snap", start=2)
    (part,) = stored_parts(tmp_path, 3)
    assert [row for row, _ in part.pieces(part.manifest())] == [0, 5, 10, 15]
    assert np.array_equal(np.load(part.vectors_path), VECTORS[2:19])
    assert np.array_equal(read(store, 4, 18), VECTORS[4:18])
    assert np.array_equal(read(store, 6, 7), VECTORS[6:7])


def test_memory_is_that_of_a_piece(tmp_path: Path):
    vectors = np.ones((200_000, 64), "f4")  # 51 MB
    store = IndexStore(tmp_path, corpus_sha256="c", dtype="fp16")
    tracemalloc.start()
    store.save(vectors, version=0, snapshot_sha256="s", start=0)
    assert store.load(np.empty(vectors.shape, "f2"), version=0, snapshot_sha256="s", start=0)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes - vectors.nbytes // 2 < 4 * store_module.PIECE_BYTES  # the halves are the reader's own


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_part_is_named_and_not_used(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture):
    store = write(tmp_path)
    path = version_folder(tmp_path, 3) / f"part-000000010-000000020{suffix}"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content[: -2 if suffix == ".json" else None])
    with caplog.at_level(logging.WARNING):
        assert read(store) is None
    assert "part-000000010-000000020.npy is damaged" in caplog.text
    assert np.array_equal(read(store, 0, 10), VECTORS[:10])


def test_a_part_of_another_format_is_named_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = write(tmp_path)
    path = version_folder(tmp_path, 3) / "part-000000000-000000010.json"
    old = json.loads(path.read_text()) | {"format": 1}
    path.write_text(json.dumps({name: value for name, value in old.items() if name not in ("dtype", "width")}))
    assert read(store) is None
    assert "part-000000000-000000010.npy is of format 1, but this realm-ds reads 2" in caplog.text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"start": 1}, "its manifest is of version 3, passages 1 to 10"),
        ({"dtype": "fp64"}, "its manifest tells of 'fp64' vectors, 3 wide"),
        ({"dtype": ["fp32"]}, "its manifest tells of"),
        ({"dtype": "fp16"}, r"it holds float32 \(10, 3\), not float16"),
        ({"width": 0}, "0 wide"),
        ({"strange": 1}, "strange"),
        ({"vectors_sha256": 7}, "its manifest says 7"),
    ],
)
def test_a_manifest_that_lies_is_found_out(tmp_path: Path, change: dict, complaint: str, caplog):
    store = write(tmp_path)
    path = version_folder(tmp_path, 3) / "part-000000000-000000010.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read(store, dtype="f2") is None
    if change != {"width": 0}:
        assert re.search(f"part-000000000-000000010.npy is damaged .*{complaint}", caplog.text)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(["flip", "cut", "add"]))
def test_no_byte_of_a_part_can_change_unseen(tmp_path_factory, place: int, bits: int, how: str):
    folder = tmp_path_factory.mktemp("index")
    store = write(folder, num_shards=1)
    (part,) = stored_parts(folder, 3)
    content = bytearray(part.vectors_path.read_bytes())
    place %= len(content)
    if how == "flip":
        content[place] ^= bits
    part.vectors_path.write_bytes({"flip": content, "cut": content[:place], "add": content + bytes([bits])}[how])
    assert read(store) is None


def test_a_part_renamed_to_other_passages_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = write(tmp_path)
    for suffix in (".npy", ".json"):
        path = version_folder(tmp_path, 3) / f"part-000000010-000000020{suffix}"
        path.rename(path.with_stem("part-000000000-000000010"))
    assert read(store, 0, 10) is None
    assert "its manifest is of version 3, passages 10 to 20" in caplog.text


def test_a_part_without_vectors_is_not_used(tmp_path: Path):
    store = write(tmp_path)
    (version_folder(tmp_path, 3) / "part-000000000-000000010.npy").unlink()
    assert read(store) is None


def test_the_same_vectors_give_the_same_bytes(tmp_path: Path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("part-*"))
    assert len(files) == 4
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path):
    class FullDisk:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(path: Path) -> BinaryIO:
        return FullDisk(path)  # type: ignore[return-value]

    store = IndexStore(tmp_path, corpus_sha256="corpus", open_file=open_full)
    with pytest.raises(IndexFault, match=r"cannot write index version 3 to .*part-000000000-000000020\.npy: No space"):
        store.save(VECTORS, version=3, snapshot_sha256="snap", start=0)
    assert list(version_folder(tmp_path, 3).iterdir()) == []


@settings(max_examples=12)
@given(st.sets(st.integers(1, 20), min_size=1, max_size=3), st.sampled_from(["fp32", "fp16"]))
def test_vectors_are_mapped_where_they_lie_whatever_parts_there_are(tmp_path_factory, shards: set[int], dtype: str):
    folder = tmp_path_factory.mktemp("index")
    for num_shards in shards:
        store = write(folder, num_shards=num_shards, dtype=dtype)
    found = store.mapped(version=3, snapshot_sha256="snap", num_passages=20)
    assert found is not None
    assert all(isinstance(part, np.memmap) for part in found)
    assert np.concatenate(found).tobytes() == VECTORS.astype({"fp32": "f4", "fp16": "f2"}[dtype]).tobytes()
    for of in ({"version": 4}, {"snapshot_sha256": "other"}, {"num_passages": 21}):
        assert store.mapped(**{"version": 3, "snapshot_sha256": "snap", "num_passages": 20, **of}) is None


def test_mapped_vectors_are_whole(tmp_path: Path):
    store = write(tmp_path, num_shards=2)
    folder = version_folder(tmp_path, 3)
    data = bytearray((folder / "part-000000010-000000020.npy").read_bytes())
    data[-1] ^= 1
    (folder / "part-000000010-000000020.npy").write_bytes(data)
    with pytest.raises(IndexFault, match=r"a part of index version 3 in .* is damaged \(its sha256 .*: resume the run"):
        store.mapped(version=3, snapshot_sha256="snap", num_passages=20)
    (folder / "part-000000010-000000020.json").write_text("{")
    assert store.mapped(version=3, snapshot_sha256="snap", num_passages=20) is None


def test_prune_keeps_what_it_is_told(tmp_path: Path):
    for version in range(4):
        write(tmp_path, version=version)
    prune(tmp_path, keep={1}, below=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["version-00001", "version-00003"]
    assert stored_versions(tmp_path) == [1, 3]
    prune(tmp_path / "absent", keep=(), below=9)
