"""A message, a frozen dataclass, to one contiguous buffer and back. Moving the buffer is the mailbox's business.

Wire form, little-endian, every part padded to 8 bytes so that arrays are read in place, without a copy:

    header   magic "RLM1" | kind u16 | number of fields u16 | total bytes u64 | layout u32 | 0 u32
    int      i64
    float    f64
    str      number of bytes u64 | UTF-8
    array    dtype u32 | dimensions u32 | shape u64 x dimensions | elements, C order

Field types come from the dataclass and are not repeated on the wire; `layout`, a checksum of all kinds with their
fields, tells when the two ends run different code. An array whose field is Annotated with an `Array` has that dtype
and as many dimensions, or is refused at either end. Nothing is ever unpickled.
"""

import dataclasses
import math
import operator
import struct
import typing
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from realm_ds.errors import IndexFault

Buffer = NDArray[np.uint8]

MAGIC = b"RLM1"
HEADER = struct.Struct("<4sHHQII")
ARRAY = struct.Struct("<II")
ALIGNMENT = 8
MAX_DIMENSIONS = 8
DTYPES = tuple(
    np.dtype(name) for name in ("?", "<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
)
"""In wire order: the code of a dtype is its place here."""


@dataclasses.dataclass(frozen=True)
class Array:
    """What an array field must be: Annotated[np.ndarray, Array("f4", 2)]; several dtypes with blanks between them."""

    dtypes: str
    num_dimensions: int

    def __str__(self) -> str:
        names = " or ".join(str(np.dtype(name)) for name in self.dtypes.split())
        return f"{names} of {self.num_dimensions} dimension(s)"

    def fits(self, array: NDArray[typing.Any]) -> bool:
        return array.ndim == self.num_dimensions and array.dtype in [np.dtype(name) for name in self.dtypes.split()]


class Codec:
    """Writes and reads the messages of `kinds`; the kind of a message on the wire is its place among them."""

    def __init__(self, kinds: Sequence[type]) -> None:
        self._kinds = tuple(kinds)
        self._codes = {kind: code for code, kind in enumerate(self._kinds)}
        self._fields = [_fields_of(kind) for kind in self._kinds]
        described = [
            (kind.__name__, [(name, of.__name__, str(must)) for name, of, must in fields])
            for kind, fields in zip(self._kinds, self._fields, strict=True)
        ]
        self._layout = zlib.crc32(repr(described).encode())

    @property
    def kinds(self) -> tuple[type, ...]:
        return self._kinds

    def check_kind(self, kind: type) -> None:
        """A receive for a kind that cannot arrive would wait for ever: our mistake, said at once."""
        if kind not in self._codes:
            raise TypeError(f"{kind.__name__} is not one of this codec's messages: {self._names()}")

    def encode(self, message: object) -> Buffer:
        """One new buffer that holds the message; nothing in it aliases the message's arrays."""
        kind = type(message)
        self.check_kind(kind)
        code = self._codes[kind]
        parts: list[bytes | NDArray[typing.Any]] = []
        for name, of, must in self._fields[code]:
            value, what = getattr(message, name), f"{kind.__name__}.{name}"
            parts += _WRITERS[of](value, what)
            if must is not None and not must.fits(value):
                raise TypeError(f"{what} must be {must}, not {value.dtype} of {value.ndim}")
        total = HEADER.size + sum(_padded(_size(part)) for part in parts)
        buffer = np.zeros(total, np.uint8)
        HEADER.pack_into(buffer.data, 0, MAGIC, code, len(self._fields[code]), total, self._layout, 0)
        at = HEADER.size
        for part in parts:
            raw = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part.reshape(-1).view(np.uint8)
            buffer[at : at + raw.size] = raw
            at += _padded(raw.size)
        return buffer

    def decode(self, buffer: Buffer) -> object:
        """The message in `buffer`; its arrays are views of the buffer, which is theirs from now on."""
        reader = _Reader(buffer)
        magic, code, num_fields, total, layout, _ = HEADER.unpack(reader.take(HEADER.size, "header").tobytes())
        if magic != MAGIC:
            raise IndexFault(f"received {buffer.size} bytes that are no message: they begin {magic!r}, not {MAGIC!r}")
        if layout != self._layout:
            raise IndexFault(
                f"received a message of layout {layout:08x}, this rank speaks {self._layout:08x}: "
                "the ranks run different versions of realm_ds; install the same one on every host"
            )
        if code >= len(self._kinds):
            raise IndexFault(f"received a message of unknown kind {code}; known, from 0: {self._names()}")
        kind, fields = self._kinds[code], self._fields[code]
        if total != buffer.size or num_fields != len(fields):
            raise IndexFault(
                f"received a damaged {kind.__name__}: {buffer.size} bytes where its header says {total}, "
                f"{num_fields} fields where it has {len(fields)}"
            )
        values = {}
        for name, of, must in fields:
            value = values[name] = _READERS[of](reader, f"{kind.__name__}.{name}")
            if must is not None and not (isinstance(value, np.ndarray) and must.fits(value)):
                raise IndexFault(f"received a damaged {kind.__name__}: {name} is not {must}")
        if reader.left:
            raise IndexFault(f"received a damaged {kind.__name__}: {reader.left} bytes too many after its last field")
        return kind(**values)

    def _names(self) -> str:
        return ", ".join(kind.__name__ for kind in self._kinds)


class _Reader:
    """A cursor over a received buffer that never reads past its end."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._at = 0

    @property
    def left(self) -> int:
        return int(self._buffer.size) - self._at

    def take(self, num_bytes: int, what: str) -> Buffer:
        if _padded(num_bytes) > self.left:
            raise IndexFault(f"received a truncated message: {what} needs {num_bytes} bytes, {self.left} are left")
        taken = self._buffer[self._at : self._at + num_bytes]
        self._at += _padded(num_bytes)
        return taken


def _fields_of(kind: type) -> tuple[tuple[str, type, Array | None], ...]:
    """Name, type, and what an array must be, of each field."""
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind.__name__} is not a dataclass and cannot be a message")
    hints, annotated = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
    fields = []
    for field in dataclasses.fields(kind):
        of = typing.get_origin(hints[field.name]) or hints[field.name]
        extras = getattr(annotated[field.name], "__metadata__", ())
        must = next((extra for extra in extras if isinstance(extra, Array)), None)
        if of not in _WRITERS:
            what = f"{kind.__name__}.{field.name}"
            raise TypeError(f"{what} is {of}: messages hold only int, float, str and numpy arrays")
        fields.append((field.name, of, must))
    return tuple(fields)


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _size(part: bytes | NDArray[typing.Any]) -> int:
    return len(part) if isinstance(part, bytes) else part.nbytes


def _write_int(value: object, what: str) -> list[bytes | NDArray[typing.Any]]:
    try:
        return [struct.pack("<q", operator.index(typing.cast(int, value)))]
    except (TypeError, struct.error) as error:
        raise TypeError(f"{what} must be an integer of 64 bits, not {value!r}") from error


def _write_float(value: object, what: str) -> list[bytes | NDArray[typing.Any]]:
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{what} must be a number, not {value!r}")
    return [struct.pack("<d", float(value))]


def _write_str(value: object, what: str) -> list[bytes | NDArray[typing.Any]]:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    raw = value.encode()
    return [struct.pack("<Q", len(raw)), raw]


def _write_array(value: object, what: str) -> list[bytes | NDArray[typing.Any]]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{what} must be a numpy array, not {type(value).__name__}")
    dtype = value.dtype.newbyteorder("<") if value.dtype.kind in "biuf" else value.dtype
    if dtype not in DTYPES:
        raise TypeError(f"{what} has dtype {value.dtype}, which does not travel: use one of {[str(d) for d in DTYPES]}")
    if value.ndim > MAX_DIMENSIONS:
        raise TypeError(f"{what} has {value.ndim} dimensions, more than {MAX_DIMENSIONS}")
    head = ARRAY.pack(DTYPES.index(dtype), value.ndim) + struct.pack(f"<{value.ndim}Q", *value.shape)
    return [head, np.ascontiguousarray(value, dtype)]


def _read_int(reader: _Reader, what: str) -> int:
    return int(struct.unpack("<q", reader.take(8, what).tobytes())[0])


def _read_float(reader: _Reader, what: str) -> float:
    return float(struct.unpack("<d", reader.take(8, what).tobytes())[0])


def _read_str(reader: _Reader, what: str) -> str:
    (size,) = struct.unpack("<Q", reader.take(8, what).tobytes())
    try:
        return reader.take(size, what).tobytes().decode()
    except UnicodeDecodeError as error:
        raise IndexFault(f"received a damaged message: {what} is not UTF-8 ({error})") from error


def _read_array(reader: _Reader, what: str) -> NDArray[typing.Any]:
    code, num_dimensions = ARRAY.unpack(reader.take(ARRAY.size, what).tobytes())
    if code >= len(DTYPES) or num_dimensions > MAX_DIMENSIONS:
        raise IndexFault(f"received a damaged message: {what} has dtype code {code} and {num_dimensions} dimensions")
    shape = struct.unpack(f"<{num_dimensions}Q", reader.take(8 * num_dimensions, what).tobytes())
    # Python integers: a hostile shape cannot overflow into a small product.
    raw = reader.take(math.prod(shape) * DTYPES[code].itemsize, what)
    try:
        array: NDArray[typing.Any] = raw.view(DTYPES[code]).reshape(shape)
        return array
    except (ValueError, OverflowError) as error:
        raise IndexFault(f"received a damaged message: {what} of shape {shape} does not fit ({error})") from error


_WRITERS: dict[type, Callable[[object, str], list[bytes | NDArray[typing.Any]]]] = {
    int: _write_int,
    float: _write_float,
    str: _write_str,
    np.ndarray: _write_array,
}
_READERS: dict[type, Callable[[_Reader, str], object]] = {
    int: _read_int,
    float: _read_float,
    str: _read_str,
    np.ndarray: _read_array,
}
