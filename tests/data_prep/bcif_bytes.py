"""A BinaryCIF writer for the tests: mmCIF in, the same content out, with every lossless encoding in use."""

import struct

import numpy as np
from gemmi import cif


def pack(value) -> bytes:
    """MessagePack of Python values."""
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        return struct.pack(">b", value) if -32 <= value < 128 else b"\xd2" + struct.pack(">i", value)
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, str):
        data = value.encode()
        return (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xdb" + struct.pack(">I", len(data))) + data
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(pack(key) + pack(item) for key, item in value.items())
    head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))
    return head + b"".join(map(pack, value))


def packed_integers(values: list[int]) -> dict:
    """Delta, run length, then packed into signed bytes."""
    deltas = [b - a for a, b in zip([values[0], *values], values, strict=False)]
    runs: list[list[int]] = []
    for delta in deltas:
        if runs and runs[-1][0] == delta:
            runs[-1][1] += 1
        else:
            runs.append([delta, 1])
    flat = [number for run in runs for number in run]
    small: list[int] = []
    for number in flat:
        limit = 127 if number >= 0 else -128
        while (number >= limit) if limit > 0 else (number <= limit):
            small.append(limit)
            number -= limit
        small.append(number)
    encoding = [
        {"kind": "Delta", "origin": values[0], "srcType": 3},
        {"kind": "RunLength", "srcSize": len(values), "srcType": 3},
        {"kind": "IntegerPacking", "byteCount": 1, "isUnsigned": 0, "srcSize": len(flat)},
        {"kind": "ByteArray", "type": 1},
    ]
    return {"data": np.array(small, dtype="<i1").tobytes(), "encoding": encoding}


def column(name: str, items: list[str]) -> dict:
    """One column, encoded by what it holds."""
    mask = [{".": 1, "?": 2}.get(item, 0) for item in items]
    texts = ["" if hidden else cif.as_string(item) for item, hidden in zip(items, mask, strict=True)]
    if name.startswith("Cartn_"):
        data = packed_integers([round(float(text or 0) * 1000) for text in texts])
        data["encoding"].insert(0, {"kind": "FixedPoint", "factor": 1000, "srcType": 33})
    elif name in ("occupancy", "B_iso_or_equiv"):
        values = np.array([float(text or 0) for text in texts], dtype="<f4")
        data = {"data": values.tobytes(), "encoding": [{"kind": "ByteArray", "type": 32}]}
    elif name in ("id", "auth_seq_id", "label_seq_id") and all(
        text.lstrip("-").isdigit() or not text for text in texts
    ):
        data = packed_integers([int(text or 0) for text in texts])
    else:
        words = list(dict.fromkeys(texts))
        offsets = packed_integers(np.cumsum([0, *map(len, words)]).tolist())
        indices = packed_integers([words.index(text) for text in texts])
        encoding = {"kind": "StringArray", "stringData": "".join(words), "dataEncoding": indices["encoding"]}
        encoding |= {"offsets": offsets["data"], "offsetEncoding": offsets["encoding"]}
        data = {"data": indices["data"], "encoding": [encoding]}
    return {"name": name, "data": data, "mask": packed_integers(mask) if any(mask) else None}


def binary_cif(text: str) -> bytes:
    """BinaryCIF of the first block of an mmCIF text."""
    block = cif.read_string(text)[0]
    categories = []
    for category in block.get_mmcif_category_names():
        table = block.find_mmcif_category(category)
        tags = [tag.split(".")[1] for tag in table.tags]
        columns = [column(tag, [row[i] for row in table]) for i, tag in enumerate(tags)]
        categories.append({"name": category.rstrip("."), "rowCount": len(table), "columns": columns})
    blocks = [{"header": block.name, "categories": categories}]
    return pack({"encoder": "test", "version": "0.3.0", "dataBlocks": blocks})
