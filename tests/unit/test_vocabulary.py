"""Which documents a vocabulary is trained on: as many as were asked for, from everywhere, always the same ones."""

from pathlib import Path

import pytest

from realm_ds.data.chance import fraction
from realm_ds.data.tokenizer import load_tokenizer, train_wordpiece
from realm_ds.errors import ConfigError
from realm_ds.prepare import vocabulary
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.vocabulary import check_is_free, sample_documents, take_tokenizer


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


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_tokenizer_is_not_overwritten(tmp_path: Path, name: str) -> None:
    check_is_free(tmp_path)
    (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match="holds a tokenizer already, and data made with it would be lost"):
        check_is_free(tmp_path)


def test_a_tokenizer_of_transformers_becomes_one_of_ours(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    ours = train_wordpiece(["The capital of Peru is Lima."] * 3, vocab_size=200, folder=tmp_path / "a", lowercase=False)
    BertTokenizer.from_pretrained(tmp_path / "a", do_lower_case=False).save_pretrained(tmp_path / "theirs")
    taken = take_tokenizer(tmp_path / "theirs", tmp_path / "b")
    assert taken.fingerprint == ours.fingerprint == load_tokenizer(tmp_path / "b").fingerprint
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }
