"""Tar shards and their manifest: ordinary, deterministic, whole or absent, and checked when opened."""

import dataclasses
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.places import Place
from realm_ds.data.records import passage_from_json
from realm_ds.data.shard_writer import tar_of, write_shards
from realm_ds.data.shards import open_shards, passage_range, verify_shard
from realm_ds.errors import ConfigError, DataError
from tests.support.records import make_example, make_passage, write_corpus

PASSAGES = [make_passage(number) for number in range(7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", PASSAGES)
    return tmp_path / "corpus"


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_written_and_read(folder: Path) -> None:
    corpus = open_shards(folder, kind="corpus", fingerprint="fingerprint")
    assert [entry.count for entry in corpus.manifest.shards] == [3, 3, 1]
    assert corpus.count == 7
    assert list(corpus.passages()) == PASSAGES
    for start in range(8):
        for stop in range(start, 8):
            assert list(corpus.passages(start, stop)) == PASSAGES[start:stop]


def test_passages_at_places_are_those_of_a_list(folder: Path) -> None:
    here = open_shards(folder, kind="corpus", fingerprint=None)
    elsewhere = open_shards(f"pipe:cat {folder}/{{name}}", kind="corpus", fingerprint=None)
    for places in ([], [6], [5, 0, 5, 2], range(7)):
        for corpus in (here, elsewhere):
            assert corpus.passages_at(places) == {place: PASSAGES[place] for place in places}


def test_passages_at_places_cost_no_reading_of_all_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is known where they lie: no more than what a page around each takes."""
    write_corpus(tmp_path / "corpus", [make_passage(number) for number in range(600)], per_shard=300)
    corpus = open_shards(tmp_path / "corpus", kind="corpus", fingerprint=None)
    corpus.passages_at([0, 599])
    read: list[int] = []

    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            read.append(super().readinto(buffer) or 0)
            return read[-1]

    monkeypatch.setattr(
        Place, "open",
        lambda place, name, *, buffer_bytes: io.BufferedReader(Counted(place.folder / name), buffer_bytes),
    )  # fmt: skip
    assert [passage.uid for passage in corpus.passages_at([7, 298, 310]).values()] == [8, 299, 311]
    assert sum(entry.num_bytes for entry in corpus.manifest.shards) > 500_000
    assert sum(read) <= 3 * 2 * 4096


def test_a_copy_is_the_same_shards(folder: Path, tmp_path: Path) -> None:
    corpus = open_shards(folder, kind="corpus", fingerprint=None)
    (folder / "notes.txt").write_text("not the corpus")
    elsewhere = dataclasses.replace(
        corpus, place=Place("https://host/x", opener=lambda url: (folder / url.rpartition("/")[2]).open("rb"))
    )
    for name, shards in (("linked", corpus), ("fetched", elsewhere)):
        shards.copy_to(tmp_path / name)
        copy = open_shards(tmp_path / name, kind="corpus", fingerprint=None)
        assert (copy.digest, list(copy.passages())) == (corpus.digest, PASSAGES)
        assert not (tmp_path / name / "notes.txt").exists()


def test_rank_variables_hide_no_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "WORKER": "1", "NUM_WORKERS": "2"}.items():
        monkeypatch.setenv(name, value)
    assert list(open_shards(folder, kind="corpus", fingerprint=None).passages()) == PASSAGES


def test_webdataset_opens_the_shards(folder: Path) -> None:
    dataset = webdataset.WebDataset(str(folder / "shard-{00000..00002}.tar"), shardshuffle=False).decode()
    samples = list(dataset)
    assert [passage_from_json(sample["json"], where="w") for sample in samples] == PASSAGES
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(7)]


def test_same_records_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", PASSAGES)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    first = open_shards(folder, kind="corpus", fingerprint=None)
    assert first.digest == open_shards(tmp_path / "again", kind="corpus", fingerprint=None).digest
    with tarfile.open(folder / "shard-00000.tar") as archive:
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in archive} == {(0, 0, "", 0o644)}


@given(records=st.lists(st.binary(max_size=1200), min_size=1, max_size=30), first=st.sampled_from([0, 7, 999_999_990]))
def test_the_bytes_are_those_that_tarfile_writes(records: list[bytes], first: int) -> None:
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, record in enumerate(records, start=first):
            member = tarfile.TarInfo(f"{number:09d}.json")
            member.size = len(record)
            archive.addfile(member, io.BytesIO(record))
    assert tar_of(records, first=first) == expected.getvalue()


def test_digest_depends_on_the_records(folder: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", PASSAGES[::-1])
    assert other.digest != open_shards(folder, kind="corpus", fingerprint=None).digest


def test_writing_again_leaves_no_old_shard(folder: Path) -> None:
    write_corpus(folder, PASSAGES[:2])
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "shard-00000.tar"]


def test_writing_needs_no_torch() -> None:
    code = (
        "import sys, realm_ds.data.shards, realm_ds.data.stream, realm_ds.data.batches; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# What cannot be written.


def open_full_disk(path: Path) -> BinaryIO:
    """A file of a file system without space: the kernel answers ENOSPC to every write."""
    return Path("/dev/full").open("wb")


def test_disk_full(tmp_path: Path) -> None:
    opened: list[Path] = []

    def open_file(path: Path) -> BinaryIO:
        opened.append(path)
        return open_full_disk(path) if len(opened) == 2 else path.open("wb")

    with pytest.raises(
        DataError, match="cannot write tar shards to .*: No space left on device, after 1 complete"
    ) as e:
        write_shards(
            PASSAGES,
            tmp_path,
            kind="corpus",
            per_shard=3,
            tokenizer_fingerprint="f",
            source="s",
            settings={},
            open_file=open_file,
        )
    assert "\n" not in str(e.value)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.tar"]
    with pytest.raises(DataError, match="was not written to its end"):
        open_shards(tmp_path, kind="corpus", fingerprint=None)


def test_disk_full_over_an_older_folder_leaves_no_manifest(folder: Path) -> None:
    with pytest.raises(DataError, match="No space left"):
        write_shards(
            PASSAGES,
            folder,
            kind="corpus",
            per_shard=3,
            tokenizer_fingerprint="f",
            source="s",
            settings={},
            open_file=open_full_disk,
        )
    assert not (folder / "manifest.json").exists()
    assert not list(folder.glob("*.tmp-*"))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write tar shards to .*file/corpus: Not a directory"):
        write_corpus(tmp_path / "file" / "corpus", PASSAGES)


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no record to write; check the source \\(a test\\)"):
        write_corpus(tmp_path, [])


def test_no_records_per_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="per_shard=0 records in a tar shard; give at least 1"):
        write_corpus(tmp_path, PASSAGES, per_shard=0)


# What cannot be opened.


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder .*nowhere of corpus tar shards: run realm-ds prepare"):
        open_shards(tmp_path / "nowhere", kind="corpus", fingerprint=None)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no manifest.json and no tar shards: name a folder that realm-ds prepare"):
        open_shards(tmp_path, kind="corpus", fingerprint=None)
    (tmp_path / "shard-00000.tar").touch()
    with pytest.raises(DataError, match="no .*manifest.json: the folder was not written to its end; run realm-ds"):
        open_shards(tmp_path, kind="corpus", fingerprint=None)


def test_empty_corpus(folder: Path) -> None:
    edit_manifest(folder, lambda data: data.update(count=0, shards=[]))
    with pytest.raises(DataError, match="the corpus is empty \\(0 records\\); write it again from a source that has"):
        open_shards(folder, kind="corpus", fingerprint=None)


def test_shards_of_the_other_kind(folder: Path) -> None:
    with pytest.raises(DataError, match="holds corpus shards, not pretrain shards; name a folder of pretrain"):
        open_shards(folder, kind="pretrain", fingerprint=None)


def test_shards_of_another_tokenizer(folder: Path) -> None:
    with pytest.raises(DataError, match="made with tokenizer fingerprint, but the one given .* is other; use the"):
        open_shards(folder, kind="corpus", fingerprint="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format=99), "format 99, but this realm-ds reads 3"),
        (lambda data: data.pop("shards"), "a member is missing or wrong \\('shards'\\)"),
        (lambda data: data.pop("source"), "a member is missing or wrong"),
        (lambda data: data["shards"][0].pop("sha256"), "a member is missing or wrong"),
        (lambda data: data["shards"][0].update(count="3"), "a member is missing or wrong"),
        (lambda data: data["shards"][0].update(name=5), "a member is missing or wrong"),
        (
            lambda data: data["shards"][0].update(name="../../etc/passwd"),
            "'../../etc/passwd' is no name of a tar shard",
        ),
        (lambda data: data["shards"].pop(), "count is 7, but its shards hold 6"),
    ],
)
def test_damaged_manifest(folder: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit_manifest(folder, change)
    with pytest.raises(DataError, match=f"manifest.json: .*{message}.*; write the shards again"):
        open_shards(folder, kind="corpus", fingerprint=None)


def test_manifest_that_is_no_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="manifest.json: cannot be read .*; write the shards again"):
        open_shards(folder, kind="corpus", fingerprint=None)


def test_manifest_of_absurd_depth(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="manifest.json: cannot be read .*; write the shards again"):
        open_shards(folder, kind="corpus", fingerprint=None)


def test_missing_shard(folder: Path) -> None:
    (folder / "shard-00001.tar").unlink()
    with pytest.raises(DataError, match="no .*shard-00001.tar, though manifest.json lists it"):
        open_shards(folder, kind="corpus", fingerprint=None)


def test_cut_shard_is_seen_on_opening(folder: Path) -> None:
    path = folder / "shard-00001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(
        DataError, match="shard-00001.tar: \\d+ bytes, but manifest.json says \\d+: the file is damaged"
    ):
        open_shards(folder, kind="corpus", fingerprint=None)


def test_changed_byte_is_seen_on_reading(folder: Path) -> None:
    path = folder / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    corpus = open_shards(folder, kind="corpus", fingerprint=None)
    with pytest.raises(DataError, match="shard-00001.tar: sha256 is .{12}, but manifest.json says .{12}: the file is"):
        verify_shard(folder, corpus.manifest.shards[1])
    with pytest.raises(DataError, match="sha256"):
        list(corpus.passages())
    assert list(corpus.passages(0, 3)) == PASSAGES[:3]


def test_bad_record_is_named(folder: Path, tmp_path: Path) -> None:
    odd = dataclasses.replace(PASSAGES[4], body_ids=(), sentences=())
    corpus = write_corpus(tmp_path / "odd", [*PASSAGES[:4], odd])
    with pytest.raises(DataError, match="odd/shard-00001.tar, record 000000004: body_ids is empty"):
        list(corpus.passages())
    with pytest.raises(DataError, match="shard-00000.tar, record 000000000: the passage has 8 wordpieces"):
        list(open_shards(folder, kind="corpus", fingerprint=None).passages(max_tokens=7))


def test_record_that_is_no_json_is_named(folder: Path) -> None:
    path = folder / "shard-00001.tar"
    path.write_bytes(path.read_bytes().replace(b'{"uid":5', b'["uid":5'))
    corpus = open_shards(folder, kind="corpus", fingerprint=None)
    with pytest.raises(DataError, match="shard-00001.tar, record 000000004: not JSON .*; copy the file again or write"):
        list(corpus.passages(verify=False))


def test_range_outside_the_corpus(folder: Path) -> None:
    corpus = open_shards(folder, kind="corpus", fingerprint=None)
    with pytest.raises(DataError, match="corpus: records 0 to 8 of 7"):
        list(corpus.passages(0, 8))


def test_pretrain_shards(tmp_path: Path) -> None:
    examples = [make_example(number) for number in range(3)]
    write_shards(
        examples, tmp_path, kind="pretrain", per_shard=9, tokenizer_fingerprint="f", source="s", settings={"a": [1]}
    )
    shards = open_shards(tmp_path, kind="pretrain", fingerprint="f")
    assert (shards.count, shards.manifest.settings) == (3, {"a": [1]})
    assert list(shards.examples()) == examples


@given(total=st.integers(1, 500), num_shards=st.integers(1, 50))
def test_passage_ranges_are_equal_and_cover(total: int, num_shards: int) -> None:
    if num_shards > total:
        with pytest.raises(ConfigError, match=f"index.num_shards={num_shards} is more than the {total} passages"):
            passage_range(total, 0, num_shards)
        return
    ranges = [passage_range(total, shard, num_shards) for shard in range(num_shards)]
    assert [number for start, stop in ranges for number in range(start, stop)] == list(range(total))
    sizes = {stop - start for start, stop in ranges}
    assert max(sizes) - min(sizes) <= 1
