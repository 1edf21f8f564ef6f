"""How deep brackets of JSON are nested, told from the bytes before a parser follows them."""

from __future__ import annotations

import re

# A string, or one that the text ends in: each begins where the last ended, so this is linear.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_PLAIN = bytes(ord("[") if b in b"[{" else ord("]") if b in b"]}" else b for b in range(256))
_OTHERS = bytes(b for b in range(256) if b not in b"[]{}")


def too_deep(raw: bytes, levels: int) -> bool:
    """Return whether JSON has more than `levels` of brackets within brackets.

    Each round takes away the innermost pairs, so the cost is `levels` passes over brackets alone.

    >>> too_deep(b'{"a": [[1], "[[["]}', 3), too_deep(b'{"a": [[1], "[[["]}', 2)
    (False, True)
    """
    left = _STRING.sub(b"", raw).translate(_PLAIN, _OTHERS)
    for _ in range(levels):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return b"[]" in left or left.count(b"[") > levels  # pairs, or what is never closed
