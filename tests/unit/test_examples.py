"""Passages and spans to examples: masks line up with the text, whatever the text."""

import itertools
import re
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer

from realm_ds.data.masking import mask_span
from realm_ds.data.records import Example, Passage, example_from_json, parse, passage_uid, record_bytes
from realm_ds.data.tokenizer import Tokenizer, load_tokenizer
from realm_ds.prepare.documents import Document, Tally
from realm_ds.prepare.examples import ALTERED, CUT, READ, UNKNOWN, WITHOUT, ExampleMaker, Unit
from realm_ds.prepare.packing import LEAST_TOKENS, make_passages
from realm_ds.prepare.spans import Span, apart

LETTERS = "abcdegiou149.,-'\"()[]mskp\u4e2d\u56fd\u1112\u1161\u11ab\u0915"
WORDS = ["cab", "a", "big", "dog", "1914", "##o", "##s", "##ad", "##19", "\u4e2d"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Knows some letters, also of other scripts, and some words: all else is [UNK]."""
    folder = tmp_path_factory.mktemp("tokenizer")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*special, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    return load_tokenizer(folder)


def passage_of(sentences: Sequence[str], tokenizer: Tokenizer, *, article: str = "12") -> Passage:
    ids = tokenizer.encode_all(sentences)
    ends = [0, *itertools.accumulate(map(len, ids))]
    text = " ".join(sentences)
    return Passage(
        uid=passage_uid("dog", text), title="dog", text=text, article=article, title_ids=(),
        body_ids=tuple(itertools.chain.from_iterable(ids)), sentences=tuple(itertools.pairwise(ends)),
    )  # fmt: skip


def make(
    passages: Sequence[Passage],
    spans: Sequence[list[Span]],
    tokenizer: Tokenizer,
    *,
    unit: Unit = "passage",
    of_corpus: bool = True,
) -> tuple[list[Example], Tally, list[str]]:
    """The examples, what was counted, and the sentences that the finder was given."""
    given_sentences: list[str] = []

    def find(sentences: Sequence[str]) -> list[list[Span]]:
        given_sentences.extend(sentences)
        assert len(sentences) == len(spans)
        return list(spans)

    tally = Tally()
    maker = ExampleMaker(tokenizer, find, unit=unit)
    return list(maker.make(passages, tally, of_corpus=of_corpus)), tally, given_sentences


def test_a_passage_is_one_example_of_all_its_sentences(tokenizer: Tokenizer) -> None:
    passage = passage_of(["A big dog.", "In 1914, a cab."], tokenizer)
    spans = [[Span(2, 9, "NAME")], [Span(3, 7, "DATE")]]
    (example,), tally, sentences = make([passage], spans, tokenizer)
    assert sentences == ["A big dog.", "In 1914, a cab."]
    assert (example.id, example.origin_uid) == (f"{passage.uid:016x}", passage.uid)
    assert (example.text, example.ids, example.sentences) == (passage.text, passage.body_ids, passage.sentences)
    assert [tokenizer.decode(example.ids[start:end]) for start, end in example.spans] == ["big dog", "1914"]
    assert example.origin_article == "12"
    assert tally.counts == {READ: 1, "spans of kind NAME": 1, "spans of kind DATE": 1}


def test_or_each_sentence_with_a_span_is_one(tokenizer: Tokenizer) -> None:
    passage = passage_of(["A cab.", "A big dog.", "In 1914, a cab."], tokenizer)
    spans = [[], [Span(2, 9, "NAME")], [Span(3, 7, "DATE"), Span(11, 14, "NAME")]]
    examples, _, _ = make([passage], spans, tokenizer, unit="sentence")
    assert [example.text for example in examples] == ["A big dog.", "In 1914, a cab."]
    assert [example.id for example in examples] == [f"{passage.uid:016x}/{number}" for number in (1, 2)]
    for example in examples:
        assert list(example.ids) == tokenizer.encode(example.text)
        assert example.sentences == ((0, len(example.ids)),)
        assert example.origin_uid == passage.uid
    words = [[tokenizer.decode(each.ids[start:end]) for start, end in each.spans] for each in examples]
    assert words == [["big dog"], ["1914", "cab"]]


def test_articles_of_another_source_are_not_those_of_the_corpus(tokenizer: Tokenizer) -> None:
    passage = passage_of(["A big dog."], tokenizer)
    (example,), _, _ = make([passage], [[Span(2, 9, "NAME")]], tokenizer, of_corpus=False)
    assert (example.origin_uid, example.origin_article) == (passage.uid, "")


@pytest.mark.parametrize(
    ("span", "reason"), [((3, 5), CUT), ((2, 4), CUT), ((7, 12), UNKNOWN), ((1, 2), CUT), ((0, 6), None)]
)
def test_what_is_no_whole_known_word_is_left_out(tokenizer: Tokenizer, span: tuple[int, int], reason: str) -> None:
    """Of "A dogs \u2603 dog.": a part of a word, a piece of one, an unknown one, nothing."""
    passage = passage_of(["A dogs \u2603 dog."], tokenizer)
    examples, tally, _ = make([passage], [[Span(*span, "NAME")]], tokenizer)
    if reason is None:
        assert [tokenizer.decode(examples[0].ids[start:end]) for start, end in examples[0].spans] == ["a dogs"]
    else:
        assert examples == []
        assert tally.counts == {READ: 1, reason: 1, WITHOUT: 1}


def test_a_passage_of_other_wordpieces_than_its_text_is_left_out(tokenizer: Tokenizer) -> None:
    good = passage_of(["A big dog."], tokenizer)
    bad = Passage(**{**vars(good), "text": "A big cab."})
    examples, tally, _ = make([bad, good], [[Span(2, 9, "NAME")]], tokenizer)
    assert [example.text for example in examples] == ["A big dog."]
    assert tally.counts[ALTERED] == 1
    assert tally.first == {ALTERED: f"{bad.uid:016x}, 'dog'"}


CHARACTERS = st.sampled_from(
    [*LETTERS, *"ACDO  ", "\u00e9", "\u00c9", "e\u0301", "\u0301", "\ud55c", "\u2603", "\u0000", "\u00ad", "\u200d",
     "\u3002", "\u00df", "\u0130", "\ufb01", "\u05d0", "\u0645", "\U0001f600", "[MASK]", "[SEP]"]
)  # fmt: skip
SENTENCE = (
    st.lists(CHARACTERS, max_size=12).map("".join)
    | st.lists(st.sampled_from(WORDS[:5]), max_size=5).map(" ".join)
    | st.text(max_size=8)
)


@given(st.lists(SENTENCE, min_size=1, max_size=4), st.data())
def test_masks_line_up(tokenizer: Tokenizer, sentences: list[str], data: st.DataObject) -> None:
    """What is masked is the very span, and only that: its wordpieces spell its text as the tokenizer normalises it."""
    sentences = [sentence.strip() for sentence in sentences if tokenizer.encode(sentence)]
    passage = passage_of(sentences, tokenizer)
    if not sentences or tokenizer.encode(passage.text) != list(passage.body_ids):
        return
    spans = []
    for sentence in sentences:
        cuts = st.lists(st.integers(0, len(sentence)), min_size=2, max_size=2).map(sorted)
        spans.append(apart(Span(*cut, "NAME") for cut in data.draw(st.lists(cuts, max_size=4))))
    examples, _, given_sentences = make([passage], spans, tokenizer)
    assert [tokenizer.encode(sentence) for sentence in given_sentences] == tokenizer.encode_all(sentences)
    wanted = brute_force(given_sentences, spans, tokenizer)
    assert [span for example in examples for span in example.spans] == wanted
    if not examples:
        return
    masked = {}
    for epoch in range(len(wanted)):
        result = mask_span(examples[0], special=tokenizer.special, query_tokens=999, max_masks=999, seed=1, epoch=epoch)
        assert result is not None
        hidden = [place for place, piece in enumerate(result.ids) if piece == tokenizer.special.mask]
        assert hidden == list(result.mask_positions)
        assert result.plain_ids in [passage.body_ids[first:last] for first, last in passage.sentences]
        masked[result.plain_ids, result.mask_positions] = "".join(tokenizer.tokens(result.targets))
    texts = [
        given[span.start : span.end]
        for given, of_sentence in zip(given_sentences, spans, strict=True)
        for span in of_sentence
    ]
    spelled = {"".join(BertNormalizer(lowercase=True).normalize_str(text).split()) for text in texts}
    assert {pieces.replace("##", "") for pieces in masked.values()} <= spelled


@given(text=st.lists(SENTENCE | st.sampled_from([". ", "\n", ", ", "A ", "\u3002", "; "]), max_size=8).map("".join))
@hypothesis.example(
    text="Caf\u00e9 and E\u0301cos, c\u00e1d's [MASK] \u4e2d\u56fd\u3002\u2603 big\u2603dog! A 1914-\u0130sts \u00dfug."
)
def test_masks_line_up_the_whole_way(tokenizer: Tokenizer, text: str) -> None:
    """Any text, cleaned, cut, packed, written, read and masked: the masks stand for one word, and all else is there."""
    given_sentences: list[str] = []

    def find_words(sentences: Sequence[str]) -> list[list[Span]]:
        given_sentences.extend(sentences)
        return [[Span(*word.span(), "NAME") for word in re.finditer(r"\w+", sentence)] for sentence in sentences]

    document = Document(id="1", title="dog", text=f"{text}\nA big dog.", where="w")
    passages = list(make_passages([document], tokenizer, max_tokens=LEAST_TOKENS, tally=Tally()))
    maker = ExampleMaker(tokenizer, find_words)
    num_masked = 0
    for made in maker.make(passages, Tally(), of_corpus=True):
        read = example_from_json(parse(record_bytes(made), where="w"), where="w")
        assert read == made
        for epoch in range(len(read.spans)):
            result = mask_span(
                read, special=tokenizer.special, query_tokens=LEAST_TOKENS, max_masks=99, seed=1, epoch=epoch
            )
            assert result is not None
            hidden = dict(zip(result.mask_positions, result.targets, strict=True))
            whole = (tokenizer.special.cls, *result.plain_ids, tokenizer.special.sep)
            assert [hidden.get(place, piece) for place, piece in enumerate(result.ids)] == list(whole)
            assert {piece for place, piece in enumerate(result.ids) if place in hidden} == {tokenizer.special.mask}
            num_before = min(hidden) - 1
            words = {
                word[0]
                for sentence in given_sentences
                if tokenizer.encode(sentence) == list(result.plain_ids)
                for word in re.finditer(r"\w+", sentence)
                if len(tokenizer.encode(sentence[: word.start()])) == num_before
            }
            spelled = {"".join(BertNormalizer(lowercase=True).normalize_str(word).split()) for word in words}
            assert "".join(tokenizer.tokens(result.targets)).replace("##", "") in spelled
            num_masked += 1
    assert num_masked >= 3


def brute_force(sentences: Sequence[str], spans: Sequence[list[Span]], tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Spans that fall into the wordpieces of what is before, in and behind them, tokenized one by one."""
    found, first = [], 0
    special = {0, 1, 2, 3, 4}
    for sentence, of_sentence in zip(sentences, spans, strict=True):
        ids = tokenizer.encode(sentence)
        for start, end, _ in of_sentence:
            before, inside, behind = (
                tokenizer.encode(part) for part in (sentence[:start], sentence[start:end], sentence[end:])
            )
            if [*before, *inside, *behind] == ids and inside and not special & set(inside):
                found.append((first + len(before), first + len(before) + len(inside)))
        first += len(ids)
    return found
