"""Files of any content read up to a limit of size, so that none of them can fill the memory.

Structure files have limits of their own (``structure_bytes``), and so have safetensors files: their header says where
each tensor lies, and the reader maps what is there.
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DOCUMENT_BYTES = 64 << 20
"""Of a JSON or TOML file: the largest that the commands write, fingerprints of big models, are below 10 MB."""
MAX_TABLE_BYTES = 1 << 30
"""Of a table, a list or a file of sequences or examples: a ledger of the whole PDB is below 100 MB."""

_ROWS = 4096
"""Of a Parquet file at a time."""


def read_document(path: str | os.PathLike) -> str:
    """Text of a JSON or TOML file. Raises ``OSError`` (EFBIG for a larger one), ``UnicodeDecodeError``."""
    return _read(path, MAX_DOCUMENT_BYTES).decode()


def read_json(path: str | os.PathLike) -> Any:
    """Content of a JSON file. Raises as ``read_document``, and ``json.JSONDecodeError``."""
    return parse_json(read_document(path))


def parse_json(text: str) -> Any:
    """``json.loads``, where nesting beyond the stack is an error of the text. Raises ``json.JSONDecodeError``."""
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None


def read_parquet(path: str | os.PathLike) -> "pa.Table":
    """A Parquet file: its pages may be small and what they stand for large, so that the limit is that of the table.

    Raises ``OSError`` (EFBIG for a larger one), ``pyarrow.ArrowException``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches, size = [], 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            size += batch.nbytes
            if size > MAX_TABLE_BYTES:
                raise OSError(errno.EFBIG, f"larger than {MAX_TABLE_BYTES} bytes when read", os.fspath(path))
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=file.schema_arrow).combine_chunks()


def read_table(path: str | os.PathLike, *, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Text of a CSV, JSON Lines or list file. Raises ``OSError`` (EFBIG for a larger one), ``UnicodeDecodeError``."""
    return read_table_bytes(path).decode(encoding, errors)


def read_table_bytes(path: str | os.PathLike) -> bytes:
    """Content of such a file; ``-`` is the standard input. Raises ``OSError`` (EFBIG for a larger one)."""
    if os.fspath(path) == "-":
        return bounded(sys.stdin.buffer, path, MAX_TABLE_BYTES)
    return _read(path, MAX_TABLE_BYTES)


def bounded(stream: BinaryIO, path: str | os.PathLike, max_bytes: int) -> bytes:
    """All of a stream, of which no more than one byte above the limit is read. Raises ``OSError`` (EFBIG)."""
    data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes, the limit for such a file", os.fspath(path))
    return data


def _read(path: str | os.PathLike, max_bytes: int) -> bytes:
    with Path(path).open("rb") as stream:
        return bounded(stream, path, max_bytes)
