"""Messages survive the wire bit for bit; damaged ones are refused with a reason."""

import contextlib
import dataclasses
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from realm_ds.comm.codec import DTYPES, Codec
from realm_ds.errors import IndexFault
from realm_ds.index.exclusion import exclude_passages
from realm_ds.index.messages import MESSAGES, Query, Stop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything:
    number: int
    ratio: float
    text: str
    array: np.ndarray
    other: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stranger:
    number: int


CODEC = Codec((Everything, Stop))
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


def everything(**changes: object) -> Everything:
    values: dict[str, object] = {"number": 7, "ratio": 0.5, "text": "né", "array": np.arange(3), "other": np.eye(2)}
    return Everything(**(values | changes))  # type: ignore[arg-type]


@given(
    number=st.integers(-(2**63), 2**63 - 1), ratio=st.floats(), text=st.text(max_size=20), array=ARRAYS, other=ARRAYS
)
def test_comes_back_bit_for_bit(number: int, ratio: float, text: str, array: np.ndarray, other: np.ndarray) -> None:
    sent = Everything(number=number, ratio=ratio, text=text, array=array, other=other)
    back = CODEC.decode(CODEC.encode(sent))
    assert isinstance(back, Everything)
    assert (back.number, back.text) == (number, text)
    assert back.ratio == ratio or (math.isnan(back.ratio) and math.isnan(ratio))
    for got, given_array in ((back.array, array), (back.other, other)):
        assert (got.dtype, got.shape, got.tobytes()) == (given_array.dtype, given_array.shape, given_array.tobytes())


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(IndexFault):
        CODEC.decode(np.frombuffer(raw, np.uint8))


@given(data=st.data())
def test_a_message_damaged_anywhere_is_refused_or_read_as_a_message(data: st.DataObject) -> None:
    buffer = CODEC.encode(everything())
    at = data.draw(st.integers(0, buffer.size - 1))
    buffer[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(IndexFault):
        assert isinstance(CODEC.decode(buffer), (Everything, Stop))


@pytest.mark.parametrize("message", [everything(), everything(array=np.zeros((3, 0))), Stop()])
def test_every_truncation_is_refused(message: object) -> None:
    buffer = CODEC.encode(message)
    for size in range(buffer.size):
        with pytest.raises(IndexFault, match="truncated|damaged"):
            CODEC.decode(buffer[:size])


def test_arrays_can_be_written_and_do_not_alias_the_sender() -> None:
    mine = np.arange(4, dtype=np.float32)
    buffer = CODEC.encode(everything(array=mine))
    mine[:] = -1
    back = CODEC.decode(buffer)
    assert isinstance(back, Everything)
    assert back.array.tolist() == [0, 1, 2, 3]
    back.array[0] = 9


def test_strided_and_big_endian_arrays_travel_by_value() -> None:
    strided = np.arange(12).reshape(3, 4)[::2, ::-1]
    big = np.array([1.5, -2.0], dtype=">f4")
    back = CODEC.decode(CODEC.encode(everything(array=strided, other=big)))
    assert isinstance(back, Everything)
    assert back.array.tolist() == strided.tolist()
    assert (back.other.tolist(), back.other.dtype) == ([1.5, -2.0], np.dtype("<f4"))


def test_numpy_numbers_pass_for_numbers() -> None:
    back = CODEC.decode(CODEC.encode(everything(number=np.int64(3), ratio=np.float32(0.25))))
    assert isinstance(back, Everything)
    assert (back.number, back.ratio, type(back.number), type(back.ratio)) == (3, 0.25, int, float)


def test_all_messages_of_the_index_are_known() -> None:
    codec = Codec(MESSAGES)
    exclusion = exclude_passages(np.ones(2))
    query = Query(
        request=1, shard=0, step=2, version=3, num_hits=4, wants_tokens=1, is_audit=0,
        vectors_BP=np.eye(2, dtype=np.float32), **vars(exclusion),
    )  # fmt: skip
    assert [type(codec.decode(codec.encode(message))) for message in (query, Stop())] == [Query, Stop]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"number": 0.5}, "Everything.number must be an integer of 64 bits, not 0.5"),
        ({"number": 2**63}, "Everything.number must be an integer of 64 bits"),
        ({"ratio": "x"}, "Everything.ratio must be a number, not 'x'"),
        ({"text": b"x"}, "Everything.text must be a str, not b'x'"),
        ({"array": [1]}, "Everything.array must be a numpy array, not list"),
        ({"array": np.array([{}])}, "Everything.array has dtype object, which does not travel"),
        ({"array": np.array(["x"])}, "Everything.array has dtype <U1, which does not travel"),
        ({"array": np.zeros((1,) * 9)}, "Everything.array has 9 dimensions, more than 8"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(changes: dict[str, object], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        CODEC.encode(everything(**changes))


def test_a_kind_that_is_not_agreed_is_refused() -> None:
    with pytest.raises(TypeError, match="Stranger is not one of this codec's messages: Everything, Stop"):
        CODEC.encode(Stranger(number=1))
    with pytest.raises(TypeError, match="int is not a dataclass and cannot be a message"):
        Codec((int,))

    @dataclasses.dataclass
    class Odd:
        items: list[int]

    with pytest.raises(TypeError, match="Odd.items is <class 'list'>: messages hold only int, float, str"):
        Codec((Odd,))


@pytest.mark.parametrize(
    ("at", "raw", "says"),
    [
        (0, b"\x80\x04.\x00", "are no message: they begin"),
        (4, struct.pack("<H", 9), "unknown kind 9; known, from 0: Everything, Stop"),
        (6, struct.pack("<H", 1), "damaged Everything: .* 1 fields where it has 5"),
        (8, struct.pack("<Q", 8), "bytes where its header says 8"),
        (40, struct.pack("<Q", 2**62), "truncated message: Everything.text needs 4611686018427387904 bytes"),
        (48, b"\xff\xff", "Everything.text is not UTF-8"),
        (56, struct.pack("<I", 99), "Everything.array has dtype code 99"),
    ],
)
def test_damage_is_named(at: int, raw: bytes, says: str) -> None:
    buffer = CODEC.encode(everything())
    buffer[at : at + len(raw)] = np.frombuffer(raw, np.uint8)
    with pytest.raises(IndexFault, match=says):
        CODEC.decode(buffer)


def test_a_shape_whose_product_overflows_is_refused() -> None:
    buffer = CODEC.encode(everything(array=np.zeros((1, 1, 1))))
    buffer[64:88] = np.frombuffer(struct.pack("<3Q", 0, 2**63, 2**63), np.uint8)
    with pytest.raises(IndexFault, match="Everything.array of shape|truncated"):
        CODEC.decode(buffer)


def test_too_many_bytes_are_refused() -> None:
    buffer = np.concatenate([CODEC.encode(Stop()), np.zeros(8, np.uint8)])
    buffer[8:16] = np.frombuffer(struct.pack("<Q", buffer.size), np.uint8)
    with pytest.raises(IndexFault, match="damaged Stop: 8 bytes too many"):
        CODEC.decode(buffer)


def test_ranks_that_run_other_code_are_told_so() -> None:
    changed = dataclasses.make_dataclass("Everything", [("number", int)], frozen=True, kw_only=True)
    with pytest.raises(IndexFault, match="the ranks run different versions of realm_ds"):
        CODEC.decode(Codec((changed, Stop)).encode(Stop()))
