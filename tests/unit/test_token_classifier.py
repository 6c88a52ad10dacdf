"""Named entities by a transformers model: a tiny one, whose weights are set so that a wordpiece decides its tag."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForTokenClassification

from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.errors import ConfigError
from realm_ds.models.tagger import BATCH_TOKENS, Tagger, Word, _batches
from realm_ds.prepare.spans import Span
from realm_ds.prepare.token_classifier import spans_of_tags, tagging_finder

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-DATE")
TAG_OF = {"anna": "B-PER", "lee": "I-PER", "peru": "B-LOC", "lima": "I-LOC", "may": "B-DATE", "##a": "B-LOC"}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TAG_OF, "met", "in", ".", "-"]


def make_model(folder: Path, *, longest: int = 64) -> Tokenizer:
    """A folder with tokenizer and model; the model passes each wordpiece on to its tag."""
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 512}')
    size = len(VOCABULARY)
    config = BertConfig(
        vocab_size=size, hidden_size=size, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
        max_position_embeddings=longest, id2label=dict(enumerate(TAGS)), label2id={t: n for n, t in enumerate(TAGS)},
    )  # fmt: skip
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for weight in model.bert.parameters():
            if weight.ndim == 2:
                weight.zero_()
        model.bert.embeddings.word_embeddings.weight.copy_(torch.eye(size))
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        for piece, token in enumerate(VOCABULARY):
            model.classifier.weight[TAGS.index(TAG_OF.get(token, "O")), piece] = 1.0
    model.save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tagger")
    make_model(path)
    return path


def test_entities_are_words_put_together(folder: Path) -> None:
    find = tagging_finder(folder)
    assert find(["Anna Lee met Peru-Lima in May.", "", "Lee, Peru Peru"]) == [
        [Span(0, 8, "PER"), Span(13, 17, "LOC"), Span(18, 22, "LOC")],
        [],
        [Span(0, 3, "PER"), Span(5, 9, "LOC"), Span(10, 14, "LOC")],
    ]
    assert find([]) == []
    assert tagging_finder(folder, entity_types=["DATE"])(["in May"]) == [[Span(3, 6, "DATE")]]
    with pytest.raises(ConfigError, match="--entity-types GPE: .* has no type GPE; choose from DATE, LOC, PER"):
        tagging_finder(folder, entity_types=["GPE"])


def test_a_word_is_tagged_as_its_first_wordpiece(folder: Path) -> None:
    """Limaa is "lima" and "##a", which alone would begin another place."""
    assert Tagger(folder).tag(["Limaa"]) == [[Word(0, 5, "I-LOC")]]


def test_a_text_longer_than_the_model_takes_is_tagged_piece_by_piece(tmp_path: Path) -> None:
    make_model(tmp_path, longest=9)  # five wordpieces beside [CLS] and [SEP]
    words = ["Anna", "Limaaaa", "met", "Peru", "in"] * 7
    text = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
    tags = [TAG_OF.get(word.lower()[:4], "O") for word in words]
    wanted = [Word(start, start + len(word), tag) for start, word, tag in zip(starts, words, tags, strict=True)]
    assert Tagger(tmp_path).tag(["Peru", text]) == [[Word(0, 4, "B-LOC")], wanted]


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from(["anna", "lee", "peru", "lima", "met", ".", "x"]), max_size=30), max_size=12))
def test_batches_and_their_order_change_nothing(folder: Path, texts: list[list[str]]) -> None:
    tagger = Tagger(folder)
    joined = [" ".join(words) for words in texts]
    assert tagger.tag(joined) == [tagger.tag([text])[0] for text in joined]


@given(st.lists(st.integers(1, 600), max_size=60))
def test_a_batch_is_not_too_large(lengths: list[int]) -> None:
    batches = list(_batches(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= BATCH_TOKENS


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("O B-A I-A O", ["1-2 A"]),
        ("I-A I-A I-B", ["0-1 A", "2-2 B"]),
        ("B-A B-A", ["0-0 A", "1-1 A"]),
        ("B-A E-A I-A", ["0-1 A", "2-2 A"]),
        ("B-A L-A U-A S-A", ["0-1 A", "2-2 A", "3-3 A"]),
        ("A A B O B", ["0-1 A", "2-2 B", "4-4 B"]),
        ("B-A O I-A", ["0-0 A", "2-2 A"]),
        ("X-A X-A", ["0-1 X-A"]),
    ],
)
def test_spans_of_tags(tags: str, wanted: list[str]) -> None:
    words = [(10 * number, 10 * number + 5, tag) for number, tag in enumerate(tags.split())]
    assert [f"{start // 10}-{end // 10} {kind}" for start, end, kind in spans_of_tags(words)] == wanted


def test_a_folder_without_such_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token-classification model of transformers"):
        tagging_finder(tmp_path)
