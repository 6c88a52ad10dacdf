"""What tar shards hold, and all that is wrong with them, told at once."""

import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from realm_ds.data.records import Example, Passage
from realm_ds.data.shard_writer import write_shards
from realm_ds.data.tokenizer import Tokenizer, train_wordpiece
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare import inspect as module
from realm_ds.prepare.inspect import InspectOptions, as_json, find_target, find_tokenizer, inspect, pieces_of
from realm_ds.prepare.inspect_shard import MOST_FAULTS
from realm_ds.prepare.job import run_job
from realm_ds.prepare.plots import draw_lengths
from tests.support.jobs import chunks, output, start_failing
from tests.support.records import make_example, make_passage, write_corpus

TEXT = "Lima is the capital of Peru. It lies by the sea."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_wordpiece([TEXT] * 3, vocab_size=150, folder=tmp_path_factory.mktemp("tokenizer"))


def _passages(count: int) -> list[Passage]:
    return [make_passage(number, num_sentences=1 + number % 3) for number in range(count)]


def _counts(lengths: list[int]) -> dict[int, int]:
    return dict(sorted(Counter(lengths).items()))


@pytest.mark.parametrize("workers", [0, 2])
def test_lengths_are_those_of_every_record(tmp_path: Path, workers: int) -> None:
    passages = _passages(11)
    write_corpus(tmp_path, passages)
    steps: list[tuple[int, int]] = []
    view = inspect(
        find_target(tmp_path), InspectOptions(samples=0), workers=workers, on_progress=lambda *step: steps.append(step)
    )  # fmt: skip
    assert {distribution.name: distribution.counts for distribution in view.distributions} == {
        "wordpieces of a passage": _counts([3 + len(p.title_ids) + len(p.body_ids) for p in passages]),
        "sentences of a passage": _counts([len(p.sentences) for p in passages]),
        "wordpieces of a sentence": _counts([end - start for p in passages for start, end in p.sentences]),
    }
    assert steps == [(done, 4) for done in (1, 2, 3, 4)]
    assert view.facts["passages"].startswith("11 in 4 tar shards, ")
    assert (view.facts["source"], view.faults, view.samples) == ("a test", None, ())


def _write_examples(folder: Path, examples: list[Example], *, fingerprint: str = "f") -> None:
    write_shards(
        examples, folder, kind="pretrain", per_shard=2, tokenizer_fingerprint=fingerprint, source="s",
        settings={
            "seed": 3000, "of": [], "kinds": ["DATE", "NAME"], "dates": True, "counts": {"texts": 1000, "bad": 1},
            "first": {"bad": "a:7"},
        },
    )  # fmt: skip


def test_lengths_of_examples_and_their_spans(tmp_path: Path) -> None:
    other = make_example(1, num_tokens=8, spans=((0, 1), (2, 6)))
    _write_examples(tmp_path, [make_example(0), replace(other, origin_article="a7")])
    view = inspect(find_target(tmp_path), InspectOptions(samples=9))
    assert {distribution.name: distribution.counts for distribution in view.distributions} == {
        "wordpieces of an example": {6: 1, 8: 1}, "sentences of an example": {1: 2},
        "salient spans of an example": {1: 1, 2: 1}, "wordpieces of a sentence": {6: 1, 8: 1},
        "wordpieces of a span": {1: 1, 2: 1, 4: 1},
    }  # fmt: skip
    told = {"seed": "3,000", "kinds": "DATE, NAME", "dates": "yes", "texts": "1,000", "bad": "1 (first: a:7)"}
    assert dict(list(view.facts.items())[4:]) == told
    assert [sample.name for sample in view.samples] == [
        "shard-00000.tar, record 000000000: x0, of passage 1",
        "shard-00000.tar, record 000000001: x1, of passage 2, of article a7",
    ]  # fmt: skip
    assert view.samples[1].remark == "spans as wordpieces: 0-1, 2-6; --tokenizer shows them in the text"


def test_samples_are_drawn_by_the_seed_from_all(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(40))
    drawn = {
        seed: [sample.name for sample in inspect(find_target(tmp_path), InspectOptions(samples=3, seed=seed)).samples]
        for seed in range(12)
    }
    assert all(len(set(names)) == 3 and names == sorted(names) for names in drawn.values())
    assert len({tuple(names) for names in drawn.values()}) > 8
    again = inspect(find_target(tmp_path), InspectOptions(samples=3, seed=5))
    assert [sample.name for sample in again.samples] == drawn[5]
    for sample in again.samples:
        number = int(sample.name.split("record ")[1].split(":")[0])
        assert sample.sentences == (((f"text {number}", False),),)
        assert sample.name.endswith(f": title {number}")


def test_of_many_shards_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS_AT_FIRST", 7)
    write_corpus(tmp_path, _passages(30))
    target = find_target(tmp_path)
    assert inspect(target, InspectOptions(samples=1)).facts["looked at"] == "9 of them"
    for asked in (InspectOptions(every_record=True), InspectOptions(check=True), InspectOptions(duplicates=True)):
        assert "looked at" not in inspect(target, asked).facts


def test_spans_in_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    end = tokenizer.decode(ids).split().index("peru.") + 2  # and its full stop
    lines = pieces_of(TEXT, ids, ((0, end), (end, len(ids))), ((0, 1), (end - 2, end - 1)), tokenizer)
    assert lines == (
        (("Lima", True), (" is the capital of ", False), ("Peru", True), (".", False)),
        (("It lies by the sea.", False),),
    )
    lines = pieces_of("another text", ids, ((0, end),), ((0, 1), (end - 2, end - 1)), tokenizer)
    assert "".join(text for text, _ in lines[0]).split() == ["lima", "is", "the", "capital", "of", "peru", "."]
    assert [text for text, is_salient in lines[0] if is_salient] == ["lima", "peru"]


def test_the_tokenizer_that_lies_beside(tmp_path: Path, tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode(TEXT))
    example = replace(make_example(0), text=TEXT, ids=ids, sentences=((0, len(ids)),), spans=((0, 1),))
    _write_examples(tmp_path / "pretrain", [example], fingerprint=tokenizer.fingerprint)
    target = find_target(tmp_path / "pretrain")
    assert find_tokenizer(target, None) is None
    other = train_wordpiece(["something else"], vocab_size=150, folder=tmp_path / "tokenizer")
    assert find_tokenizer(target, None) is None
    message = f"made with tokenizer {tokenizer.fingerprint[:12]}, but that of .* is {other.fingerprint[:12]}; name the"
    with pytest.raises(DataError, match=message):
        find_tokenizer(target, tmp_path / "tokenizer")
    tokenizer.save(tmp_path / "tokenizer")
    for given in (None, tmp_path / "tokenizer"):
        (sample,) = inspect(target, InspectOptions(), tokenizer=find_tokenizer(target, given)).samples
        assert sample.sentences[0][0] == ("Lima", True)


def test_one_shard_with_a_manifest_and_without(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(7))
    shard = tmp_path / "shard-00001.tar"
    view = inspect(find_target(shard), InspectOptions(check=True))
    assert (view.facts["passages"], view.faults) == ("3", ())
    shard.rename(tmp_path / "alone.tar")
    view = inspect(find_target(tmp_path / "alone.tar"), InspectOptions(check=True))
    assert (view.facts["passages"], view.faults) == ("3", ())


def test_what_is_elsewhere_is_looked_at_like_a_folder_here(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(30))
    there = find_target(_elsewhere(tmp_path))
    for asked in (InspectOptions(seed=3), InspectOptions(check=True), InspectOptions(duplicates=True)):
        here, elsewhere = inspect(find_target(tmp_path), asked), inspect(there, asked, workers=2 * asked.check)
        assert (elsewhere.samples, elsewhere.distributions) == (here.samples, here.distributions)
        assert (elsewhere.duplicates, elsewhere.faults) == (here.duplicates, here.faults)
        assert elsewhere.facts["passages"] == here.facts["passages"]
        assert ("not checked" in elsewhere.facts, "not checked" in here.facts) == (asked.check, False)
    assert find_tokenizer(there, None) is None


def test_faults_of_what_is_elsewhere(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(12))
    shards = [tmp_path / f"shard-{number:05d}.tar" for number in range(4)]
    shards[0].unlink()
    _flip(shards[1], at=shards[1].read_bytes().index(b"text 3"))
    shards[2].write_bytes(shards[2].read_bytes() + bytes(512))
    view = inspect(find_target(_elsewhere(tmp_path)), InspectOptions(check=True, samples=1))
    assert view.faults is not None
    name = f"pipe:cat '{tmp_path}'/shard-0000"
    wanted = [
        f"{name}0.tar: the command `cat '{tmp_path}'/shard-00000.tar` ended with exit code 1",
        f"{name}0.tar: holds 0 records, but its manifest says 3",
        f"{name}1.tar: sha256 is ",
        f"{name}2.tar: 10752 bytes, but manifest.json says 10240: it is damaged; copy the file again or",
    ]
    assert [fault[: len(start)] for fault, start in zip(view.faults, wanted, strict=True)] == wanted


def test_one_shard_elsewhere_is_looked_at_with_its_folder() -> None:
    with pytest.raises(DataError, match="whole folders are looked at: name s3://b/corpus, or copy the shard here"):
        find_target("s3://b/corpus/shard-00000.tar")


def _elsewhere(folder: Path) -> str:
    return f"pipe:cat '{folder}'/{{name}}"


def test_a_job_that_is_not_finished_says_how_far_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="number 20 cannot be read"):
        run_job(
            chunks(), partial(start_failing, 20, "error"), output=output(tmp_path / "out"), workers=0, resume=False
        )  # fmt: skip
    num_done = len(list((tmp_path / "out").glob("shard-*.tar")))
    said = f"out is not finished, tar shards done: {num_done}; wait for .* the same command with --resume"
    with pytest.raises(DataError, match=said):
        find_target(tmp_path / "out")


def test_what_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not there: name a folder of tar shards, or one of them"):
        find_target(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no manifest.json and no tar shards: name a folder that realm-ds prepare"):
        find_target(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"nonsense" * 100)
    with pytest.raises(DataError, match="a.tar: not a whole tar file"):
        find_target(tmp_path / "a.tar")
    _rewrite(tmp_path / "b.tar", [("0.json", b"{}")])
    with pytest.raises(DataError, match="b.tar: its first record is neither a passage nor an example of this version"):
        find_target(tmp_path / "b.tar")


def _rewrite(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_all_faults_are_told_not_only_the_first(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(24))
    shards = [tmp_path / f"shard-{number:05d}.tar" for number in range(8)]
    good = json.dumps(vars(_passages(1)[0])).encode()
    shards[0].unlink()
    _flip(shards[1], at=shards[1].read_bytes().index(b"text 3"))
    with tarfile.open(shards[2]) as archive:
        end = 512 + archive.getmembers()[0].size
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    bad = [("../000000009.json", good), ("000000010.json", b"{"), ("000000011.json", b'{"uid": -1}')]
    _rewrite(shards[3], bad)
    _rewrite(shards[4], [("000000012.json", good)])
    shards[5].write_bytes(b"nonsense")
    (tmp_path / "shard-00009.tar").write_bytes(b"")
    (tmp_path / "copy.tar").write_bytes(b"")
    view = inspect(find_target(tmp_path), InspectOptions(check=True, samples=100))
    assert view.faults is not None
    told = [fault.replace(f"{tmp_path}/", "") for fault in view.faults]
    wanted = [
        "copy.tar: a file that the manifest does not list",
        "shard-00009.tar: a tar shard that the manifest does not list",
        "shard-00000.tar: is not there, though the manifest lists it",
        "shard-00001.tar: sha256 is ",
        "shard-00002.tar: 1000 bytes, but manifest.json says ",
        "shard-00002.tar: not a whole tar file (unexpected end of data)",
        "shard-00002.tar: holds 1 record, but its manifest says 3; "
        f"reading stopped behind record 000000006.json, at byte {end:,}",
        "shard-00003.tar: ",
        "shard-00003.tar, record ../000000009.json: should be named 000000009.json",
        "shard-00003.tar, record 000000010.json: is no JSON (",
        "shard-00003.tar, record 000000011.json: ",
        "shard-00004.tar: ",
        "shard-00004.tar: holds 1 record, but its manifest says 3",
        "shard-00005.tar: 8 bytes, but manifest.json says ",
        "shard-00005.tar: not a whole tar file (",
        "shard-00005.tar: holds 0 records, but its manifest says 3",
    ]
    assert [fault[: len(start)] for fault, start in zip(told, wanted, strict=True)] == wanted
    assert len(view.samples) == 3 + 1 + 1 + 1 + 6  # all that can be read
    assert as_json(view)["faults"] == list(view.faults)


def _flip(path: Path, *, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_faults_of_one_shard_are_not_told_without_end(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(100), per_shard=100)
    _rewrite(tmp_path / "shard-00000.tar", [(f"{number:09d}.json", b"[]") for number in range(100)])
    view = inspect(find_target(tmp_path), InspectOptions(check=True))
    assert view.faults is not None
    assert len(view.faults) == MOST_FAULTS + 1
    assert view.faults[-1] == f"{tmp_path}/shard-00000.tar: and 81 faults more"


def test_a_fault_that_is_met_is_told_without_being_asked(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(4))
    assert inspect(find_target(tmp_path), InspectOptions()).faults is None
    (tmp_path / "shard-00001.tar").unlink()
    assert inspect(find_target(tmp_path), InspectOptions()).faults == (
        f"{tmp_path}/shard-00001.tar: is not there, though the manifest lists it",
    )


def test_duplicates_are_those_that_brute_force_finds(tmp_path: Path) -> None:
    texts = ["One.", "two", "One.", "the one", "ONE", "two", "three", "One.", ""]
    passages = [replace(passage, text=text) for passage, text in zip(_passages(9), texts, strict=True)]
    write_corpus(tmp_path, passages)
    lines = inspect(find_target(tmp_path), InspectOptions(duplicates=True)).duplicates
    assert lines[0] == "3 of 9 records have the same text as an earlier one"  # One. One. two
    words = "5 of 9 records have the same words (case, punctuation, articles aside) as an earlier one"
    place = lines.index(words)
    shown = [line.split("record ")[1] for line in lines[1:place]]
    assert sorted(shown) == [
        "000000000: title 0: One.", "000000001: title 1: two", "000000002: title 2: One.", "000000005: title 5: two",
    ]  # fmt: skip
    assert len(lines) == place + 5


def test_a_plot(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(4))
    view = inspect(find_target(tmp_path), InspectOptions())
    draw_lengths(tmp_path / "plots" / "a.png", view.distributions, title="corpus")
    draw_lengths(tmp_path / "plots" / "b.png", view.distributions, title="corpus")
    data = (tmp_path / "plots" / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "plots" / "b.png").read_bytes()
    with pytest.raises(ConfigError, match=r"a.xyz: .*; end its name in .png, .pdf or .svg"):
        draw_lengths(tmp_path / "a.xyz", view.distributions, title="corpus")


def test_a_member_that_claims_more_than_there_is_room_for_is_no_record(tmp_path: Path) -> None:
    write_corpus(tmp_path, _passages(1))
    shard = tmp_path / "shard-00000.tar"
    with tarfile.open(shard, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("000000000.json")
        member.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(member)
    _patch_sparse_size(shard, 2**42)
    view = inspect(find_target(tmp_path), InspectOptions(check=True))
    assert view.faults is not None
    assert any("is no JSON" in fault for fault in view.faults)


def _patch_sparse_size(path: Path, size: int) -> None:
    """Say in a GNU sparse header that the file it stands for is so large, a hole from end to end."""
    data = bytearray(path.read_bytes())
    data[386:398] = data[398:410] = bytes(12)
    data[483:495] = bytes([0x80, *bytes(3), *size.to_bytes(8, "big")])
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
