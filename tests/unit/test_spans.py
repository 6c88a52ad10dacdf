"""Spans of several finders as those of a sentence."""

from hypothesis import given
from hypothesis import strategies as st

from realm_ds.prepare.spans import Span, apart, combined

SPANS = st.lists(st.builds(Span, st.integers(0, 12), st.integers(0, 12), st.sampled_from(["A", "B"])), max_size=8)


def test_the_longest_of_overlapping_spans_stays_and_of_equal_ones_the_first() -> None:
    event, year, name = Span(0, 19, "EVENT"), Span(0, 4, "DATE"), Span(30, 34, "A")
    assert apart([name, year, event]) == [event, name]
    assert apart([Span(3, 5, "B"), Span(4, 6, "A")]) == [Span(3, 5, "B")]
    assert apart([Span(3, 3, "A"), Span(5, 4, "A")]) == []


@given(SPANS)
def test_apart_is_what_a_slow_loop_finds(spans: list[Span]) -> None:
    taken: list[Span] = []
    for length in range(12, 0, -1):
        for span in spans:
            if span.end - span.start == length and not any(
                span.start < other.end and other.start < span.end for other in taken
            ):
                taken.append(span)
    assert apart(spans) == sorted(taken)


def test_finders_are_combined_sentence_by_sentence() -> None:
    find = combined(
        [lambda texts: [[Span(0, 2, "A")] for _ in texts], lambda texts: [[Span(1, len(t), "B")] for t in texts]]
    )
    assert find(["ab", "abcd"]) == [[Span(0, 2, "A")], [Span(1, 4, "B")]]
    assert find([]) == []
