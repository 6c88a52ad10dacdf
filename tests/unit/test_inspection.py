"""What is drawn of tar shards: bins that add up, and text that a terminal does not obey."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_ds.observe.inspection import NUM_BINS, Distribution, Sample, ShardsView, printable, show_shards


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def _drawn(view: ShardsView, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO()
    show_shards(view, out=out)
    return out.getvalue()


def _view(**changes: object) -> ShardsView:
    return ShardsView(**{"facts": {}, "distributions": (), "samples": (), **changes})  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=60))
def test_bins_hold_every_length_once(lengths: list[int]) -> None:
    counts = {length: lengths.count(length) for length in sorted(set(lengths))}
    distribution = Distribution(name="x", counts=counts)
    bins = distribution.bins()
    assert len(bins) <= NUM_BINS
    for low, high, count in bins:
        assert count == sum(low <= length <= high for length in lengths)
    assert sum(count for _, _, count in bins) == distribution.total == len(lengths)
    assert distribution.quantile(0.5) == sorted(lengths)[(len(lengths) + 1) // 2 - 1]
    assert distribution.quantile(1.0) == max(lengths)
    assert distribution.mean == pytest.approx(sum(lengths) / len(lengths))


def test_a_histogram_in_characters() -> None:
    lines = _drawn(_view(distributions=(Distribution(name="words", counts={3: 10, 4: 5, 5: 1}),))).splitlines()
    assert lines[1] == "words  mean 3.4, median 3, 95% at most 5, longest 5"
    assert [line.split() for line in lines[2:]] == [["3", "█" * 40, "10"], ["4", "█" * 20, "5"], ["5", "█" * 4, "1"]]


def test_spans_are_marked_and_sentences_stand_alone() -> None:
    sample = Sample(name="one", sentences=((("The capital is ", False), ("Lima", True)), ((".", False),)), remark="so")
    assert _drawn(_view(samples=(sample,))).split("\n") == ["", "one", "  The capital is «Lima»", "  .", "  so", ""]
    coloured = _drawn(_view(samples=(sample,)), _Terminal())
    assert "«" not in coloured
    assert re.search(r"\x1b\[[0-9;]*mLima\x1b\[0m", coloured)


@given(st.text())
def test_text_of_data_is_shown_and_not_obeyed(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("out", [io.StringIO, _Terminal])
def test_escapes_and_markup_mean_nothing(out: type[io.StringIO]) -> None:
    nasty = "[bold]x[/] :smile: \x1b]0;owned\x07\x1b[31mred\u202e\r\n[link=http://x]y"
    text = "[bold]x[/] :smile: \\x1b]0;owned\\x07\\x1b[31mred\\u202e  [link=http://x]y"
    view = _view(
        facts={"source": nasty}, samples=(Sample(name=nasty, sentences=(((nasty, True),),), remark=nasty),),
        duplicates=(nasty,), faults=(nasty,),
    )  # fmt: skip
    drawn = _drawn(view, out())
    plain = re.sub(r"\x1b\[[0-9;]*m", "", drawn)  # rich's own colours
    assert plain.replace("\n", "").isprintable()
    assert re.sub(r"\s", "", plain).count(re.sub(r"\s", "", text)) == 6  # a terminal breaks long lines


def test_whether_anybody_looked_for_faults_is_said() -> None:
    assert "fault" not in _drawn(_view())
    assert _drawn(_view(faults=())).endswith("no faults\n")
    assert _drawn(_view(faults=("a is damaged", "b too"))).endswith("a is damaged\nb too\n2 faults\n")


def test_a_fact_with_a_long_name_moves_no_other() -> None:
    assert _drawn(_view(facts={"a": "1", "source": "x", "spans " * 9 + "left out": "2"})).splitlines() == [
        "a       1", "source  x", "spans " * 9 + "left out  2",
    ]  # fmt: skip
