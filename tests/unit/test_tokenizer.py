"""The tokenizer's folder: what we read is what transformers reads, and damage is named."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.records import SpecialIds
from realm_ds.data.tokenizer import load_tokenizer, token_span, train_wordpiece
from realm_ds.errors import ConfigError, DataError

TEXTS = [
    "The capital of Algeria is Algiers.",
    "Cura\u00e7ao, capital. Name: Willemstad.",
    "Who is the chief of state of Peru?",
    "2,908 m above the sea, and 99% of it desert (since 1962) [CKD].",
] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_wordpiece(iter(TEXTS), vocab_size=300, folder=folder)
    return folder


def test_a_trained_tokenizer_reads_back_equal(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.special == SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert tokenizer.decode(tokenizer.encode("The CAPITAL of Cura\u00e7ao")) == "the capital of curacao"
    assert tokenizer.encode_all(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


HOSTILE = "The [MASK] of[SEP]Peru [CLS] is [PAD], [UNK]."


def test_special_tokens_in_a_text_are_text(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids, offsets = tokenizer.encode_with_offsets(HOSTILE)
    assert "".join(tokenizer.tokens(ids)).replace("##", "") == HOSTILE.lower().replace(" ", "")
    assert [HOSTILE[start:end] for start, end in offsets][1:3] == ["[", "M"]
    assert tokenizer.encode(HOSTILE) == tokenizer.encode_with_words(HOSTILE)[0] == ids
    assert tokenizer.encode_all([HOSTILE]) == [ids]
    assert tokenizer.encode_all_with_offsets([HOSTILE]) == [(ids, offsets)]


@given(st.lists(st.lists(st.sampled_from(["[MASK]", "[mask]", "capital", "Peru ", " ", "[", "]"])).map("".join)))
def test_but_in_a_question_a_mask_is_a_mask(folder: Path, questions: list[str]) -> None:
    """As transformers has it, and `tokenizers` unless it is told otherwise."""
    bare = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [encoding.ids for encoding in bare.encode_batch(questions, add_special_tokens=False)]
    assert load_tokenizer(folder).encode_questions(questions) == expected


def test_special_tokens_in_texts_that_a_vocabulary_is_trained_on_are_text(tmp_path: Path) -> None:
    hostile = ["[MASK] [SEP]mask sep"] * 5
    plain = [text.replace("[", " [ ").replace("]", " ] ").lower() for text in hostile]
    for name, texts in (("a", hostile), ("b", plain)):
        train_wordpiece(texts, vocab_size=200, folder=tmp_path / name)
    assert (tmp_path / "a/vocab.txt").read_bytes() == (tmp_path / "b/vocab.txt").read_bytes()


def test_offsets_point_into_the_text(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = "Name: Willemstad."
    ids, offsets = tokenizer.encode_with_offsets(text)
    span = token_span(offsets, 6, 16)
    assert span is not None
    assert ids[slice(*span)] == tokenizer.encode("Willemstad")
    assert token_span(offsets, 7, 7) is None
    assert tokenizer.encode_all_with_offsets([text]) == [(ids, offsets)]


def test_transformers_opens_the_folder_and_agrees(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    assert theirs("a", "b")["token_type_ids"][-1] == 1
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.special.pad, ours.special.mask)


def test_a_cased_tokenizer_keeps_capitals_and_accents(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    cased = train_wordpiece(TEXTS, vocab_size=300, folder=tmp_path, lowercase=False)
    assert cased.decode(cased.encode("The capital of Cura\u00e7ao")) == "The capital of Cura\u00e7ao"
    assert cased.fingerprint == load_tokenizer(tmp_path).fingerprint != load_tokenizer(folder).fingerprint
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert all(theirs(text, add_special_tokens=False)["input_ids"] == cased.encode(text) for text in TEXTS)


def test_capitals_in_a_vocabulary_alone_make_it_a_cased_one(folder: Path, tmp_path: Path) -> None:
    cased = train_wordpiece(TEXTS, vocab_size=300, folder=tmp_path, lowercase=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    assert load_tokenizer(tmp_path).fingerprint == cased.fingerprint
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    assert load_tokenizer(tmp_path).fingerprint == load_tokenizer(folder).fingerprint


def test_accents_are_kept_where_the_folder_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": False}))
    kept = load_tokenizer(tmp_path)
    assert kept.encode("\u00e7") == [kept.special.unk]  # whose vocabulary was made without
    kept.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == kept.fingerprint


def test_a_vocabulary_is_no_larger_than_asked_and_rare_letters_are_left_out(tmp_path: Path) -> None:
    texts = ["".join(map(chr, range(0x4E00, 0x4E00 + 500))), "common " * 9]
    tokenizer = train_wordpiece(texts, vocab_size=200, folder=tmp_path)
    assert tokenizer.vocab_size <= 200
    assert len(set(train_wordpiece(texts, vocab_size=2000, folder=tmp_path, max_alphabet=30).encode(texts[0]))) <= 30


def test_the_same_texts_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = train_wordpiece(iter(TEXTS), vocab_size=300, folder=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert again.fingerprint == load_tokenizer(folder).fingerprint


def test_another_vocabulary_has_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    assert (
        train_wordpiece(iter(TEXTS), vocab_size=110, folder=tmp_path).fingerprint != load_tokenizer(folder).fingerprint
    )


def test_a_folder_with_only_vocab_txt_opens_equal(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    old = load_tokenizer(tmp_path)
    assert old.fingerprint == load_tokenizer(folder).fingerprint
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(tmp_path).fingerprint != old.fingerprint


def test_no_tokenizer_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither tokenizer.json nor vocab.txt; name a folder that has one"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="the tokenizer cannot be read .* copy it again"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="a BPE tokenizer, but REALM's encoders are BERT-like"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_without_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nword\n")
    with pytest.raises(DataError, match=r"the vocabulary lacks \[PAD\], \[MASK\]; give a BERT-like tokenizer"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_too_large_for_uint16(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(65532))]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    with pytest.raises(DataError, match="65537 tokens, but tokens travel as uint16: at most 65536"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [50, 70000])
def test_a_vocabulary_size_that_cannot_be(size: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"vocab_size={size}: choose one from 105 to 65536"):
        train_wordpiece(iter(TEXTS), vocab_size=size, folder=tmp_path)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no words to train a vocabulary on"):
        train_wordpiece(iter([" "]), vocab_size=200, folder=tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the tokenizer to .*file.*choose another folder"):
        train_wordpiece(iter(TEXTS), vocab_size=200, folder=tmp_path / "file")
