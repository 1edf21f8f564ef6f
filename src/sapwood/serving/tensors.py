"""A safetensors file checked against its own header, in pieces, before anything maps it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

import numpy as np

from sapwood.serving.nesting import too_deep

HEADER_BYTES = 8 << 20  # some 80,000 tensors; a LoRA on every layer of the largest bases has 1,500
_DIMENSIONS = 8
_LEVELS = 4  # the header, a tensor, its shape, and one to spare
_PROBLEMS = 8  # of one file: a wrong offset shifts all that follow
_PIECE = 4 << 20
# Number format -> (bytes, the unsigned integer as wide, the bits of its exponent: all of them set
# is how infinity and no number are written, in IEEE 754 and in bfloat16 alike).
_FLOATS = {
    "F64": (8, "<u8", 0x7FF0000000000000), "F32": (4, "<u4", 0x7F800000),
    "F16": (2, "<u2", 0x7C00), "BF16": (2, "<u2", 0x7F80),
}  # fmt: skip
_WHOLE = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_SIZES = {**{name: size for name, (size, _, _) in _FLOATS.items()}, **_WHOLE}


def check_tensors(file: IO[bytes], size: int) -> Iterator[str]:
    """Yield what is wrong with a safetensors file of `size` bytes; nothing where it is sound."""
    header, begin = _header(file, size)
    if isinstance(header, str):
        yield header
        return
    tensors = {name: said for name, said in header.items() if name != "__metadata__"}
    problems = [*_metadata(header.get("__metadata__", {}))]
    problems += islice(_entries(tensors, size - begin), _PROBLEMS)
    problems = problems or [*islice(_layout(tensors, size - begin), _PROBLEMS)]
    yield from problems
    if not problems:
        yield from islice(_infinite(file, tensors, begin), _PROBLEMS)


def _header(file: IO[bytes], size: int) -> tuple[dict[str, Any] | str, int]:
    """Return the header, or why there is none, and where the data begin."""
    length = int.from_bytes(file.read(8), "little")
    if size < 10:
        return f"it has {size} bytes, too few for a safetensors file", 0
    if length > HEADER_BYTES:
        return f"its header claims {length:,} bytes; {HEADER_BYTES:,} are the most", 0
    if length > size - 8:
        return f"its header claims {length:,} bytes, and {size - 8:,} are there", 0
    raw = file.read(length)
    if too_deep(raw, _LEVELS):
        return f"its header has more than {_LEVELS} levels of brackets", 0
    try:
        header = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return f"its header is not JSON: {str(error)[:120]}", 0
    if not isinstance(header, dict):
        return "its header is no JSON object", 0
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _metadata(found: Any) -> Iterator[str]:
    words = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    if not words:
        yield "its __metadata__ is more than words by name"


def _entries(tensors: dict[str, Any], data: int) -> Iterator[str]:
    """Yield entries whose parts are not what they must be, each by itself."""
    for name, said in tensors.items():
        shown = ascii(name)[:80]
        if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
            yield f"{shown} does not have dtype, shape and data_offsets alone"
            continue
        dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _SIZES:
            yield f"{shown} has the format {ascii(dtype)[:20]}; known are {', '.join(_SIZES)}"
            continue
        if not _counts(shape) or len(shape) > _DIMENSIONS:
            yield f"{shown} has no shape of at most {_DIMENSIONS} dimensions"
            continue
        if not _counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data:
            yield f"{shown} does not lie inside the file's {data:,} bytes of data"
            continue
        wanted = math.prod(shape) * _SIZES[dtype]
        if offsets[1] - offsets[0] != wanted:
            yield f"{shown} has {offsets[1] - offsets[0]:,} bytes, and its shape needs {wanted:,}"


def _counts(found: Any) -> bool:
    """Tell a list of whole numbers from 0 that a file's size can be."""
    return isinstance(found, list) and all(
        type(number) is int and 0 <= number < 1 << 63 for number in found
    )


def _layout(tensors: dict[str, Any], data: int) -> Iterator[str]:
    """Yield where tensors overlap or leave a hole: each must begin where the one before ends."""
    end = 0
    for name, said in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, behind = said["data_offsets"]
        if begin != end:
            how = "overlaps the tensor before it" if begin < end else "leaves a hole before it"
            yield f"{ascii(name)[:80]} {how}"
        end = max(end, behind)
    if end != data:
        yield f"{data - end:,} bytes after the last tensor belong to none"


def _infinite(file: IO[bytes], tensors: dict[str, Any], begin: int) -> Iterator[str]:
    """Yield tensors with numbers that are not finite."""
    for name, said in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        if said["dtype"] not in _FLOATS:
            continue
        _, integers, exponent = _FLOATS[said["dtype"]]
        start, end = said["data_offsets"]
        file.seek(begin + start)
        left = end - start
        while left:
            piece = file.read(min(left, _PIECE))
            if len(piece) < min(left, _PIECE):
                yield f"{ascii(name)[:80]} ends before its bytes do"
                break
            bits = np.frombuffer(piece, integers) & np.asarray(exponent, integers)
            if (bits == exponent).any():
                yield f"{ascii(name)[:80]} holds numbers that are not finite"
                break
            left -= len(piece)
