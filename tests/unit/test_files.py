"""Files are whole or not there: an older one stays, and nothing half-written is left."""

import socket
from pathlib import Path
from typing import BinaryIO

import pytest

from realm_ds.files import durable, publish_folder, recover_folder, write_durably


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_and_folders_made(tmp_path: Path) -> None:
    write_durably(tmp_path / "a" / "b" / "text", "né\n")
    write_durably(tmp_path / "a" / "b" / "text", "näher\n")
    write_durably(tmp_path / "a" / "b" / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "näher\n".encode()
    assert (tmp_path / "a" / "b" / "bytes").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "a" / "b") == ["bytes", "text"]


def test_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    def full_disk(path: Path) -> BinaryIO:
        path.touch()
        return Path("/dev/full").open("wb")

    write_durably(tmp_path / "kept", "older")
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "kept", "newer", open_file=full_disk)
    assert (tmp_path / "kept").read_text() == "older"
    assert names(tmp_path) == ["kept"]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    def write_half() -> None:
        with durable(tmp_path / "vectors") as handle:
            handle.write(b"half of it")
            assert not (tmp_path / "vectors").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == []


def test_two_hosts_write_one_file_by_processes_of_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with durable(tmp_path / "config") as handle:
        handle.write(b"of the slower")
        monkeypatch.setattr(socket, "gethostname", lambda: "another")
        write_durably(tmp_path / "config", "of the quicker")
        assert (tmp_path / "config").read_text() == "of the quicker"
    assert (tmp_path / "config").read_text() == "of the slower"
    assert names(tmp_path) == ["config"]


def folder_with(path: Path, text: str) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text(text)
    return path


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("older", "newer"):
        publish_folder(folder_with(tmp_path / "new", text), tmp_path / "final")
        assert names(tmp_path) == ["final"]
        assert (tmp_path / "final" / "deep" / "file").read_text() == text


@pytest.mark.parametrize("is_named", [True, False])
def test_a_folder_whose_replacing_was_cut_short_is_there_again(tmp_path: Path, is_named: bool) -> None:
    folder_with(tmp_path / "replaced-final", "older")
    if is_named:
        folder_with(tmp_path / "final", "newer")
    recover_folder(tmp_path / "final")
    assert names(tmp_path) == ["final"]
    assert (tmp_path / "final" / "deep" / "file").read_text() == ("newer" if is_named else "older")
    recover_folder(tmp_path / "final")
    recover_folder(tmp_path / "never-was")
    assert names(tmp_path) == ["final"]
