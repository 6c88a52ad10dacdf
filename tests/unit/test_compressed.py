"""Compressed files: every byte of whole ones, and never a part of one taken for all of it."""

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from realm_ds.prepare import compressed
from realm_ds.prepare.compressed import STDIN, Damaged, InputFile


def _zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _zstd,
}
TEXT = b"".join(b"%d times %d\n" % (number, number * 7919) for number in range(3000))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "BLOCK_BYTES", 1000)


def _input(folder: Path, data: bytes, *, name: str) -> InputFile:
    (folder / name).write_bytes(data)
    return InputFile(folder / name, name=name)


@pytest.mark.parametrize("ending", COMPRESS)
def test_whole_files_by_their_name_or_their_first_bytes(tmp_path: Path, ending: str) -> None:
    data = COMPRESS[ending](TEXT)
    for name in (f"a{ending}", "a.jsonl"):
        file = _input(tmp_path, data, name=name)
        assert b"".join(file.blocks()) == TEXT
        assert file.bytes_read == file.num_bytes == len(data)


@pytest.mark.parametrize("ending", COMPRESS)
def test_streams_one_behind_the_other_are_one_text(tmp_path: Path, ending: str) -> None:
    compress = COMPRESS[ending]
    file = _input(tmp_path, compress(TEXT[:999]) + compress(b"") + compress(TEXT[999:]), name=f"a{ending}")
    assert b"".join(file.blocks()) == TEXT


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("streams", [1, 2])
def test_a_file_cut_off_anywhere_gives_what_was_whole_and_says_so(tmp_path: Path, ending: str, streams: int) -> None:
    data = COMPRESS[ending](TEXT)
    for kept in (0, 1, 3, len(data) // 2, len(data) - 5, len(data) - 1)[streams - 1 :]:
        file = _input(tmp_path, data * (streams - 1) + data[:kept], name=f"a{ending}")
        blocks: list[bytes] = []
        with pytest.raises(Damaged, match=rf"a\{ending} is (cut off|damaged)"):
            blocks.extend(file.blocks())
        found = b"".join(blocks)
        assert (TEXT * streams).startswith(found)
        assert len(found) >= len(TEXT) * (streams - 1) - compressed.BLOCK_BYTES


@pytest.mark.parametrize("ending", COMPRESS)
def test_garbage_behind_the_end(tmp_path: Path, ending: str) -> None:
    with pytest.raises(Damaged, match="damaged within its first"):
        list(_input(tmp_path, COMPRESS[ending](TEXT) + b"garbage", name=f"a{ending}").blocks())


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])  # Arrow writes zstd without a sum
def test_flipped_bytes(tmp_path: Path, ending: str) -> None:
    data = bytearray(COMPRESS[ending](TEXT))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(Damaged, match="damaged within its first"):
        list(_input(tmp_path, data, name=f"a{ending}").blocks())


def test_padding_behind_a_stream_is_no_damage(tmp_path: Path) -> None:
    file = _input(tmp_path, gzip.compress(TEXT) + bytes(3000), name="a.gz")
    assert b"".join(file.blocks()) == TEXT


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_bomb_comes_in_blocks(tmp_path: Path, ending: str) -> None:
    file = _input(tmp_path, COMPRESS[ending](bytes(300_000)), name=f"a{ending}")
    sizes = [len(block) for block in file.blocks()]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 1000


def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_RECORD_BYTES", 2500)
    lines = [b"a", b"", b"b" * 2500, b"c" * 2501, b"d" * 9999, b"e\r", b"f" * 1000, b"g"]
    expected = [None if len(line) > 2500 else line for line in lines]
    for end in (b"", b"\n"):
        assert list(_input(tmp_path, b"\n".join(lines) + end, name="a").lines()) == expected
    assert list(_input(tmp_path, b"x\n" + b"d" * 9999, name="a").lines()) == [b"x", None]
    assert list(_input(tmp_path, b"", name="a").lines()) == []


def test_byte_order_marks(tmp_path: Path) -> None:
    assert list(_input(tmp_path, b"\xef\xbb\xbfone\ntwo", name="a").lines()) == [b"one", b"two"]
    with pytest.raises(Damaged, match="a is UTF-16 text; save it as UTF-8"):
        list(_input(tmp_path, "one".encode("utf-16"), name="a").lines())


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT))))
    file = InputFile(STDIN, name="stdin")
    assert file.num_bytes is None
    assert b"".join(file.blocks()) == TEXT


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"a cannot be read \(No such file or directory\)"):
        list(InputFile(tmp_path / "a", name="a").blocks())
