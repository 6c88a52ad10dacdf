"""block_records.npy: the passages beside a RealmForOpenQA, a numpy array of bytes objects, which npy keeps as a pickle.

A pickle is a list of operations; the records are data within them. So they are written and read one at a time, and a
corpus takes no room in memory. Nothing is unpickled here: records are read where they stand, and nothing is called. The
weights beside it are hf_realm_qa.py's business.
"""

import pickletools
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from realm_ds.errors import CheckpointError

BLOCK_RECORDS = "block_records.npy"
_HEADERS: dict[tuple[int, int], Callable[[BinaryIO], tuple[Any, ...]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_RECORD = ("SHORT_BINBYTES", "BINBYTES")
_AGAIN = ("BINGET", "LONG_BINGET")
"""An object that was there before."""
_NUMBERED = ("MEMOIZE", "BINPUT", "LONG_BINPUT")
"""What came last gets the next number, to be named by where it is there again."""
_AROUND = ("MARK", "APPEND", "APPENDS", "FRAME")
_BEFORE = (
    b"\x80\x03" b"cnumpy.core.multiarray\n_reconstruct\n" b"cnumpy\nndarray\n" b"K\x00\x85C\x01b\x87R"
    b"(K\x01" b"J%s\x85" b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb" b"\x89]"
)  # fmt: skip
"""What makes numpy's array of objects of some length, by a name that all of its versions know, up to an empty list."""
_AFTER = b"tb."
_SHORT_BYTES, _BYTES, _APPEND = b"C", b"B", b"a"


def write_block_records(path: Path, bodies: Iterable[str], *, count: int) -> None:
    """`count` passages as transformers' RealmRetriever reads them. Bytes of any lengths in one array are Python
    objects, which npy keeps as a pickle: the format asks for it."""
    written = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (count,)})
        file.write(_BEFORE % count.to_bytes(4, "little"))
        for body in bodies:
            record = body.encode()
            size, operation = (1, _SHORT_BYTES) if len(record) < 256 else (4, _BYTES)
            file.write(operation + len(record).to_bytes(size, "little") + record + _APPEND)
            written += 1
        file.write(_AFTER)
    assert written == count, (written, count)


def read_block_records(path: Path) -> Iterator[str]:
    """The passages in order, one at a time. Raises CheckpointError where the file holds anything else."""
    count = 0
    try:
        with path.open("rb") as file:
            wanted = _read_count(file)
            for record in _records(file, path):
                count += 1
                yield record.decode()
    except (OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the passages again") from error
    if count != wanted:
        raise CheckpointError(f"{path} holds {count} passages and says that it has {wanted}: copy it again")


def _read_count(file: BinaryIO) -> int:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"npy of version {version}")
    shape, _, dtype = _HEADERS[version](file)
    if dtype != np.dtype(object) or len(shape) != 1:
        raise ValueError(f"an array of {dtype} in {len(shape)} dimensions, not a list of bytes")
    return int(shape[0])


def _records(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """Of the operations, those that make the one list of the array; what makes the array around it is passed over."""
    places = array("q")  # where each numbered object stands in the file
    place, is_within = 0, False
    with path.open("rb") as again:
        operations: Iterator[tuple[Any, Any, Any]] = pickletools.genops(file)
        for operation, value, here in operations:
            name = operation.name
            if name in _NUMBERED:
                if value not in (None, len(places)):
                    raise ValueError(f"object {value} is numbered out of turn")
                places.append(place)
            elif not is_within:
                is_within = name == "EMPTY_LIST"
                place = 0
            elif name in _RECORD:
                place = here
                yield value
            elif name in _AGAIN:
                again.seek(places[value] if value < len(places) else 0)
                before, record, _ = _first(again)
                if before.name not in _RECORD:
                    raise ValueError(f"record of {before.name}, not of bytes")
                yield record
            elif name == "TUPLE":
                return
            elif name not in _AROUND:
                raise ValueError(f"record of {name}, not of bytes")


def _first(file: BinaryIO) -> tuple[Any, Any, Any]:
    return next(iter(pickletools.genops(file)))
