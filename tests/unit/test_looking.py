"""A question seen whole is what answering adds up: every number against the answers, and against a double loop."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest

from realm_ds.data.answers import normalise
from realm_ds.data.words import words_of
from realm_ds.eval import reading
from realm_ds.eval.answerer import RealmForQA
from realm_ds.eval.cloze import RealmForCloze
from realm_ds.eval.exported import open_export
from realm_ds.eval.looking import Looked, Read, Said
from realm_ds.eval.spans import Span
from realm_ds.eval.words import places_of_word
from realm_ds.models.qa import build_word_model
from realm_ds.observe.answers import Source
from tests.support.tiny_exports import SIZES, Exports, make_exports

STATEMENT = "the river of ghent is called [MASK]."
QUESTION = "what is the river of ghent called?"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return make_exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def cloze(exports: Exports) -> RealmForCloze:
    return RealmForCloze.from_pretrained(exports.cloze)


@pytest.fixture(scope="module")
def qa(exports: Exports) -> RealmForQA:
    return RealmForQA.from_pretrained(exports.qa)


def test_a_statement_seen_whole_adds_up_to_its_answers(cloze: RealmForCloze, exports: Exports) -> None:
    looked = cloze.look(STATEMENT, top=4)
    (answered,) = cloze.answer(STATEMENT, top=4)
    assert [p for _, p in looked.answers] == pytest.approx([answer.p for answer in answered.answers], rel=1e-5)
    assert [word for word, _ in looked.answers] == [answer.text.lower() for answer in answered.answers]
    assert sum(read.p for read in looked.read) == pytest.approx(1)
    assert [read.p for read in looked.read] == sorted((read.p for read in looked.read), reverse=True)
    for number, (word, p) in enumerate(looked.answers):
        assert [read.says[number].text for read in looked.read] == [word] * len(looked.read)
        assert sum(read.p * read.says[number].p for read in looked.read) == pytest.approx(p, rel=1e-5)
    texts = {passage.uid: passage.text for passage in exports.shards.passages()}
    for read in looked.read:
        assert [said.p for said in read.best] == sorted((said.p for said in read.best), reverse=True)
        for said in (*read.says, *read.best):
            for start, stop in said.spans:
                assert read.passage is not None
                assert texts[read.passage.uid][start:stop].lower() == said.text


def test_the_null_passage_is_one_of_them_and_what_utility_is_against(cloze: RealmForCloze) -> None:
    looked = cloze.look(STATEMENT)
    assert len(looked.read) == 1 + SIZES.read
    null = looked.null
    assert null is not None
    assert null.passage is None
    assert looked.utility(null, 0) is None
    for read in looked.read:
        if read.passage is not None:
            worth = math.log(read.says[2].p / null.says[2].p)
            assert looked.utility(read, 2) == pytest.approx(worth)


def test_every_occurrence_of_a_word_is_marked(exports: Exports) -> None:
    passage = replace(next(exports.shards.passages()), text="Ghent has a tower. Ghents tower is in ghent")
    passage = replace(passage, body_ids=tuple(exports.tokenizer.encode(passage.text)))
    ((ghent,),) = exports.tokenizer.encode_all(["ghent"])
    places = places_of_word(passage, ghent, tokenizer=exports.tokenizer, words=words_of(exports.tokenizer))
    assert [passage.text[start:stop] for start, stop in places] == ["Ghent", "ghent"]


def test_a_question_answered_by_a_word_adds_up_to_it(exports: Exports) -> None:
    realm = RealmForQA(
        open_export(exports.qa), build_word_model(copy.deepcopy(exports.realm)).answering("cpu")
    )  # fmt: skip
    looked, (answered,) = realm.look(QUESTION, top=4), realm.answer(QUESTION, top=4)
    assert [p for _, p in looked.answers] == pytest.approx([answer.p for answer in answered.answers], rel=1e-5)
    assert len(looked.read) == SIZES.read
    assert (looked.answer_by, looked.null) == ("masked_word", None)
    for number, (_, p) in enumerate(looked.answers):
        assert sum(read.p * read.says[number].p for read in looked.read) == pytest.approx(p, rel=1e-5)


def test_a_question_seen_whole_adds_up_to_its_answers(qa: RealmForQA, exports: Exports) -> None:
    looked = qa.look(QUESTION, top=4)
    (answered,) = qa.answer(QUESTION, top=4)
    assert looked.answers == tuple((answer.text, answer.p) for answer in answered.answers)
    assert (looked.answer_by, looked.null) == ("span", None)
    assert sum(read.p for read in looked.read) == pytest.approx(1)
    assert sum(read.weight for read in looked.read) == pytest.approx(1, rel=1e-5)
    by_uid = {read.passage.uid: read for read in looked.read if read.passage is not None}
    for number, answer in enumerate(answered.answers):
        read = by_uid[answer.passage.uid]
        assert read.p == pytest.approx(answer.p_passage)
        assert answer.span in read.says[number].spans
        assert read.weight * read.says[number].p == pytest.approx(answer.p, rel=1e-5)
        assert max(other.weight * other.says[number].p for other in looked.read) == pytest.approx(answer.p, rel=1e-5)
    for read in looked.read:
        assert looked.utility(read, 0) is None
        own = {normalise(said.text): said.p for said in read.best}
        for said in (*read.says, *read.best):
            assert (said.p > 0) == bool(said.spans)
            assert own.get(normalise(said.text), said.p) == said.p  # One number, wherever it is shown.


def test_of_spans_that_say_the_same_the_best_counts_and_of_one_not_looked_at_what_it_may_be(
    qa: RealmForQA, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passages "a b", "b a c a" and "c c" whose best spans are given, of which three are looked at."""
    (a, b, c) = (ids[0] for ids in exports.tokenizer.encode_all(["arlon", "brest", "ghent"]))
    texts, bodies = ("arlon brest", "brest arlon ghent arlon", "ghent ghent"), ((a, b), (b, a, c, a), (c, c))
    passages = {
        place: replace(passage, text=text, body_ids=body)
        for place, (passage, text, body) in enumerate(zip(exports.shards.passages(0, 3), texts, bodies, strict=True))
    }
    given = [
        (0, 0, 2, 0.3), (1, 1, 2, 0.2), (1, 3, 4, 0.1), (0, 0, 1, 0.06), (2, 0, 1, 0.05), (0, 1, 2, 0.04),
        (1, 0, 1, 0.03),
    ]  # fmt: skip
    p_passage = (0.4, 0.5, 0.1)
    spans = [
        Span(place=place, start=start, stop=stop, log_p=math.log(p), log_p_passage=math.log(p_passage[place]))
        for place, start, stop, p in given
    ]
    monkeypatch.setattr(reading, "read_spans", lambda *_, **__: [spans])
    monkeypatch.setattr(reading, "SPANS_OF_A_PASSAGE", 3)
    looked = reading.look(
        qa._model.reader, (), np.arange(3), np.zeros(3), passages, tokenizer=exports.tokenizer, sizes=SIZES, most=5
    )
    # No "brest" of the second passage: the best is part of "arlon brest" in the first.
    assert [(text, pytest.approx(p)) for text, p in looked.answers] == [
        ("arlon brest", 0.3), ("arlon", 0.2), ("ghent", 0.05),
    ]  # fmt: skip
    told = [[(round(said.p, 4), round(said.at_most, 4)) for said in read.says] for read in looked.read]
    assert told == [
        [(0.75, 0), (0.15, 0), (0, 0.1)],
        [(0, 0.06), (0.4, 0), (0, 0.06)],
        [(0, 0), (0, 0), (0.5, 0)],
    ]
    assert looked.read[1].says[1].spans == ((6, 11), (18, 23))


@pytest.mark.parametrize("question", ["", "no blank", "[MASK] and [MASK]", "\x00\x07", "\ud800 [MASK]", "a" * 100_001])
def test_what_cannot_be_asked_is_told_as_answering_does(cloze: RealmForCloze, question: str) -> None:
    looked = cloze.look(question)
    (answered,) = cloze.answer([question])
    assert looked == Looked(question=answered.question, problem=answered.problem)
    assert looked.problem


def test_what_was_not_read_is_told(qa: RealmForQA) -> None:
    (answered,) = qa.answer(["ghent " * 50])
    assert qa.look("ghent " * 50).remark == answered.remark != ""


def test_an_answer_that_a_passage_cannot_give_is_worth_nothing_to_compare() -> None:
    passage = Source(uid=1, title="t", text="x")
    says = (Said(text="x", p=0.0),)
    looked = Looked(
        question="q", answers=(("x", 0.0),),
        read=tuple(Read(passage=of, p=0.5, weight=0.5, says=says, best=()) for of in (passage, None)),
    )  # fmt: skip
    assert looked.utility(looked.read[0], 0) is None
