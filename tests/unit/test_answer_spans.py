"""Answer occurrences against a double loop, and the cases a loop would not think of."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.data.answer_spans import AnswerSpans, find_answer_spans, gold_span_mask, span_characters

BODIES = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=5)
ANSWERS = st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4)


def concatenate(bodies: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens_T, offsets)."""
    offsets = np.cumsum([0, *map(len, bodies)])
    return np.array([token for body in bodies for token in body], dtype=np.int64), offsets


def as_triples(spans: AnswerSpans) -> list[tuple[int, int, int]]:
    return list(zip(spans.row_S.tolist(), spans.start_S.tolist(), spans.stop_S.tolist(), strict=True))


@given(bodies=BODIES, answers=ANSWERS, widest=st.integers(1, 4), ends_words=st.booleans())
def test_against_a_double_loop(
    bodies: list[list[int]], answers: list[list[int]], widest: int, ends_words: bool
) -> None:
    continues_word_V = np.array([False, True, False, False]) if ends_words else None
    slow = set()
    for row, body in enumerate(bodies):
        for answer in answers:
            for start in range(len(body)):
                stop = start + len(answer)
                if not answer or len(answer) > widest or body[start:stop] != answer:
                    continue
                if ends_words and stop < len(body) and body[stop] == 1:
                    continue
                slow.add((row, start, stop))
    fast = find_answer_spans(*concatenate(bodies), answers, max_span_tokens=widest, continues_word_V=continues_word_V)
    assert as_triples(fast) == sorted(slow)


def test_an_answer_never_reaches_into_the_next_passage() -> None:
    assert as_triples(find_answer_spans(*concatenate([[5, 6], [7]]), [[6, 7]])) == []
    assert as_triples(find_answer_spans(*concatenate([[5], [], [5, 6]]), [[5]])) == [(0, 0, 1), (2, 0, 1)]


def test_gold_span_mask_places_spans_in_the_joint_sequence() -> None:
    spans = find_answer_spans(*concatenate([[8, 9, 8], [9, 9, 9]]), [[8], [8, 9], [9, 9, 9]])
    is_gold_RLW = gold_span_mask(spans, np.array([2, 4]), num_tokens=6, max_span_tokens=3)
    # Row 1 begins at 4: its three-piece span would end beyond the six tokens, so it is not there.
    assert np.argwhere(is_gold_RLW).tolist() == [[0, 2, 0], [0, 2, 1], [0, 4, 0]]
    assert not gold_span_mask(spans, np.array([2, 3]), num_tokens=6, max_span_tokens=2)[1].any()


def encode(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Words as pieces, each letter count its id."""
    ids, offsets, place = [], [], 0
    for word in text.split(" "):
        ids.append(len(word))
        offsets.append((place, place + len(word)))
        place += len(word) + 1
    return ids, offsets


def test_the_characters_of_a_span_are_told_where_the_text_is_that_of_the_wordpieces() -> None:
    text = "The Swiss Bern"
    assert span_characters((3, 5, 4), 1, 3, encoded=encode(text)) == (4, len(text))
    assert span_characters((3, 5, 9), 1, 3, encoded=encode(text)) is None
