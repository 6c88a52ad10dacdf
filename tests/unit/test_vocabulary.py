"""Which documents a vocabulary is trained on: as many as were asked for, from everywhere, always the same ones."""

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from realm_ds.data.chance import fraction
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from realm_ds.errors import ConfigError, DataError
from realm_ds.prepare import vocabulary
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.vocabulary import check_is_free, make_tokenizer, sample_documents


def _documents(*sizes: int) -> list[Document]:
    return [
        Document(id=str(number), title="", text="x" * size, where=f"a:{number}") for number, size in enumerate(sizes)
    ]


def test_a_small_source_is_taken_whole() -> None:
    documents, tally = _documents(3, 4, 5), Tally()
    assert sample_documents(iter(documents), most_characters=12, tally=tally) == documents
    assert not tally.counts


@pytest.mark.parametrize("most", [100, 999, 5000])
def test_a_large_source_is_sampled_evenly(most: int) -> None:
    documents, tally = _documents(*(7 + number % 5 for number in range(2000))), Tally()
    sample = sample_documents(iter(documents), most_characters=most, tally=tally)
    by_limit = [_below(documents, 0.5**halvings) for halvings in range(20)]
    assert sample == next(part for part in by_limit if sum(document.num_characters for document in part) <= most)
    assert most / 3 < sum(document.num_characters for document in sample) <= most
    assert tally.counts == {vocabulary.NOT_SAMPLED: 2000 - len(sample)}


def _below(documents: list[Document], limit: float) -> list[Document]:
    return [document for place, document in enumerate(documents) if fraction(place, "vocabulary") < limit]


def test_a_giant_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "LONGEST_CHARACTERS", 10)
    tally = Tally()
    sample = sample_documents(_documents(5, 1000, 11), most_characters=99, tally=tally)
    assert [document.num_characters for document in sample] == [5, 10, 10]
    assert list(tally.first.values()) == ["a:1"]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_tokenizer_is_not_overwritten(tmp_path: Path, name: str, resume: bool) -> None:
    check_is_free(tmp_path, resume=resume)
    (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match="holds a tokenizer already, and data made with it would be lost"):
        check_is_free(tmp_path, resume=resume)


def test_a_stopped_job_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "journal.json").write_text('{"job": {}}')
    with pytest.raises(ConfigError, match="holds another job, which was stopped: name another folder"):
        check_is_free(tmp_path, resume=True)


JOB = {"source": "a", "settings": {"vocab_size": 120}}


def _make(folder: Path) -> Tokenizer:
    return train_wordpiece(["The capital of Peru is Lima."], vocab_size=120, folder=folder)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_tokenizer_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    made, was_done = make_tokenizer(tmp_path, JOB, partial(_make, tmp_path), resume=False)
    before = _content(tmp_path)
    assert (was_done, sorted(before)) == (
        False, ["made_from.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"],
    )  # fmt: skip
    again, was_done = make_tokenizer(tmp_path, JOB, lambda: pytest.fail("it is made again"), resume=True)
    assert (was_done, again.fingerprint) == (True, made.fingerprint)
    with pytest.raises(ConfigError, match="was begun otherwise: settings.vocab_size was 120 and is now 90; give what"):
        make_tokenizer(tmp_path, {**JOB, "settings": {"vocab_size": 90}}, partial(_make, tmp_path), resume=True)
    assert _content(tmp_path) == before
    for text, message in (
        ("{", "made_from.json: cannot be read .*; remove it"),
        ("[]", "does not say what the tokeni"),
    ):
        (tmp_path / "made_from.json").write_text(text)
        with pytest.raises(DataError, match=message):
            make_tokenizer(tmp_path, JOB, partial(_make, tmp_path), resume=True)


@pytest.mark.parametrize("stop", range(1, 9))
def test_a_tokenizer_that_was_cut_off_is_made_anew(tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tokenizer(tmp_path / "whole", JOB, partial(_make, tmp_path / "whole"), resume=False)
    out, fsync, calls = tmp_path / "out", os.fsync, iter(range(1, stop))

    def fsync_or_stop(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_or_stop)
        with pytest.raises(DataError, match="cannot write .*out: No space left on device; "):
            make_tokenizer(out, JOB, partial(_make, out), resume=False)
    if stop == 1:
        assert not out.exists()
    elif stop < 8:
        with pytest.raises(ConfigError, match="out: its tokenizer was not written to its end: go on with --resume"):
            check_is_free(out, resume=False)
    (_, was_done) = make_tokenizer(out, JOB, partial(_make, out), resume=True)
    assert was_done == (stop == 8)
    assert _content(out) == _content(tmp_path / "whole")


def test_a_tokenizer_of_transformers_becomes_one_of_ours(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    ours = train_wordpiece(["The capital of Peru is Lima."] * 3, vocab_size=200, folder=tmp_path / "a", lowercase=False)
    BertTokenizer.from_pretrained(tmp_path / "a", do_lower_case=False).save_pretrained(tmp_path / "theirs")
    load_tokenizer(tmp_path / "theirs").save(tmp_path / "b")
    assert (
        load_tokenizer(tmp_path / "theirs").fingerprint
        == ours.fingerprint
        == load_tokenizer(tmp_path / "b").fingerprint
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }
