"""Index versions on disk: read back by any number of shards, never when damaged or of something else."""

import errno
import itertools
import logging
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_ds.errors import IndexFault
from realm_ds.index.store import IndexStore, prune, version_folder

VECTORS = np.random.default_rng(0).standard_normal((20, 3)).astype("f4")


def write(folder: Path, *, num_shards: int = 2, version: int = 3, snapshot: str = "snap") -> IndexStore:
    store = IndexStore(folder, corpus_sha256="corpus")
    edges = [20 * shard // num_shards for shard in range(num_shards + 1)]
    for start, stop in itertools.pairwise(edges):
        store.save(VECTORS[start:stop], version=version, snapshot_sha256=snapshot, start=start)
    return store


def read(store: IndexStore, start: int = 0, stop: int = 20, *, version: int = 3, snapshot: str = "snap"):
    return store.load(version=version, snapshot_sha256=snapshot, start=start, stop=stop, width=3)


@settings(max_examples=12, deadline=None)
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
    assert store.load(version=3, snapshot_sha256="snap", start=0, stop=20, width=4) is None


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


def test_prune_keeps_what_it_is_told(tmp_path: Path):
    for version in range(4):
        write(tmp_path, version=version)
    prune(tmp_path, keep={1, 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["version-00001", "version-00003"]
    prune(tmp_path / "absent", keep=())
