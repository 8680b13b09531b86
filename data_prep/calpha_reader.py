"""The alpha carbons of a structure file: what ``structure_io`` reads, sooner.

Most PDB files are ordinary: fixed columns, standard residues in the order of their numbers, sound coordinates, no
SEQRES to place them along. Of such a file only the alpha carbons are converted, once it is certain that reading all of
it would find nothing to repair, drop or report. In doubt, and for the other formats, the whole file is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from data_prep.atom_arrays import ALLOWED_ATOMS
from data_prep.atom_site import AtomSite
from data_prep.calpha_trace import BColumn, CalphaTrace
from data_prep.components import CARBOXYL_NAMES, is_hydrogen
from data_prep.conformers import conformer_rows
from data_prep.decimals import read_decimals
from data_prep.pdb_columns import AtomRecords, decimals, leading_codes, polymer_records, whole_numbers
from data_prep.pdb_header import PdbHeader
from data_prep.residues import ATOM37_INDEX, RESNAMES, RESTYPES
from data_prep.structure_bytes import StructureError, StructureText, read_text
from data_prep.structure_io import read_structure
from data_prep.words import Words

_CA_BIT = 1 << ATOM37_INDEX["CA"]
_ATOM_BITS = (1 << len(ATOM37_INDEX)) - 1
_COMPONENT = 40
"""The bit of an ``identity`` word from which on it is the component, and of an atom's kind the aatype."""

_RECORDS_AT_ONCE = 30_000
"""Records (of several files) that are looked at together: enough to make the calls cheap, few enough for the cache."""

_ALTLOC = 0xFF << 32
_NO_ALTLOC = ord(" ") << 32
_LETTERS = np.frombuffer(RESTYPES.encode(), dtype=np.uint8)


def read_calpha(path: str | Path) -> list[CalphaTrace]:
    """The alpha carbons of all protein chains of the first model, in file order; never empty.

    Chains, residues, conformers and warnings are those of ``structure_io.read_structure``, and so are the errors.
    """
    (found,) = read_calpha_of([path])
    if isinstance(found, StructureError):
        raise found
    return found


def read_calpha_of(paths: Sequence[str | Path]) -> list[list[CalphaTrace] | StructureError]:
    """``read_calpha`` of several files, with the error in the place of a file that cannot be read.

    Ordinary files are looked at together, which takes less time than one after the other.
    """
    found: list[list[CalphaTrace] | StructureError | None] = [None] * len(paths)
    waiting: dict[int, _Candidate] = {}
    records = 0  # of those that wait

    def settle() -> None:
        for i, traces in zip(waiting, _traces([*waiting.values()]), strict=True):
            found[i] = traces
        waiting.clear()

    for i, path in enumerate(paths):
        try:
            text = read_text(path)
            candidate = _candidate(text) if text.format == "pdb" else None
        except StructureError as error:
            found[i] = error
            continue
        if candidate is not None:
            waiting[i] = candidate
            records += len(candidate.records)
            if records > _RECORDS_AT_ONCE:
                settle()
                records = 0
    settle()
    for i, path in enumerate(paths):
        if found[i] is None:
            try:
                found[i] = [CalphaTrace.of(record) for record in read_structure(path)]
            except StructureError as error:
                found[i] = error
    return found


class _AtomKinds:
    """What the atoms of standard residues are, by their ``identity`` words with a zero for the alternate location.

    A kind is the atom's bit by its place in atom37, none for a hydrogen, and from bit ``_COMPONENT`` on the aatype. The
    table goes by a hash value and learns words as they come; where two of them meet, it takes another multiplier.
    """

    _SLOT_BITS, _MOST = 18, 1000  # so few words that a multiplier which keeps them apart is found within some tries

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        self._multipliers = np.random.default_rng(0)
        self._fill()

    def __call__(self, words: np.ndarray) -> np.ndarray | None:
        """int64 [A] of uint64 [A]; None where one is no atom that a standard residue may have."""
        slot = self._slots(words)
        unknown = self._words.take(slot) != words
        if not unknown.any():
            return self._kinds.take(slot)
        found = {word: _atom_kind(word) for word in set(words[unknown].tolist())}
        if -1 in found.values() or len(found) > self._MOST // 2:
            return None
        if len(self._known) + len(found) > self._MOST:
            self._known.clear()
        self._known |= found
        self._fill()
        return self(words)

    def _slots(self, words: np.ndarray) -> np.ndarray:
        return ((words * self._multiplier) >> np.uint64(64 - self._SLOT_BITS)).view(np.int64)

    def _fill(self) -> None:
        words = np.array(list(self._known), dtype=np.uint64)
        while True:
            self._multiplier = self._multipliers.integers(1 << 63, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            slot = self._slots(words)
            if len(np.unique(slot)) == len(slot):
                break
        self._words, self._kinds = (np.zeros(1 << self._SLOT_BITS, dtype) for dtype in (np.uint64, np.int64))
        self._words[slot], self._kinds[slot] = words, list(self._known.values())


def _atom_kind(word: int) -> int:
    """The kind of one ``identity`` word, -1 where it is no atom that a standard residue may have."""
    text = word.to_bytes(8, "little").decode("latin-1")
    name, component = text[:4].strip(), text[5:]
    if component not in RESNAMES[: len(RESTYPES)] or name in CARBOXYL_NAMES:
        return -1
    aatype = RESNAMES.index(component)
    if name not in ATOM37_INDEX:
        return aatype << _COMPONENT if is_hydrogen(name) else -1
    return aatype << _COMPONENT | 1 << ATOM37_INDEX[name] if ALLOWED_ATOMS[aatype, ATOM37_INDEX[name]] else -1


_ATOM_KINDS = _AtomKinds()


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What may be an ordinary file: its lines are."""

    records: AtomRecords
    chains: list[AtomRecords]
    """The same, split by chain."""
    method: str | None
    sha256: str


def _candidate(text: StructureText) -> _Candidate | None:
    """The ATOM records of a file whose lines are ordinary; None for any other."""
    data = text.data if text.data.endswith(b"\n") else text.data + b"\n"
    start = 0 if data.startswith(b"ATOM") else data.find(b"\nATOM") + 1
    if not data.startswith(b"ATOM", start):
        return None
    header = b"\n" + data[:start]
    if b"\nHETATM" in header or b"\nSEQRES" in header or header.count(b"\nMODEL") > 1:
        return None
    records = polymer_records(data, start)
    if records is None or not len(records):
        return None
    chains = records.chain
    starts = [0, *((chains[1:] != chains[:-1]).nonzero()[0] + 1).tolist()]
    if len(starts) > 1 and len(set(chains[starts].tolist())) < len(starts):
        return None  # a chain that comes again
    method = PdbHeader(header.splitlines()).method() if b"EXPDTA" in header else None
    ends = [*starts[1:], len(records)]
    chains = (
        [records] if len(starts) == 1 else [records.take(slice(*place)) for place in zip(starts, ends, strict=True)]
    )
    return _Candidate(records, chains, method, text.sha256)


def _traces(files: Sequence[_Candidate]) -> list[list[CalphaTrace] | None]:
    """The traces of each file, None for one of which more would have to be said than its alternate locations."""
    if not files:
        return []
    traces = _ordinary(files)
    if traces is not None or len(files) == 1:
        return [None] if traces is None else traces
    half = len(files) // 2  # one of them is not ordinary: find it
    return _traces(files[:half]) + _traces(files[half:])


def _ordinary(files: Sequence[_Candidate]) -> list[list[CalphaTrace]] | None:
    """The traces of each file, None unless all files are ordinary."""
    chains = [chain for file in files for chain in file.chains]
    offset = np.cumsum([0, *map(len, chains)])
    identity, residue, coordinates = (
        np.concatenate([getattr(file.records, name) for file in files])
        for name in ("identity", "residue", "coordinates")
    )
    words = identity ^ np.uint64(_NO_ALTLOC)
    labelled = int(np.bitwise_or.reduce(words)) & _ALTLOC
    if labelled:
        words &= ~np.uint64(_ALTLOC)
    kinds = _ATOM_KINDS(words)
    codes = leading_codes(coordinates.ravel())
    if kinds is None or codes is None:
        return None
    codes = codes.reshape(-1, 3)
    component = words >> np.uint64(_COMPONENT)
    new = np.ones(len(residue), dtype=bool)
    np.not_equal(residue[1:], residue[:-1], out=new[1:])
    new[1:] |= component[1:] != component[:-1]
    new[offset[:-1]] = True
    start = new.nonzero()[0]
    size = len(start)
    chain_start = np.searchsorted(start, offset)
    inside = np.ones(size, dtype=bool)  # a residue that follows another one of its chain
    inside[chain_start[:-1]] = False
    place = residue[start]
    number, insertion = whole_numbers(place >> np.uint64(16)), (place >> np.uint64(48)).astype(np.uint8)
    if number is None or (place.astype(np.uint8) != ord(" ")).any():  # a chain id or component of more letters
        return None
    order = number * 256 + insertion
    if not (order[1:] > order[:-1])[inside[1:]].all():
        return None

    warnings: list[list[str]] = [[] for _ in chains]
    if labelled:
        for chain, first, last, said in zip(chains, offset[:-1], offset[1:], warnings, strict=True):
            chosen = _conformers(chain, new[first:last].cumsum() - 1, said)
            if chosen is not None:
                kinds[first:last][~chosen] &= ~_ATOM_BITS  # as if these atoms were hydrogens
    bits = kinds & _ATOM_BITS
    present = np.bitwise_or.reduceat(kinds, start)
    if ((present & _ATOM_BITS) != np.add.reduceat(bits, start)).any():
        return None  # an atom twice
    if not np.bitwise_or.reduceat(present & _ATOM_BITS, chain_start[:-1]).all():
        return None  # a chain of nothing but hydrogens
    n_atoms = np.add.reduceat(bits != 0, offset[:-1], dtype=np.int64).tolist()
    rows = (bits == _CA_BIT).nonzero()[0]
    where = slice(None) if len(rows) == size else np.searchsorted(start, rows, side="right") - 1
    positions, mask = np.zeros((size, 3), dtype=np.float32), np.zeros(size, dtype=bool)
    positions[where], mask[where] = decimals(coordinates[rows], codes[rows]), True
    # Residues that differ by their insertion code alone follow each other.
    step = np.where(inside, np.maximum(np.diff(number, prepend=0), 1), 0)
    index = step.cumsum()
    letters = _LETTERS[present >> _COMPONENT].tobytes().decode("ascii")
    code = np.where(insertion == ord(" "), 0, insertion).astype(np.uint32).view("<U1")
    chain_ids = (place[chain_start[:-1]] >> np.uint64(8)).astype(np.uint8).tobytes().decode("ascii")

    def trace(file: _Candidate, i: int) -> CalphaTrace:
        part, atoms = (slice(*where[i : i + 2].tolist()) for where in (chain_start, offset))
        return CalphaTrace(
            chain_id=chain_ids[i].strip(),
            sequence=letters[part],
            residue_index=(index[part] - index[part.start]).astype(np.int32),
            auth_seq_id=number[part].astype(np.int32),
            insertion_code=code[part],
            ca_positions=positions[part],
            ca_mask=mask[part],
            n_atoms=n_atoms[i],
            method=file.method,
            source_sha256=file.sha256,
            warnings=tuple(warnings[i]),
            cut_b_column=lambda: _b_column(chains[i].factors, bits[atoms], start[part] - atoms.start),
        )

    places = iter(range(len(chains)))
    return [[trace(file, i) for i in islice(places, len(file.chains))] for file in files]


def _b_column(factors: np.ndarray, bits: np.ndarray, start: np.ndarray) -> BColumn:
    """The column of the atoms (their bits int64 [A]) of residues that begin at ``start`` (int64 [N])."""
    residue = np.zeros(len(bits), dtype=np.int64)
    residue[start[1:]] = 1
    heavy = bits != 0
    return BColumn(len(start), residue.cumsum()[heavy], bits[heavy] == _CA_BIT, factors[heavy, 6:])


def _conformers(atoms: AtomRecords, residue: np.ndarray, warnings: list[str]) -> np.ndarray | None:
    """bool [A]: the atoms of the chosen conformer of each residue, and all of those without alternate locations; None
    without any. ``residue`` int64 [A] is the number of each atom's residue, from 0 on."""
    altloc = (atoms.identity >> np.uint64(32)).astype(np.uint8)
    if (altloc == ord(" ")).all():
        return None
    labelled = np.zeros(int(residue[-1]) + 1, dtype=bool)
    labelled[residue[altloc != ord(" ")]] = True
    rows = np.flatnonzero(labelled[residue])
    count = np.bincount(residue[rows], minlength=len(labelled))[labelled]
    n = len(count)
    nothing, same = np.zeros(n, dtype=np.int32), Words.constant("", n)
    site = AtomSite(
        name=Words.constant("", len(rows)),
        altloc=Words.of_cells(altloc[rows, None]),
        xyz=np.zeros((len(rows), 3)),
        occupancy=_occupancy(atoms.factors[rows, :6]),
        b_factor=np.zeros(len(rows), dtype=np.float32),
        start=np.cumsum(count) - count,
        resname=same, chain=same, segment=same, ters=nothing, seqnum=nothing, icode=same, label_seq=nothing,
        hetero=np.zeros(n, dtype=bool),
    )  # fmt: skip
    kept, _ = conformer_rows(np.arange(n), site, warnings)
    chosen = np.ones(len(atoms), dtype=bool)
    chosen[rows] = False
    chosen[rows[kept]] = True
    return chosen


def _occupancy(cells: np.ndarray) -> np.ndarray:
    """float32 [A] of uint8 [A, 6]; 1 where none is stated."""
    values, stated = read_decimals(cells, 2, 0.0)
    values = values.astype(np.float32)
    values[~stated] = 1.0
    return values
