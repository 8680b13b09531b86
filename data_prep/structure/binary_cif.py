"""BinaryCIF to a CIF block (Sehnal et al. 2020, PLoS Comput. Biol. 16, e1008247; specification 0.3).

Every column is decoded to the text that the same column has in mmCIF, so that everything after this is common to both.
"""

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from gemmi import cif

from data_prep.structure.structure_bytes import StructureError

CATEGORIES = frozenset(
    {
        *("_atom_site", "_entity_poly", "_entity_poly_seq", "_struct_asym", "_pdbx_struct_mod_residue", "_chem_comp"),
        *("_refine", "_em_3d_reconstruction", "_exptl", "_pdbx_database_status", "_database_PDB_rev"),
        "_pdbx_audit_revision_history",
        "_ma_qa_metric",
    }
)
"""What the reader looks at; the rest is not decoded."""

MAX_VALUES = 10_000_000
"""Values in a column: four times the atoms of the largest entry (3J3Q)."""

MIN_ATOM_BYTES = 6
"""Bytes of the file per row of _atom_site, at least: three coordinates, whose steps of 0.001 angstrom take two each. A
file that claims more rows is made of run lengths to fill the memory."""

_TYPES = {1: "<i1", 2: "<i2", 3: "<i4", 4: "<u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}
_UNSTATED = {1: False, 2: None}
"""Mask values: '.' and '?', as gemmi wants them."""


MAX_ELEMENTS = 1 << 14
"""In a list or map of the file: columns, categories and encodings are hundreds at most, and values are bytes."""


def read_blocks(path: str, data: bytes) -> list[cif.Block]:
    """The data blocks with atoms. Raises ``StructureError`` for damage."""
    try:
        content = _unpack(data)
        blocks = []
        for source in content["dataBlocks"]:
            categories = {c["name"]: c for c in source["categories"] if c["name"] in CATEGORIES}
            if "_atom_site" in categories and categories["_atom_site"]["rowCount"]:
                if categories["_atom_site"]["rowCount"] > len(data) // MIN_ATOM_BYTES:
                    raise ValueError(
                        f"{categories['_atom_site']['rowCount']} atoms cannot be stated in {len(data)} bytes"
                    )
                blocks.append(_block(categories))
        return blocks
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        raise StructureError(path, f"damaged BinaryCIF: {kind}{error}") from None


def _unpack(data: bytes) -> Any:
    """The one MessagePack value that ``data`` holds. Raises ``ValueError``."""
    try:
        return msgpack.unpackb(data, max_array_len=MAX_ELEMENTS, max_map_len=MAX_ELEMENTS, ext_hook=_no_extension)
    except ValueError as error:  # some of them have no text
        raise ValueError(f"not a MessagePack message: {str(error) or type(error).__name__}") from None


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} does not occur in BinaryCIF")


def _block(categories: dict[str, Any]) -> cif.Block:
    block = cif.Document().add_new_block("structure")
    for name, category in categories.items():
        for column in category["columns"]:
            _check_run_lengths(column["data"], category["rowCount"])
            _check_run_lengths(column.get("mask") or {"encoding": ()}, category["rowCount"])
        columns = {column["name"]: _column(column) for column in category["columns"]}
        lengths = {len(values) for values in columns.values()} | {category["rowCount"]}
        if len(lengths) != 1:
            raise ValueError(f"the columns of {name} have different lengths")
        if columns:
            block.set_mmcif_category(name, columns)
    return block


def _check_run_lengths(encoded: dict[str, Any], rows: int) -> None:
    """Raise ``ValueError`` where run lengths, the one encoding that expands, state more values than there are rows."""
    for encoding in encoded["encoding"]:
        if encoding["kind"] == "RunLength" and encoding["srcSize"] > rows + 1:  # offsets of strings are one more
            raise ValueError(f"run lengths of {encoding['srcSize']} values in a table of {rows} rows")
        for name in ("dataEncoding", "offsetEncoding"):
            _check_run_lengths({"encoding": encoding.get(name, ())}, rows)


def _column(column: dict[str, Any]) -> list[Any]:
    values = _decode(column["data"])
    texts = values if isinstance(values, list) else _texts(values)
    if column.get("mask") is None:
        return texts
    mask = np.asarray(_decode(column["mask"])).tolist()
    return [text if here == 0 else _UNSTATED[here] for text, here in zip(texts, mask, strict=True)]


def _texts(values: np.ndarray) -> list[str]:
    """Numbers as they would be written: the shortest decimal that reads back as the same number of its type."""
    if values.dtype == np.float32:
        return [np.format_float_positional(value, trim="0") for value in values]
    return list(map(str, values.tolist()))


def _decode(encoded: dict[str, Any]) -> Any:
    values: Any = encoded["data"]
    for encoding in reversed(encoded["encoding"]):
        kind = encoding["kind"]
        if kind not in _DECODERS:
            raise ValueError(f"unknown encoding {str(kind)[:40]!r}")
        values = _DECODERS[kind](values, encoding)
        if len(values) > MAX_VALUES:
            raise ValueError(f"a column of more than {MAX_VALUES} values")
    return values


def _byte_array(values: bytes, encoding: dict[str, Any]) -> np.ndarray:
    array = np.frombuffer(values, dtype=_TYPES[encoding["type"]])
    return array if array.dtype.kind == "f" else array.astype(np.int64)


def _fixed_point(values: np.ndarray, encoding: dict[str, Any]) -> np.ndarray:
    factor = float(encoding["factor"])
    if not 0 < abs(factor) < np.inf:
        raise ValueError(f"fixed point numbers with the factor {factor}")
    return values / factor


def _interval_quantization(values: np.ndarray, encoding: dict[str, Any]) -> np.ndarray:
    low, high = float(encoding["min"]), float(encoding["max"])
    if not (np.isfinite([low, high]).all() and encoding["numSteps"] > 1):
        raise ValueError(f"intervals from {low} to {high} in {encoding['numSteps']} steps")
    return low + values * ((high - low) / (encoding["numSteps"] - 1))


def _run_length(values: np.ndarray, encoding: dict[str, Any]) -> np.ndarray:
    counts = values[1::2]
    if len(values) % 2 or (counts < 0).any() or counts.sum() != encoding["srcSize"] or counts.sum() > MAX_VALUES:
        raise ValueError("run lengths do not add up to the stated size")
    return np.repeat(values[::2], counts)


def _delta(values: np.ndarray, encoding: dict[str, Any]) -> np.ndarray:
    return np.cumsum(values) + int(encoding["origin"])


def _integer_packing(values: np.ndarray, encoding: dict[str, Any]) -> np.ndarray:
    """Small integers; one at the limit of its type is added to the next."""
    if encoding["byteCount"] not in (1, 2):
        raise ValueError(f"packed integers of {encoding['byteCount']} bytes, expected 1 or 2")
    bits = 8 * encoding["byteCount"]
    limits = (2**bits - 1,) if encoding["isUnsigned"] else (2 ** (bits - 1) - 1, -(2 ** (bits - 1)))
    ends = ~np.isin(values, limits)
    if len(values) and not ends[-1]:
        raise ValueError("packed integers end early")
    totals = np.cumsum(values)[ends]
    unpacked = np.diff(totals, prepend=0)
    if len(unpacked) != encoding["srcSize"]:
        raise ValueError("packed integers are not as many as stated")
    return unpacked


def _string_array(values: bytes, encoding: dict[str, Any]) -> list[str]:
    text = encoding["stringData"]
    offsets = np.asarray(_decode({"data": encoding["offsets"], "encoding": encoding["offsetEncoding"]}))
    indices = np.asarray(_decode({"data": values, "encoding": encoding["dataEncoding"]}))
    if len(offsets) and ((np.diff(offsets) < 0).any() or offsets[0] < 0):  # so that all are no more than the text
        raise ValueError("strings that overlap in their text")
    words = [text[start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    if len(indices) and (indices.max() >= len(words) or indices.min() < -1):
        raise ValueError("a string that is not in the table of strings")
    return [words[index] if index >= 0 else "" for index in indices.tolist()]


_DECODERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "ByteArray": _byte_array,
    "FixedPoint": _fixed_point,
    "IntervalQuantization": _interval_quantization,
    "RunLength": _run_length,
    "Delta": _delta,
    "IntegerPacking": _integer_packing,
    "StringArray": _string_array,
}
