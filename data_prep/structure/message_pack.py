"""MessagePack (msgpack.org specification), the part that BinaryCIF uses: decoding of untrusted bytes."""

import struct
from typing import Any

MAX_DEPTH = 16
"""Containers inside containers; BinaryCIF needs nine."""

_SCALARS = {
    **{0xC0: (None, None), 0xC2: (None, False), 0xC3: (None, True)},
    **{0xCA: (">f", None), 0xCB: (">d", None), 0xCC: (">B", None), 0xCD: (">H", None), 0xCE: (">I", None)},
    **{0xCF: (">Q", None), 0xD0: (">b", None), 0xD1: (">h", None), 0xD2: (">i", None), 0xD3: (">q", None)},
}
_SIZES = {
    **{0xC4: (">B", "bytes"), 0xC5: (">H", "bytes"), 0xC6: (">I", "bytes")},
    **{0xD9: (">B", "text"), 0xDA: (">H", "text"), 0xDB: (">I", "text")},
    **{0xDC: (">H", "list"), 0xDD: (">I", "list"), 0xDE: (">H", "map"), 0xDF: (">I", "map")},
}


def unpack(data: bytes) -> Any:
    """The one value that ``data`` holds. Raises ``ValueError`` for damage; sizes are checked before they are used."""
    value, end = _value(memoryview(data), 0, 0)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the end of the message")
    return value


def _value(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError(f"containers are nested more than {MAX_DEPTH} deep")
    if at >= len(data):
        raise ValueError("the message ends early")
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code < 0xC0:
        size, kind = (code & 0x0F, "map" if code < 0x90 else "list") if code < 0xA0 else (code & 0x1F, "text")
        return _sized(data, at, size, kind, depth)
    if code in _SCALARS:
        layout, constant = _SCALARS[code]
        return (constant, at) if layout is None else _number(data, at, layout)
    if code not in _SIZES:
        raise ValueError(f"type {code:#x} does not occur in BinaryCIF")
    layout, kind = _SIZES[code]
    size, at = _number(data, at, layout)
    return _sized(data, at, size, kind, depth)


def _number(data: memoryview, at: int, layout: str) -> tuple[Any, int]:
    end = at + struct.calcsize(layout)
    if end > len(data):
        raise ValueError("the message ends early")
    return struct.unpack_from(layout, data, at)[0], end


def _sized(data: memoryview, at: int, size: int, kind: str, depth: int) -> tuple[Any, int]:
    if size > len(data) - at:  # every element takes a byte at least
        raise ValueError("the message ends early")
    if kind in ("bytes", "text"):
        raw = bytes(data[at : at + size])
        return (raw if kind == "bytes" else raw.decode("utf-8")), at + size
    items: list[Any] = []
    for _ in range(size * (2 if kind == "map" else 1)):
        item, at = _value(data, at, depth + 1)
        items.append(item)
    if kind == "list":
        return items, at
    if not all(isinstance(key, str) for key in items[::2]):
        raise ValueError("a map has keys that are no text")
    return dict(zip(items[::2], items[1::2], strict=True)), at
