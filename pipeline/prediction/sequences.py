"""Sequences to fold: FASTA files and datasets to ``Query``; what a record may hold, and what becomes of it.

The rules, in full in docs/prediction.md: lower case is read as upper case; white space, gaps (``-`` and ``.``) and a
final ``*`` of each chain are left out; U and O are folded as their parent residues C and K; B, J, Z and X are folded as
unknown; ``:`` separates the chains of a complex. A record that breaks a rule is a ``Rejected``, the others go on.

Complexes are one chain for the model, as in fair-esm's ``esm.esmfold.v1.misc.encode_sequence`` (Lin et al. 2023): 25
glycines between chains, and everything from the second chain on numbered 512 further, once per chain. The linker is
folded and then left out of everything that is written.
"""

import gzip
import hashlib
import io
import re
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from Bio.SeqIO.FastaIO import SimpleFastaParser

from data_prep.dataset.store import StructureDataset
from data_prep.files.bounded_reading import MAX_TABLE_BYTES, bounded, read_table_bytes
from data_prep.files.errors import UserError
from data_prep.structure.residues import AATYPE_OF_LETTER, RESTYPES, sequence_to_aatype

PARENTS = {"U": "C", "O": "K"}
"""Selenocysteine and pyrrolysine differ from these in one atom and in a tail; the model has neither."""
AMBIGUOUS = "BJZX"
"""Letters for more than one residue (Asx, Leu or Ile, Glx, any): folded as unknown, which has no atoms."""

CHAIN_SEPARATOR = ":"
MAX_NAME = 100
"""Characters of a file name before its suffix; file systems allow 255 bytes."""
MAX_HEADER = 500
"""Characters of a header that predictions.csv keeps."""

LINKER_LENGTH = 25
INDEX_JUMP = 512

_GLYCINE = AATYPE_OF_LETTER["G"]
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SHOWN = 40
"""Characters of a header or line that a message shows."""


class InputError(UserError):
    """Sequences that cannot be folded; the message is one line."""


@dataclass(frozen=True, eq=False)
class Query:
    """A chain or complex to fold."""

    name: str
    """Safe as a file name, and unique in its source."""
    chains: tuple[str, ...]
    """One-letter codes of each chain: the 20 residues and X."""
    residue_index: tuple[np.ndarray, ...]
    """int64 [N] per chain, strictly increasing: where its residues are along the chain, from 0."""
    header: str = ""
    """What the source calls it, in full up to ``MAX_HEADER`` characters."""
    notes: tuple[str, ...] = ()
    """What was changed in reading, one line each."""

    @property
    def length(self) -> int:
        """Residues of all chains."""
        return sum(map(len, self.chains))

    @property
    def linked_length(self) -> int:
        """Residues that the model sees, linkers included."""
        return self.length + LINKER_LENGTH * (len(self.chains) - 1)

    @property
    def sequence(self) -> str:
        """The chains, joined by ``:``."""
        return CHAIN_SEPARATOR.join(self.chains)

    @property
    def key(self) -> str:
        """sha256 of what decides the prediction: letters and positions of all chains."""
        digest = hashlib.sha256(self.sequence.encode())
        for index in self.residue_index:
            digest.update(index.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Linked:
    """One sequence for the model. M residues, linkers included."""

    aatype: np.ndarray
    """int64 [M]."""
    residue_index: np.ndarray
    """int64 [M]."""
    chain: np.ndarray
    """int64 [M]: which chain a residue belongs to, -1 for linkers."""

    def __len__(self) -> int:
        return len(self.aatype)


@dataclass(frozen=True)
class Rejected:
    """A record that cannot be folded."""

    name: str
    header: str
    reason: str
    """One line."""


def link(query: Query) -> Linked:
    """The chains of ``query`` with linkers between them; a single chain as it is.

    A chain's own numbering is kept, so that its gaps stay; the linker goes on from its last residue.
    """
    aatype: list[np.ndarray] = []
    index: list[np.ndarray] = []
    chain: list[np.ndarray] = []
    first = 0
    for number, (sequence, own) in enumerate(zip(query.chains, query.residue_index, strict=True)):
        if number:
            first = int(index[-1][-1]) + 1 + INDEX_JUMP
        numbers = own - (own[0] if number else 0) + first
        aatype.append(sequence_to_aatype(sequence))
        index.append(numbers)
        chain.append(np.full(len(sequence), number))
        if number < len(query.chains) - 1:
            aatype.append(np.full(LINKER_LENGTH, _GLYCINE))
            index.append(numbers[-1] + 1 + np.arange(LINKER_LENGTH))
            chain.append(np.full(LINKER_LENGTH, -1))
    return Linked(np.concatenate(aatype), np.concatenate(index), np.concatenate(chain))


def single_chain(name: str, sequence: str, header: str = "") -> Query | Rejected:
    """A query from text as it stands in a FASTA record: one chain, or several with ``:`` between them."""
    chains: list[str] = []
    notes: list[str] = []
    parts = re.sub(r"\s", "", sequence).split(CHAIN_SEPARATOR)
    for number, part in enumerate(parts, start=1):
        where = f"chain {number} of {len(parts)}: " if len(parts) > 1 else ""
        ungapped = re.sub(r"[-.]", "", part)
        if len(ungapped) < len(part):
            notes.append(f"{where}{len(part) - len(ungapped)} gap characters left out")
        if ungapped.endswith("*"):
            ungapped = ungapped[:-1]
            notes.append(f"{where}final stop sign left out")
        if not ungapped:
            return Rejected(name, header, f"{where}no sequence")
        if "*" in ungapped:
            place = ungapped.index("*") + 1
            return Rejected(name, header, f"{where}stop sign (*) at position {place}: only the last may be one")
        odd = re.search(r"[^A-Za-z]", ungapped)  # before upper(), which makes "SS" of a sharp s
        if odd:
            letter = ascii(odd[0]).replace("\\\\", "\\")
            return Rejected(name, header, f"{where}{letter} at position {odd.start() + 1}: one-letter codes expected")
        ungapped = ungapped.upper()
        if _looks_nucleic(ungapped):
            notes.append(f"{where}looks like {'RNA' if 'U' in ungapped else 'DNA'}, and is folded as amino acids")
        for letter, parent in PARENTS.items():
            if letter in ungapped:
                notes.append(f"{where}{ungapped.count(letter)} {letter} folded as {parent}")
        for letter in AMBIGUOUS:
            if letter in ungapped:
                notes.append(f"{where}{ungapped.count(letter)} {letter} folded as unknown, without atoms")
        standard = "".join(PARENTS.get(letter, letter) for letter in ungapped)
        chains.append("".join(letter if letter in RESTYPES else "X" for letter in standard))
        if set(chains[-1]) == {"X"}:
            return Rejected(name, header, f"{where}every residue is unknown")
    index = tuple(np.arange(len(chain)) for chain in chains)
    return Query(name, tuple(chains), index, header, tuple(notes))


def _looks_nucleic(letters: str) -> bool:
    """Whether these are the letters of DNA or RNA, and enough of them that no protein has only these."""
    return len(letters) >= 10 and len(set(letters)) >= 3 and set(letters) <= set("ACGTUN")


def _is_a3m(text: str) -> bool:
    """Whether rows have insertions in lower case between columns in upper case, as many in every row."""
    rows = [re.sub(r"\s", "", raw) for _, raw in SimpleFastaParser(io.StringIO(text))] if text.startswith(">") else []
    columns = {len(re.sub(r"[a-z.]", "", row)) for row in rows}
    has_insertions = any(re.search(r"[A-Z-][a-z]+[A-Z-]", row) for row in rows)
    return len(rows) > 1 and len(columns) == 1 and has_insertions


def read_fasta(path: Path) -> list[Query | Rejected]:
    """Records of a FASTA file in their order, named by the first word of their headers.

    ``path`` may be gzipped, or ``-`` for the standard input. Names are made safe (``safe_name``), and unique without
    regard to case by a number at the end. Bytes that are no UTF-8 count as one unknown character.

    Raises:
        InputError: no such file, not FASTA, or no record that can be folded.
    """
    text = _read_text(path).lstrip()
    if not text:
        raise InputError(f"{path}: is empty: records that start with '>' are expected")
    first_line = _printable(text.split("\n", 1)[0])
    if first_line.startswith(("# STOCKHOLM", "CLUSTAL")) or _is_a3m(text):
        raise InputError(
            f"{path}: an alignment, whose rows are not sequences to fold: give FASTA records of its queries"
        )
    if not first_line.startswith(">"):
        raise InputError(f"{path}: not FASTA: its first line must start with '>', and is {first_line[:_SHOWN]!r}")
    records: list[Query | Rejected] = []
    taken: set[str] = set()
    copies: dict[str, int] = {}
    for number, (title, raw) in enumerate(SimpleFastaParser(io.StringIO(text)), start=1):
        header = _printable(title)
        name = safe_name(header) or f"sequence_{number}"
        unique, same = name, name.lower()
        while unique.lower() in taken:  # file systems may not tell upper from lower case
            copies[same] = copies.get(same, 1) + 1
            unique = f"{name}_{copies[same]}"
        taken.add(unique.lower())
        shown = header if len(header) <= MAX_HEADER else header[: MAX_HEADER - 3] + "..."
        records.append(single_chain(unique, raw, shown))
    first = records[0]
    if isinstance(first, Rejected) and all(isinstance(record, Rejected) for record in records):
        shown = f"{first.header[:_SHOWN]!r}: {first.reason}"
        raise InputError(f"{path}: none of its {len(records)} records can be folded; the first, {shown}")
    return records


def dataset_queries(dataset: StructureDataset, split: str) -> list[Query | Rejected]:
    """Sequences of a split of a dataset, numbered as their chains are. Raises InputError for an empty split."""
    names = dataset.ids(split)
    if not names:
        raise InputError(f"{dataset.path}: no chain in split {split!r}")
    return [
        Rejected(record.id, record.id, "every residue is unknown")
        if set(record.sequence) == {"X"}
        else Query(record.id, (record.sequence,), (record.residue_index.astype(np.int64),), record.id)
        for record in map(dataset.load, names)
    ]


def safe_name(header: str) -> str:
    """The first word of a header as a file name; '' where nothing of it is left.

    Letters, digits and ``_ . + -`` of ASCII stay, accents are taken off, every other character becomes ``_``. A name
    never starts with a dot or a dash and is never a device of Windows; a long one is cut and ends in part of its hash.
    """
    word = header.split()[0] if header.split() else ""
    plain = unicodedata.normalize("NFKD", word)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", plain).strip(".")
    if name.startswith("-") or _WINDOWS_DEVICES.fullmatch(name):
        name = f"_{name.removeprefix('-')}"
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        name = f"{name[: MAX_NAME - 13]}_{digest}"
    return name


def _read_text(path: Path) -> str:
    try:
        data = read_table_bytes(path)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as stream:
                data = bounded(stream, path, MAX_TABLE_BYTES)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as FASTA: {getattr(error, 'strerror', None) or error}") from error
    return data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _printable(text: str) -> str:
    """Control characters, which break terminals and tables, as the character for what is unknown."""
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text.strip())
