"""Places of tar shards: folders, URLs through webdataset's gopen, and commands; what fails or is silent is named."""

import json
import os
import shlex
import time
from pathlib import Path
from subprocess import PIPE, Popen
from types import SimpleNamespace

import pytest

from realm_ds.data.places import Place
from realm_ds.data.shards import open_shards
from realm_ds.data.tar_reader import TarReader
from realm_ds.errors import ConfigError, DataError
from realm_ds.tether import lives
from tests.support.records import make_passage, write_corpus

PASSAGES = [make_passage(number) for number in range(7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", PASSAGES)
    return tmp_path / "corpus"


def command(text: str, folder: Path) -> str:
    return "pipe:" + text.replace("FOLDER", shlex.quote(str(folder)))


def test_a_command_gives_what_the_folder_holds(folder: Path) -> None:
    here = open_shards(folder, kind="corpus", fingerprint="fingerprint")
    there = open_shards(command("cat FOLDER/{name}", folder), kind="corpus", fingerprint="fingerprint")
    assert there.digest == here.digest
    assert list(there.passages()) == PASSAGES
    assert list(there.passages(2, 5)) == PASSAGES[2:5]


def test_a_url_is_opened_by_webdataset(folder: Path) -> None:
    there = open_shards(f"file://{folder}", kind="corpus", fingerprint=None)
    assert there.place.folder is None
    assert list(there.passages(0, 4)) == PASSAGES[:4]


def test_what_is_asked_of_a_url() -> None:
    asked: list[str] = []

    def opener(url: str) -> object:
        asked.append(url)
        raise OSError("nothing there")

    for place in ("https://host/corpus/", "gs://bucket/corpus"):
        with pytest.raises(DataError, match=r"cannot be opened \(nothing there\); mend the URL, or give a pipe:"):
            Place(place, opener=opener).open("shard-00001.tar")
    assert asked == ["https://host/corpus/shard-00001.tar", "gs://bucket/corpus/shard-00001.tar"]


def test_what_is_asked_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "aws"
    program.write_text("""#!/bin/sh\nprintf '%s, ' "$@"\n""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (
        Place("s3://bucket/my corpus").read("shard-00001.tar") == b"s3, cp, s3://bucket/my corpus/shard-00001.tar, -, "
    )


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(DataError, match="gopher://host/corpus/manifest.json: cannot be opened .*give a pipe: command"):
        open_shards("gopher://host/corpus", kind="corpus", fingerprint=None)


def test_a_command_that_gives_every_file_the_same_is_refused_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write \{name\} where .* as in 'pipe:ssh host cat /data/corpus/\{name\}'$"):
        Place(f"pipe:touch {tmp_path}/ran")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["x", "../manifest.json", "$(touch x)", "shard-00000.tar; ls", "shard-0.tar"])
def test_no_other_name_becomes_part_of_a_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Place("pipe:cat {name}").open(name)
    with pytest.raises(AssertionError):
        Place(tmp_path).open(name)


def test_a_shell_in_the_manifest_is_refused_before_it_is_run(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["name"] = f"shard-00000.tar; touch {tmp_path}/ran"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is no name of a tar shard"):
        list(open_shards(command("cat FOLDER/{name}", folder), kind="corpus", fingerprint=None).passages())
    assert not (tmp_path / "ran").exists()


def test_a_command_that_fails_at_once(folder: Path) -> None:
    place = command("exit 3 # {name}", folder)
    with pytest.raises(DataError, match=r"the command `exit 3 # manifest.json` ended with exit code 3"):
        open_shards(place, kind="corpus", fingerprint=None)


def test_a_command_that_fails_half_way(folder: Path) -> None:
    place = command("case {name} in *.tar) head -c 1500 FOLDER/{name}; exit 7;; *) cat FOLDER/{name};; esac", folder)
    shards = open_shards(place, kind="corpus", fingerprint=None)
    with pytest.raises(DataError, match=r"shard-00000.tar.*the command `.*` ended with exit code 7"):
        list(shards.passages())


def test_a_command_that_ends_early_without_a_word(folder: Path) -> None:
    place = command("case {name} in *.tar) head -c 1500 FOLDER/{name};; *) cat FOLDER/{name};; esac", folder)
    shards = open_shards(place, kind="corpus", fingerprint=None)
    with pytest.raises(DataError, match="shard-00000.tar.*ends after 1 of 3 records, at byte 1500"):
        list(shards.passages())


def test_other_bytes_than_the_manifest_says(folder: Path) -> None:
    shards = open_shards(command("cat FOLDER/{name}", folder), kind="corpus", fingerprint=None)
    path = folder / "shard-00001.tar"
    path.write_bytes(path.read_bytes().replace(b"text 4", b"text 5"))
    for verify in (True, False):
        with pytest.raises(DataError, match="shard-00001.tar: sha256 is .{12}, but the manifest says .{12}: the bytes"):
            list(shards.passages(verify=verify))
    assert list(shards.passages(0, 3)) == PASSAGES[:3]


def test_only_what_comes_from_elsewhere_is_read_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    one = TarReader.next

    def counted(reader: TarReader) -> bytes:
        read.append(reader.position)
        return one(reader)

    monkeypatch.setattr(TarReader, "next", counted)
    for place, positions in ((folder, [0, 1]), (command("cat FOLDER/{name}", folder), [0, 1, 2])):
        read.clear()
        assert list(open_shards(place, kind="corpus", fingerprint=None).passages(0, 2)) == PASSAGES[:2]
        assert read == positions


@pytest.mark.parametrize("begin", ["", "head -c 5 /dev/zero; "])
def test_a_command_that_gives_nothing_is_given_up_and_ended(begin: str) -> None:
    place = f"pipe:{begin}sleep 600 # {{name}}"
    with pytest.raises(
        DataError, match=rf"the command `{begin}sleep 600 # m.*` gave no byte within 0.05 seconds; find"
    ):
        open_shards(place, kind="corpus", fingerprint=None, timeout_s=0.05)
    file = Place(place, timeout_s=0.05).open("shard-00000.tar")
    with pytest.raises(DataError, match="runtime.wait_timeout_s"):
        file.read()
    assert_is_gone(file.raw._process.pid)  # type: ignore[attr-defined]


def test_a_command_that_gives_all_and_does_not_end_is_given_up() -> None:
    file = Place("pipe:echo {name}; exec sleep 600 >&-", timeout_s=0.05).open("shard-00000.tar")
    with pytest.raises(DataError, match="gave all its output, but did not end within 0.05 seconds"):
        file.read()
    assert_is_gone(file.raw._process.pid)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["yes", "yes | cat", "yes | cat | (sleep 600 & cat)"])
def test_a_file_that_is_left_in_the_middle_ends_all_of_its_command(text: str) -> None:
    file = Place(f"pipe:{text} # {{name}}").open("shard-00000.tar")
    file.read(10)
    group = file.raw._process.pid  # type: ignore[attr-defined]
    assert os.getpgid(group) == group
    file.close()
    assert_is_gone(group)


def test_a_command_does_not_get_our_input() -> None:
    with Place("pipe:readlink /proc/self/fd/0 # {name}").open("shard-00000.tar") as file:
        assert file.read() == b"/dev/null\n"


def test_a_program_that_gopen_started_is_named_without_what_it_was_told() -> None:
    def opener(url: str) -> object:
        process = Popen(["sh", "-c", "exit 22", "a password"], stdout=PIPE)
        return SimpleNamespace(proc=process, close=lambda: None)

    with pytest.raises(DataError) as error, Place("https://host/corpus", opener=opener).open("shard-00000.tar") as file:
        file.read()
    assert str(error.value) == "https://host/corpus/shard-00000.tar: the command `sh` ended with exit code 22"


def assert_is_gone(group: int) -> None:
    """A process group, zombies aside. Killed ones may take a moment."""
    deadline = time.monotonic() + 30
    while any(is_of(group, int(entry)) for entry in os.listdir("/proc") if entry.isdigit()):
        assert time.monotonic() < deadline, group


def is_of(group: int, pid: int) -> bool:
    try:
        return os.getpgid(pid) == group and lives(pid)
    except ProcessLookupError:
        return False
