"""One tar shard: what the reader gives, and everything that it refuses, each by name."""

import hashlib
import io
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.tar_reader import TarReader
from realm_ds.errors import DataError

RECORDS = [b'{"uid":1}', b"x" * 512, b'{"uid":3}' * 99]


def archive_of(members: list[tuple[str, bytes]], *, format: int = tarfile.USTAR_FORMAT, **changes: Any) -> bytes:
    """A tar file of members; `changes` are made to the last of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for number, (name, data) in enumerate(members, start=1):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in changes.items() if number == len(members) else ():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return buffer.getvalue()


def numbered(records: list[bytes], *, first: int = 5) -> list[tuple[str, bytes]]:
    return [(f"{number:09d}.json", data) for number, data in enumerate(records, start=first)]


SHARD = archive_of(numbered(RECORDS))


def open_reader(data: bytes, **changes: Any) -> TarReader:
    facts = {"where": "a.tar", "first": 5, "count": 3, "num_bytes": len(data), "sha256": None, **changes}
    return TarReader(io.BytesIO(data), **facts)


def read_all(data: bytes, **changes: Any) -> list[bytes]:
    reader = open_reader(data, **changes)
    return [reader.next() for _ in range(changes.get("count", 3))]


@given(records=st.lists(st.binary(max_size=1500), min_size=1, max_size=5), first=st.integers(0, 10**9 - 9))
def test_gives_what_tarfile_gives(records: list[bytes], first: int) -> None:
    data = archive_of(numbered(records, first=first))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = [archive.extractfile(member).read() for member in archive]  # type: ignore[union-attr]
    sha256 = hashlib.sha256(data).hexdigest()
    assert read_all(data, first=first, count=len(records), sha256=sha256) == theirs == records


def test_owner_time_and_mode_do_not_matter() -> None:
    changes = {"mtime": 1_700_000_000, "uid": 1000, "uname": "someone", "mode": 0o600}
    assert read_all(archive_of(numbered(RECORDS), **changes)) == RECORDS


@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_skips(skipped: int) -> None:
    reader = open_reader(SHARD)
    reader.skip(skipped)
    assert reader.position == skipped
    assert reader.next() == RECORDS[skipped]


def with_name(name: str) -> bytes:
    return archive_of([*numbered(RECORDS[:2]), (name, RECORDS[2])])


def damaged_at(place: int, size: int) -> bytes:
    return SHARD[:place] + b"\xff" * size + SHARD[place + size :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends after 0 of 3 records, at byte 0"),
        (b"garbage" * 999, "the header of record 0 is damaged"),
        (SHARD[:300], "ends after 0 of 3 records, at byte 300"),
        (SHARD[:1024], "ends after 1 of 3 records, at byte 1024"),
        (SHARD[:1500], "ends after 1 of 3 records, at byte 1500"),
        (archive_of(numbered(RECORDS[:2])), "ends after 2 of 3 records"),
        (damaged_at(1024, 512), "the header of record 1 is damaged"),
        (damaged_at(1024 + 130, 1), "the header of record 1 is damaged"),
        (damaged_at(1024 + 50, 1), "the header of record 1 is damaged"),
        (archive_of(numbered([*RECORDS, b"{}"])), "something follows its 3 records"),
        (SHARD[:-512], f"{len(SHARD) - 512} bytes, but the manifest says {len(SHARD)}"),
        (SHARD + b"\0", f"{len(SHARD) + 1} bytes, but the manifest says {len(SHARD)}"),
        (with_name("../x.json"), "record 2 is named '../x.json', not '000000007.json'"),
        (with_name("/etc/passwd"), "record 2 is named '/etc/passwd', not"),
        (with_name("picture.png"), "record 2 is named 'picture.png', not"),
        (with_name("000000006.json"), "record 2 is named '000000006.json', not '000000007.json'"),
        (with_name("d/" * 60 + "000000007.json"), "record 2 is named '.*000000007.json', not"),
        (archive_of(numbered(RECORDS), type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a symbolic link, not a file"),
        (archive_of(numbered(RECORDS), type=tarfile.LNKTYPE, linkname="a"), "is a hard link, not a file"),
        (archive_of(numbered(RECORDS), type=tarfile.DIRTYPE), "'000000007.json/' is a folder, not a file"),
        (archive_of(numbered(RECORDS), type=tarfile.CHRTYPE), "is a device, not a file"),
        (archive_of(numbered(RECORDS), type=tarfile.FIFOTYPE), "is a pipe, not a file"),
        (archive_of(numbered(RECORDS), type=tarfile.GNUTYPE_SPARSE), "is a sparse file, not a file"),
        (archive_of(numbered(RECORDS), type=b"Z"), "is no member of a ustar archive, not a file"),
        (
            archive_of(numbered(RECORDS), format=tarfile.PAX_FORMAT, pax_headers={"path": "../x"}),
            "is a pax header, not a file",
        ),
        (archive_of(numbered(RECORDS), format=tarfile.GNU_FORMAT), "is no member of a ustar archive, not a file"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(
        DataError, match=f"a.tar: .*{message}.*; copy the file again or write the shards again"
    ) as caught:
        read_all(data, num_bytes=len(SHARD))
    assert "\n" not in str(caught.value)


def test_a_size_beyond_the_file_is_refused_before_memory_is_asked_for() -> None:
    header = tarfile.TarInfo("000000005.json")
    header.size = 8**11 - 1
    with pytest.raises(DataError, match="record 0 claims 8589934591 bytes, more than the file has"):
        read_all(header.tobuf(tarfile.USTAR_FORMAT))


def test_other_bytes_than_the_manifest_says() -> None:
    with pytest.raises(DataError, match="a.tar: sha256 is .{12}, but the manifest says abc: the bytes are damaged"):
        read_all(SHARD, sha256="abc")


def test_a_disk_that_fails() -> None:
    class Failing(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(5, "Input/output error")

    reader = TarReader(Failing(), where="a.tar", first=0, count=1, num_bytes=9)
    with pytest.raises(DataError, match="a.tar: cannot be read: Input/output error"):
        reader.next()


@given(place=st.integers(0, len(SHARD) - 1), value=st.integers(0, 255), cut=st.integers(0, len(SHARD)))
def test_no_damage_gives_anything_but_records_or_a_data_error(place: int, value: int, cut: int) -> None:
    damaged = (SHARD[:place] + bytes([value]) + SHARD[place + 1 :])[:cut]
    sha256 = hashlib.sha256(SHARD).hexdigest()
    try:
        assert read_all(damaged, num_bytes=len(SHARD), sha256=sha256) == RECORDS
    except DataError:
        assert damaged != SHARD


class Counted(io.BytesIO):
    """A file that counts the bytes taken from it, and may be one that cannot be sought in."""

    def __init__(self, data: bytes, *, seeks: bool = True) -> None:
        super().__init__(data)
        self.seeks, self.num_bytes = seeks, 0

    def seekable(self) -> bool:
        return self.seeks

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.num_bytes += len(data)
        return data


@given(
    records=st.lists(st.binary(max_size=1500), min_size=1, max_size=6), wanted=st.lists(st.integers(0, 5)),
    seeks=st.booleans(),
)  # fmt: skip
def test_records_are_found_again_where_they_lie_in_any_order(
    records: list[bytes], wanted: list[int], seeks: bool
) -> None:
    data, count = archive_of(numbered(records)), len(records)
    facts = {"where": "a.tar", "first": 5, "count": count, "num_bytes": len(data)}
    offsets = TarReader(Counted(data, seeks=seeks), **facts).offsets()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert offsets.tolist() == [member.offset for member in archive]
    reader = TarReader(io.BytesIO(data), **facts)
    for position in (number % count for number in wanted):
        reader.go_to(position, offset=offsets[position])
        assert reader.next() == records[position]


def test_no_more_than_the_headers_of_what_is_passed_over_is_read() -> None:
    data = archive_of(numbered([b"x" * 100_000] * 3))
    file = Counted(data)
    reader = TarReader(file, where="a.tar", first=5, count=3, num_bytes=len(data))
    reader.skip(2)
    assert file.num_bytes == 2 * (512 + 1)
    assert reader.next() == b"x" * 100_000


@pytest.mark.parametrize("seeks", [False, True])
def test_what_is_passed_over_is_missed_where_it_is_not_whole(seeks: bool) -> None:
    for length, num_records in ((1024, 1), (1500, 1), (2000, 1), (2048, 2), (len(SHARD) - 512, 3)):
        reader = TarReader(Counted(SHARD[:length], seeks=seeks), where="a.tar", first=5, count=3, num_bytes=len(SHARD))
        with pytest.raises(DataError, match=f"a.tar: (ends after {num_records} of 3 records|.*but the manifest says)"):
            reader.skip(3)


def test_a_record_that_does_not_lie_where_it_is_said_to() -> None:
    reader = open_reader(SHARD)
    reader.go_to(1, offset=0)
    with pytest.raises(DataError, match="record 1 is named '000000005.json', not '000000006.json'"):
        reader.next()
