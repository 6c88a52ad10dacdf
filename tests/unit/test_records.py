"""Passages and examples as JSON: what is written is read, and what is wrong is named."""

import json
from typing import Any

import pytest

from realm_ds.data.records import Example, Passage, example_from_json, passage_from_json, record_bytes
from realm_ds.errors import DataError

PASSAGE = Passage(
    uid=7,
    title="Chad",
    text="A. B c.",
    article="chad",
    title_ids=(5,),
    body_ids=(6, 7, 8),
    sentences=((0, 1), (1, 3)),
)
EXAMPLE = Example(id="x1", text="A b", ids=(9, 10), sentences=((0, 2),), spans=((1, 2),), origin_uid=0)


def through_json(record: Passage | Example, **changed: Any) -> Any:
    return {**json.loads(record_bytes(record)), **changed}


def test_records_survive_json() -> None:
    assert passage_from_json(through_json(PASSAGE), where="f") == PASSAGE
    assert example_from_json(through_json(EXAMPLE), where="f") == EXAMPLE


@pytest.mark.parametrize("name", ["uid", "title", "text", "article", "title_ids", "body_ids", "sentences"])
def test_missing_member_of_a_passage(name: str) -> None:
    data = through_json(PASSAGE)
    del data[name]
    with pytest.raises(DataError, match=f"shard-3, record 8: {name} is missing; write the shards again"):
        passage_from_json(data, where="shard-3, record 8")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("uid", True, "uid is True, not an integer from 1"),
        ("uid", 0, "uid is 0, not an integer from 1"),
        ("uid", 2**63, "not an integer from 1"),
        ("title", None, "title is None, not a string"),
        ("title_ids", "abc", "title_ids is 'abc', not a list of integers"),
        ("body_ids", [1, 2.5], "not a list of integers"),
        ("body_ids", [1, True], "not a list of integers"),
        ("body_ids", [65536], "not a list of token ids from 0 to 65535"),
        ("body_ids", [-1], "not a list of token ids"),
        ("sentences", {}, "sentences is {}, not a list of"),
        ("sentences", [[0, 4]], "ranges of the 3 body_ids"),
        ("sentences", [[0, 2], [1, 3]], "ascending, apart and not empty"),
        ("sentences", [[1, 1]], "ascending, apart and not empty"),
        ("sentences", [[0, 1, 2]], "a list of \\[start, end\\] ranges"),
        ("sentences", [["0", 1]], "a list of \\[start, end\\] ranges"),
    ],
)
def test_wrong_member_of_a_passage(name: str, value: object, wanted: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{wanted}.*; write the shards again$"):
        passage_from_json(through_json(PASSAGE, **{name: value}), where="here")


def test_passage_of_nothing() -> None:
    with pytest.raises(DataError, match="here: body_ids is empty, a passage of nothing; leave it out"):
        passage_from_json(through_json(PASSAGE, body_ids=[], sentences=[]), where="here")


def test_over_long_passage() -> None:
    assert passage_from_json(through_json(PASSAGE), where="here", max_tokens=7) == PASSAGE
    with pytest.raises(DataError, match="here: the passage has 7 wordpieces .* more than data.passage_tokens=6; raise"):
        passage_from_json(through_json(PASSAGE), where="here", max_tokens=6)


def test_not_an_object() -> None:
    with pytest.raises(DataError, match="here: holds \\[1\\], not a JSON object"):
        passage_from_json([1], where="here")


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(DataError) as caught:
        passage_from_json(through_json(PASSAGE, title=["x"] * 1000), where="here")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": [], "sentences": [], "spans": []}, "there is no sentence in it"),
        ({"spans": [[0, 3]]}, "spans is .*ranges of the 2 ids"),
        ({"origin_uid": -1}, "origin_uid is -1"),
        ({"id": 4}, "id is 4, not a string"),
        ({"origin_article": 4}, "origin_article is 4, not a string"),
    ],
)
def test_wrong_examples(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^here: {message}"):
        example_from_json(through_json(EXAMPLE, **changed), where="here")
