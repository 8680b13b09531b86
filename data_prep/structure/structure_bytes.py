"""From a path to the text of a structure file: opening, decompressing, telling PDB from mmCIF by content.

We open the bytes ourselves because parsers are silent on damage: a gzip stream that ends early or fails its checksum,
a NUL byte, a directory named like a structure. Every such case is a ``StructureError`` here.
"""

import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass
from typing import BinaryIO

try:
    from zlib_ng import zlib_ng as zlib  # twice as fast, half of the time of reading a compressed PDB file
except ImportError:
    import zlib  # type: ignore[no-redef]

from data_prep.files.errors import UserError

MAX_TEXT_BYTES = 512 << 20
"""Largest accepted text, decompressed: twice that of the largest entry of the PDB (3J3Q, an HIV-1 capsid of 2.4 million
atoms, 100 bytes each in mmCIF)."""

MAX_EXPANSION = 100
"""How many times its compressed size a text may have: coordinates compress four- to tenfold, bombs thousandfold. A file
of 1 MB thus never takes more than 100 MB, whatever it claims to hold."""

MIN_EXPANDED_BYTES = 16 << 20
"""Texts up to this size may have any ratio."""

_PIECE_BYTES = 1 << 20

_STRUCTURE_NAME = re.compile(r"\.(pdb\d*|ent|cif|mmcif|bcif)(\.gz)?$", re.IGNORECASE)
_BINARY_MAGIC = {
    b"BZh": "bzip2 data: decompress it, or compress with gzip",
    b"\xfd7zXZ": "xz data: decompress it, or compress with gzip",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "zstd data: decompress it, or compress with gzip",
    b"\x1f\x8b": "gzip inside gzip: decompress it once",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
}
_PDB_RECORDS = frozenset(
    b"HEADER OBSLTE TITLE SPLIT CAVEAT COMPND SOURCE KEYWDS EXPDTA NUMMDL MDLTYP AUTHOR REVDAT SPRSDE JRNL REMARK "
    b"DBREF DBREF1 DBREF2 SEQADV SEQRES MODRES HET HETNAM HETSYN FORMUL HELIX SHEET TURN SSBOND LINK CISPEP SITE "
    b"CRYST1 ORIGX1 ORIGX2 ORIGX3 SCALE1 SCALE2 SCALE3 MTRIX1 MTRIX2 MTRIX3 MODEL ATOM ANISOU TER HETATM ENDMDL "
    b"CONECT MASTER END PFRMAT TARGET PARENT METHOD".split()
)


class StructureError(UserError):
    """A structure file that cannot be used. ``str()`` is one line: the file, what was found, what was expected."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        self.path = str(path)
        self.reason = " ".join(reason.split())
        super().__init__(self.path, self.reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class StructureText:
    """The text of one structure file, checked and decompressed."""

    path: str
    format: str
    """'pdb', 'mmcif' or 'bcif' (BinaryCIF), told by the content."""
    data: bytes
    """Text without byte order mark and NUL bytes; BinaryCIF as it is."""
    sha256: str
    """Hash of the file as it lies on disk."""


def is_structure_name(path: str | os.PathLike) -> bool:
    """Whether the name ends like a structure file: .pdb (or .pdb1 ...), .ent, .cif, .mmcif, .bcif, plain or .gz."""
    return _STRUCTURE_NAME.search(os.path.basename(path)) is not None


def structure_stem(path: str | os.PathLike) -> str:
    """File name without ``.pdb .ent .cif .mmcif .bcif`` and ``.gz``; other endings stay."""
    name = os.path.basename(path)
    return _STRUCTURE_NAME.sub("", name) or name


def read_text(path: str | os.PathLike, *, max_bytes: int = MAX_TEXT_BYTES) -> StructureText:
    """Read, decompress and recognise one structure file.

    Raises ``StructureError`` if it is not a regular readable file, is empty, larger than ``max_bytes``, damaged as a
    gzip stream or one of more than ``MAX_EXPANSION``, binary, or neither PDB nor mmCIF.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise StructureError(path, f"{kind}, expected a structure file")
        with open(path, "rb") as file:
            data, digest = _contents(path, file, max_bytes)
    except OSError as error:
        raise StructureError(path, f"cannot be read ({error.strerror or error})") from None
    if _is_binary_cif(data):
        return StructureText(str(path), "bcif", data, digest)
    data = data.removeprefix(b"\xef\xbb\xbf")
    return StructureText(str(path), _sniff(path, data), data, digest)


def _contents(path: str | os.PathLike, file: BinaryIO, max_bytes: int) -> tuple[bytes, str]:
    """The decompressed content of an open file and the hash of the file as it lies on disk."""
    size = os.fstat(file.fileno()).st_size
    wanted = min(size + 1, _PIECE_BYTES)  # a buffer of the right size: clearing one costs
    first = file.read(wanted)
    if not first:
        raise StructureError(path, "empty file (0 bytes)")
    if first[:2] == b"\x1f\x8b":
        return _gunzip(path, first, file, max_bytes)
    if size > max_bytes:
        raise StructureError(path, f"larger than the limit of {max_bytes} bytes")
    data = first + file.read(size + 1 - len(first)) if len(first) == wanted else first
    return data, hashlib.sha256(data).hexdigest()


def _gunzip(path: str | os.PathLike, raw: bytes, file: BinaryIO, max_bytes: int) -> tuple[bytes, str]:
    """All members of a gzip file of which ``raw`` are the first bytes, and the hash of the file.

    Both sides go a piece at a time, and no more than one byte over the limit is ever decompressed.
    """
    digest = hashlib.sha256(raw)
    expanded = max(MAX_EXPANSION * os.fstat(file.fileno()).st_size, MIN_EXPANDED_BYTES)
    limit = min(max_bytes, expanded)
    text = io.BytesIO()  # hands out its bytes without a copy, and parts need not be joined
    stream = None
    while raw:
        if stream is None:
            if not b"\x1f\x8b".startswith(raw[:2]):
                raise StructureError(path, "bad gzip data (something else follows the stream): the file is damaged")
            stream = zlib.decompressobj(wbits=31)  # a gzip member, its checksum and length are verified
        try:
            text.write(stream.decompress(raw, min(limit + 1 - text.tell(), _PIECE_BYTES)))
        except zlib.error as error:  # type: ignore[misc]
            damaged = "incorrect data check" in str(error) or "incorrect length check" in str(error)
            reason = "gzip checksum mismatch" if damaged else f"bad gzip data ({error})"
            raise StructureError(path, f"{reason}: the file is damaged") from None
        if text.tell() > limit:
            if limit == max_bytes:
                raise StructureError(path, f"larger than the limit of {max_bytes} bytes")
            raise StructureError(path, f"a gzip stream of more than {MAX_EXPANSION} times its size: no structure file")
        raw = stream.unconsumed_tail
        if stream.eof:
            raw, stream = stream.unused_data.lstrip(b"\0"), None  # members may be padded
        while not raw and (piece := file.read(_PIECE_BYTES)):
            digest.update(piece)
            raw = piece if stream is not None else piece.lstrip(b"\0")
    if stream is not None:
        raise StructureError(path, "gzip stream ends early: the file is truncated")
    if not text.tell():
        raise StructureError(path, "empty file (0 bytes after decompression)")
    return text.getvalue(), digest.hexdigest()


def _is_binary_cif(data: bytes) -> bool:
    """A MessagePack map with the keys of a BinaryCIF file, of which 'dataBlocks' comes among the first."""
    return data[:1] in (b"\x82", b"\x83", b"\x84", b"\xde") and b"dataBlocks" in data[:256]


def _sniff(path: str | os.PathLike, data: bytes) -> str:
    for magic, what in _BINARY_MAGIC.items():
        if data.startswith(magic):
            raise StructureError(path, f"neither PDB nor mmCIF text: {what}")
    if b"\0" in data:
        place = data.index(b"\0")
        raise StructureError(path, f"neither PDB nor mmCIF text: binary data (NUL byte at offset {place})")
    if data[:6].rstrip() in _PDB_RECORDS:
        return "pdb"
    first = ""
    for line in io.BytesIO(data[: 1 << 16].replace(b"\r", b"\n")):
        words = line.split(None, 1)
        if not words or words[0].startswith(b"#"):
            continue
        first = first or line.decode("latin-1").strip()
        if words[0][:5].lower() == b"data_":
            return "mmcif"
        if line[:6].rstrip() in _PDB_RECORDS or line.startswith((b"ATOM", b"HETATM")):
            return "pdb"
    # Headers may be damaged or foreign: what counts is whether atoms follow.
    if re.search(rb"^(ATOM  |HETATM)", data.replace(b"\r", b"\n"), re.MULTILINE):
        return "pdb"
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:4096])
    if printable < 0.9 * len(data[:4096]):
        raise StructureError(path, "not a PDB or mmCIF file (binary data)")
    if not first:
        raise StructureError(path, "not a PDB or mmCIF file (nothing but blanks and comments at its beginning)")
    shown = ascii(first[:40])[1:-1]
    raise StructureError(path, f'not mmCIF (no "data_" line) and not PDB (no ATOM records): it begins with "{shown}"')
