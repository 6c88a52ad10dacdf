"""Inverse cloze: a sentence against the passage it was taken from."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from realm_ds.data.ict import IctExample, IctSettings, ict_batches, ict_example
from realm_ds.data.records import Passage
from realm_ds.data.redeal import StreamState
from realm_ds.data.stream import PassageStream
from realm_ds.errors import DataError
from tests.support.records import make_passage, write_corpus

PASSAGE = make_passage(4, num_sentences=3, sentence_tokens=2)


def test_the_sentence_is_removed() -> None:
    examples = {ict_example(PASSAGE, settings=IctSettings(mask_rate=1.0), seed=0, epoch=epoch) for epoch in range(40)}
    kept = {(100, 101): (102, 103, 104, 105), (102, 103): (100, 101, 104, 105), (104, 105): (100, 101, 102, 103)}
    assert examples == {
        IctExample(
            uid=5,
            article="article 4",
            query_ids=query_ids,
            title_ids=(14,),
            body_ids=body_ids,
            is_masked=True,
        )
        for query_ids, body_ids in kept.items()
    }


def test_the_sentence_stays() -> None:
    example = ict_example(PASSAGE, settings=IctSettings(mask_rate=0.0), seed=0, epoch=0)
    assert example is not None
    assert not example.is_masked
    assert example.body_ids == PASSAGE.body_ids


def test_mask_rate_and_sentences_are_fair() -> None:
    passages = [make_passage(number, num_sentences=3) for number in range(3000)]
    examples = [ict_example(passage, settings=IctSettings(mask_rate=0.9), seed=1, epoch=0) for passage in passages]
    assert 2640 < sum(example.is_masked for example in examples if example) < 2760
    firsts = [example.query_ids[0] for example in examples if example]
    assert min(firsts.count(token) for token in (100, 102, 104)) > 900


def test_a_choice_is_a_function_of_seed_epoch_and_uid() -> None:
    first = [ict_example(PASSAGE, settings=IctSettings(mask_rate=0.5), seed=3, epoch=epoch) for epoch in range(30)]
    again = [ict_example(PASSAGE, settings=IctSettings(mask_rate=0.5), seed=3, epoch=epoch) for epoch in range(30)]
    other = [ict_example(PASSAGE, settings=IctSettings(mask_rate=0.5), seed=4, epoch=epoch) for epoch in range(30)]
    assert first == again
    assert first != other


def test_a_single_sentence_is_used_only_where_it_stays() -> None:
    single = make_passage(0, num_sentences=1)
    assert ict_example(single, settings=IctSettings(mask_rate=1.0), seed=0, epoch=0) is None
    example = ict_example(single, settings=IctSettings(mask_rate=0.0), seed=0, epoch=0)
    assert example is not None
    assert example.query_ids == example.body_ids
    assert ict_example(make_passage(0, num_sentences=0), settings=IctSettings(mask_rate=0.0), seed=0, epoch=0) is None


def test_a_single_sentence_can_be_kept_as_its_title() -> None:
    single = make_passage(0, num_sentences=1)
    settings = IctSettings(mask_rate=1.0, keep_single_sentences=True)
    example = ict_example(single, settings=settings, seed=0, epoch=0)
    assert example is not None
    assert (example.query_ids, example.title_ids, example.body_ids) == (single.body_ids, single.title_ids, ())


def test_query_dropout_thins_queries_and_never_empties_them() -> None:
    long = make_passage(0, num_sentences=1, sentence_tokens=40)
    settings = IctSettings(mask_rate=0.0, query_dropout=0.8)
    queries = [ict_example(long, settings=settings, seed=0, epoch=epoch).query_ids for epoch in range(300)]
    kept = [len(query) / 40 for query in queries]
    assert 0.55 < sum(kept) / len(kept) < 0.65
    assert min(kept) < 0.3
    for query in queries:
        left = iter(long.body_ids)
        assert query
        assert all(piece in left for piece in query), "kept in order"


def test_batches_resume_exactly(tmp_path: Path) -> None:
    passages = [make_passage(n, article=f"a{n // 5}", num_sentences=1 + n % 3) for n in range(30)]
    corpus = write_corpus(tmp_path, passages, per_shard=8)

    def stream() -> PassageStream:
        return PassageStream(corpus, seed=0, reader=1, num_readers=2, passages_per_article=2)

    def batches(records: PassageStream) -> Iterator[tuple[list[IctExample], StreamState]]:
        return ict_batches(records, batch_size=4, settings=IctSettings(mask_rate=0.9), seed=0)

    straight = list(itertools.islice(batches(stream()), 12))
    for number in (0, 3, 7):
        resumed = stream()
        resumed.go_on([straight[number][1]] * 2)
        rest = list(itertools.islice(batches(resumed), 11 - number))
        assert rest == straight[number + 1 :]
    for batch, _ in straight:
        assert len({example.uid for example in batch}) == 4


def epochs(*passages: Passage) -> Iterator[tuple[Passage, StreamState]]:
    for epoch in itertools.count():
        for position, passage in enumerate(passages, start=1):
            yield passage, StreamState(epoch=epoch, position=position)


def test_a_batch_over_two_epochs_has_no_passage_twice() -> None:
    stream = epochs(make_passage(0), make_passage(1), make_passage(2))
    batches = itertools.islice(ict_batches(stream, batch_size=2, settings=IctSettings(mask_rate=1.0), seed=0), 4)
    assert [[example.uid for example in batch] for batch, _ in batches] == [[1, 2], [3, 1], [2, 3], [1, 2]]


def test_a_batch_larger_than_the_corpus() -> None:
    stream = epochs(make_passage(0), make_passage(1), make_passage(2, num_sentences=1))
    with pytest.raises(
        DataError, match="gives only 2 inverse-cloze examples, but ict.micro_batch_size=3; lower it, or"
    ):
        next(ict_batches(stream, batch_size=3, settings=IctSettings(mask_rate=1.0), seed=0))
