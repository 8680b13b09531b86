"""From the atoms of a model to one ``ProteinRecord`` per protein chain: the decisions, the same for both formats.

- A chain is a protein if it has more L-amino-acid residues than D-amino acids and than nucleotides. Others are listed
  as skipped with the reason. Ligands, ions, water and the caps ACE and NH2 are no residues of a chain.
- A modified residue is its parent (MSE is M), with the atoms that the parent has too. A D-amino acid inside an
  L-chain is X with its backbone. X keeps N, CA, C, O and CB.
- Of alternate locations the residue keeps one, as a whole: the one of highest mean occupancy, ties to the first
  listed. Microheterogeneity (two components at one place) is decided in the same way.
- The letter at an observed residue is what the coordinates are, also where SEQRES says something else.
- Coordinates are rounded to 0.001 angstrom, the precision of the formats and of our datasets.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data_prep.atom_site import AtomSite, ParsedStructure
from data_prep.components import ATOM_NAMES_EVERYWHERE, ATOM_NAMES_OF_PARENT, LETTER_OF_RESNAME, kind, parent_letter
from data_prep.record import ProteinRecord
from data_prep.residues import ATOM37_INDEX, RESTYPE_ATOM37_MASK, UNKNOWN_AATYPE, sequence_to_aatype
from data_prep.seqres_alignment import align_to_seqres

MAX_SEQRES_DISAGREEMENT = 0.1
"""Share of observed residues that may differ from SEQRES or have no place in it before SEQRES is disbelieved."""

PEPTIDE_BOND = 2.0
"""angstrom: C and N of neighbours nearer than this are bonded (1.33 ideal)."""

_BACKBONE = frozenset({"N", "CA", "C"})
_N, _C = ATOM37_INDEX["N"], ATOM37_INDEX["C"]
_ALLOWED = RESTYPE_ATOM37_MASK.copy()
_ALLOWED[UNKNOWN_AATYPE, [ATOM37_INDEX[name] for name in ("N", "CA", "C", "O", "CB")]] = True
_ALLOWED[:, ATOM37_INDEX["OXT"]] = True


@dataclass(frozen=True)
class SkippedChain:
    """A chain of polymer residues that is no protein."""

    chain_id: str
    reason: str


@dataclass
class _Residue:
    """Rows of one component at one place of a chain."""

    chain: str
    segment: str
    seqnum: int
    icode: str
    label_seq: int
    resname: str
    hetero: bool
    rows: np.ndarray

    @property
    def place(self) -> tuple:
        return (self.label_seq, self.seqnum, self.icode)

    def __str__(self) -> str:
        return f"{self.resname} {self.chain}{self.seqnum}{self.icode}"


def assemble(
    parsed: ParsedStructure, *, name: str, source_file: str, source_sha256: str
) -> tuple[list[ProteinRecord], list[SkippedChain], str]:
    """Records of all protein chains in file order, other polymers, and what the file holds in words."""
    residues = _residues(parsed.atoms)
    records: list[ProteinRecord] = []
    skipped: list[SkippedChain] = []
    taken: set[str] = set()
    for polymer in _polymers(residues, parsed):
        counts = Counter(_kind(residue, parsed) for residue in polymer)
        chain_id = polymer[0].chain
        n_amino, n_d, n_nucleotide = counts["amino"], counts["D-amino"], counts["nucleotide"]
        if n_amino == 0 or n_amino <= max(n_d, n_nucleotide):
            if n_d or n_nucleotide:
                what = f"{n_nucleotide} nucleotides" if n_nucleotide >= n_d else f"{n_d} D-amino acids"
                skipped.append(SkippedChain(chain_id, f"no protein chain ({what}, {n_amino} L-amino acids)"))
            continue
        polymer = [residue for residue in polymer if _kind(residue, parsed) in ("amino", "D-amino", "listed")]
        record_id = _unique_id(name, chain_id, taken)
        record = _record(polymer, parsed, record_id, source_file=source_file, source_sha256=source_sha256)
        if record.atom37_mask.any():
            records.append(record)
        else:
            skipped.append(SkippedChain(chain_id, f"none of the atoms of {len(polymer)} amino acids is a protein's"))
    return records, skipped, _content(residues)


def _content(residues: Iterable[_Residue]) -> str:
    counts = Counter(kind(residue.resname) for residue in residues)
    words = {"nucleotide": "nucleotides", "water": "waters", "D-amino": "D-amino acids", "amino": "amino acids"}
    other = counts["other"] + counts["unknown"]
    parts = [f"{counts[key]} {word}" for key, word in words.items() if counts[key]]
    return ", ".join(parts + ([f"{other} other residues"] if other else []))


def _unique_id(stem: str, chain_id: str, taken: set[str]) -> str:
    """``<stem>_<chain>``, safe as a file name also where upper and lower case are the same."""
    base = re.sub(r"[^A-Za-z0-9._+-]", lambda m: f"%{ord(m[0]):02X}", f"{stem}_{chain_id}" if chain_id else stem)
    unique, number = base, 2
    while unique.lower() in taken:
        unique, number = f"{base}-{number}", number + 1
    taken.add(unique.lower())
    return unique


def _residues(atoms: AtomSite) -> list[_Residue]:
    """Atoms grouped by place and component, in order of first appearance."""
    columns = (atoms.chain, atoms.segment, atoms.seqnum, atoms.icode, atoms.label_seq, atoms.resname)
    new = np.ones(len(atoms), dtype=bool)
    if len(atoms) > 1:
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(atoms))
    keys = zip(*(column[starts].tolist() for column in columns), strict=True)
    runs: dict[tuple, list[tuple[int, int]]] = {}
    for key, start, end in zip(keys, starts.tolist(), ends.tolist(), strict=True):
        runs.setdefault(key, []).append((start, end))
    residues = []
    for (chain, segment, seqnum, icode, label_seq, resname), spans in runs.items():
        rows = np.concatenate([np.arange(start, end) for start, end in spans])
        residues.append(_Residue(chain, segment, seqnum, icode, label_seq, resname, bool(atoms.hetero[rows[0]]), rows))
    return residues


def _kind(residue: _Residue, parsed: ParsedStructure) -> str:
    """``components.kind``, where an unknown component with a peptide backbone is an amino acid, and one that only
    SEQRES knows is 'listed'.
    """
    known = kind(residue.resname)
    if residue.resname == "UNK" and "CA" not in parsed.atoms.name[residue.rows]:
        return "other"  # the name is also given to ligands that nobody identified
    if known != "unknown":
        return known
    if residue.resname in parsed.parents or set(parsed.atoms.name[residue.rows].tolist()) >= _BACKBONE:
        return "amino"
    return "listed" if residue.label_seq or residue.resname in _seqres(residue, parsed) else "other"


def _seqres(residue: _Residue, parsed: ParsedStructure) -> tuple[str, ...]:
    return parsed.sequences.get(residue.segment if parsed.has_labels else residue.chain, ())


def _polymers(residues: list[_Residue], parsed: ParsedStructure) -> list[list[_Residue]]:
    """Polymer residues by chain. In PDB files what follows TER as HETATM is ligand or water; a chain id that comes
    again with the same numbers (after TER, or from its first residue on) is another chain.
    """
    polymers: dict[tuple, list[_Residue]] = {}
    if parsed.has_labels:
        for residue in residues:
            if residue.label_seq > 0:
                polymers.setdefault((residue.chain, residue.segment), []).append(residue)
        return list(polymers.values())
    copies: Counter[str] = Counter()
    seen: dict[str, dict[tuple, str]] = {}
    for residue in residues:
        after_ter = residue.segment not in ("", "0") and residue.segment.isdigit()
        if kind(residue.resname) in ("water", "other") or (after_ter and residue.hetero):
            continue
        places = seen.setdefault(residue.chain, {})
        if places.get(residue.place, residue.segment) != residue.segment:
            copies[residue.chain] += 1
            places.clear()
        places.setdefault(residue.place, residue.segment)
        polymers.setdefault((residue.chain, copies[residue.chain]), []).append(residue)
    return list(polymers.values())


def _record(
    polymer: list[_Residue], parsed: ParsedStructure, record_id: str, *, source_file: str, source_sha256: str
) -> ProteinRecord:
    atoms, warnings = parsed.atoms, list(parsed.warnings)
    polymer = _in_order(polymer, warnings)
    chosen = _one_component_per_place(polymer, atoms, parsed.has_labels, warnings)
    chosen = _one_conformer(chosen, atoms, warnings)
    _report_modified(chosen, parsed, warnings)
    letters = "".join(parent_letter(residue.resname, parsed.parents) for residue in chosen)
    positions, mask, b_factors = _atom37(chosen, letters, atoms, warnings)

    seqres = _seqres(chosen[0], parsed)
    places = _seqres_places(chosen, letters, positions, mask, seqres, parsed, warnings) if seqres else None
    if places is None:
        index = np.concatenate([[0], np.cumsum(_steps(chosen, positions, mask, by_bonds=False)[1:])])
        sequence, keep, size = letters, np.arange(len(chosen)), len(chosen)
        where = keep
    else:
        first, last = _without_caps(seqres, places)
        keep = np.flatnonzero(places >= 0)
        where, size = places[keep] - first, last - first
        index = np.arange(size)
        sequence = _sequence(seqres[first:last], where, [letters[i] for i in keep.tolist()], parsed, warnings)
    allowed = _ALLOWED[sequence_to_aatype(sequence)]

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.zeros((size, *values.shape[1:]), dtype=values.dtype)
        full[where] = values[keep]
        return full

    full_mask = spread(mask) & allowed
    numbers = np.array([residue.seqnum for residue in chosen], dtype=np.int32)
    icodes = np.array([residue.icode[:1] for residue in chosen], dtype="<U1")
    return ProteinRecord(
        id=record_id,
        chain_id=chosen[0].chain,
        sequence=sequence,
        residue_index=index.astype(np.int32),
        atom37_positions=np.where(full_mask[..., None], spread(positions), np.float32(0)),
        atom37_mask=full_mask,
        b_factors=np.where(full_mask, spread(b_factors), np.float32(0)),
        auth_seq_id=spread(numbers),
        insertion_code=spread(icodes),
        resolution=parsed.resolution,
        method=parsed.method,
        deposition_date=parsed.deposition_date,
        release_date=parsed.release_date,
        source_file=source_file,
        source_sha256=source_sha256,
        model_number=parsed.model_number,
        warnings=tuple(warnings),
    )


def _in_order(polymer: list[_Residue], warnings: list[str]) -> list[_Residue]:
    """File order, unless the file lists the chain backwards; along label_seq where there is one."""
    if polymer[0].label_seq:
        return sorted(polymer, key=lambda residue: residue.label_seq)
    numbers = np.array([residue.seqnum for residue in polymer])
    if len(polymer) > 2 and (np.diff(numbers) < 0).mean() > 0.9:
        warnings.append("residues stand in reverse order of their numbers: sorted")
        return sorted(polymer, key=lambda residue: (residue.seqnum, residue.icode))
    return polymer


def _one_component_per_place(
    polymer: list[_Residue], atoms: AtomSite, labelled: bool, warnings: list[str]
) -> list[_Residue]:
    """Microheterogeneity decided by occupancy; equal numbers without alternate locations are different residues."""
    by_place: dict[tuple, list[_Residue]] = {}
    for residue in polymer:
        by_place.setdefault(residue.place, []).append(residue)
    if len(by_place) == len(polymer):
        return polymer
    dropped: list[str] = []
    lost: set[int] = set()
    for group in by_place.values():
        if len(group) == 1:
            continue
        if labelled or all((atoms.altloc[residue.rows] != "").all() for residue in group):
            best = max(group, key=lambda residue: _best_altloc(residue, atoms)[1])
            lost |= {id(residue) for residue in group if residue is not best}
            dropped.append("/".join(residue.resname for residue in group) + f" -> {best}")
        else:
            names = ", ".join(residue.resname for residue in group)
            warnings.append(f"residues with one number and no insertion code, all kept: {names} at {group[0]}")
    if dropped:
        warnings.append(f"{len(dropped)} heterogeneous positions, highest occupancy kept: {_some(dropped)}")
    return [residue for residue in polymer if id(residue) not in lost]


def _best_altloc(residue: _Residue, atoms: AtomSite) -> tuple[str, float]:
    """The altloc of highest mean occupancy (the first listed among equals) and that mean."""
    altlocs, occupancy = atoms.altloc[residue.rows], atoms.occupancy[residue.rows].astype(np.float64)
    names = [name for name in dict.fromkeys(altlocs.tolist()) if name] or [""]
    means = {name: round(float(occupancy[altlocs == name].mean()), 6) for name in names}
    best = max(names, key=means.__getitem__)
    return best, means[best]


def _one_conformer(polymer: list[_Residue], atoms: AtomSite, warnings: list[str]) -> list[_Residue]:
    if (atoms.altloc == "").all():
        return polymer
    chosen, count = [], 0
    for residue in polymer:
        altlocs = atoms.altloc[residue.rows]
        if (altlocs == "").all():
            chosen.append(residue)
            continue
        best, _ = _best_altloc(residue, atoms)
        count += len(set(altlocs.tolist()) - {""}) > 1
        rows = residue.rows[(altlocs == "") | (altlocs == best)]
        chosen.append(_Residue(**{**vars(residue), "rows": rows}))
    if count:
        warnings.append(f"{count} residues with alternate locations: highest occupancy kept")
    return chosen


def _report_modified(polymer: list[_Residue], parsed: ParsedStructure, warnings: list[str]) -> None:
    counts = Counter(residue.resname for residue in polymer if residue.resname not in LETTER_OF_RESNAME)
    counts["UNK"] = sum(residue.resname == "UNK" for residue in polymer)
    shown = [f"{n} {name} -> {parent_letter(name, parsed.parents)}" for name, n in counts.items() if n]
    if shown:
        warnings.append(f"{sum(counts.values())} non-standard residues: {_some(shown)}")


def _atom37(
    polymer: list[_Residue], letters: str, atoms: AtomSite, warnings: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions float32 [n, 37, 3], mask bool [n, 37], B-factors float32 [n, 37] of the observed residues."""
    n = len(polymer)
    rows = np.concatenate([residue.rows for residue in polymer])
    residue = np.repeat(np.arange(n), [len(r.rows) for r in polymer])
    names = atoms.name[rows]
    unique, inverse = np.unique(names, return_inverse=True)
    plain = [ATOM37_INDEX.get(ATOM_NAMES_EVERYWHERE.get(name, name), -1) for name in unique.tolist()]
    atom = np.array(plain, dtype=np.int64)[inverse]
    for i, r in enumerate(polymer):
        if r.resname in ATOM_NAMES_OF_PARENT:
            for row in np.flatnonzero(residue == i):
                parent_name = ATOM_NAMES_OF_PARENT[r.resname].get(names[row])
                atom[row] = ATOM37_INDEX[parent_name] if parent_name else atom[row]
    allowed = _ALLOWED[sequence_to_aatype(letters)]
    for i, r in enumerate(polymer):
        if kind(r.resname) == "D-amino":
            allowed[i, ATOM37_INDEX["CB"]] = False
    fits = (atom >= 0) & allowed[residue, np.maximum(atom, 0)]
    standard = np.array([r.resname in LETTER_OF_RESNAME and r.resname != "UNK" for r in polymer])
    foreign = ~fits & standard[residue] & ~_is_hydrogen(names)
    if foreign.any():
        some = [f"{names[i]} of {polymer[residue[i]]}" for i in np.flatnonzero(foreign)]
        warnings.append(f"{len(some)} atoms that their residue type does not have dropped: {_some(some)}")
    stated = np.isfinite(atoms.xyz[rows]).all(axis=1)
    if (fits & ~stated).any():
        some = [f"{names[i]} of {polymer[residue[i]]}" for i in np.flatnonzero(fits & ~stated)]
        warnings.append(f"{len(some)} atoms without coordinates treated as missing: {_some(some)}")
    use = np.flatnonzero(fits & stated)
    place, first = np.unique(residue[use] * 37 + atom[use], return_index=True)
    if len(place) < len(use):
        repeated = np.delete(use, first)
        some = [f"{names[i]} of {polymer[residue[i]]}" for i in repeated]
        warnings.append(f"{len(repeated)} atoms listed twice, first kept: {_some(some)}")
    use = use[first]
    positions = np.zeros((n * 37, 3), dtype=np.float32)
    mask, b_factors = np.zeros(n * 37, dtype=bool), np.zeros(n * 37, dtype=np.float32)
    positions[place] = np.rint(atoms.xyz[rows[use]] * 1000) / 1000
    mask[place] = True
    b_factors[place] = atoms.b_factor[rows[use]]
    return positions.reshape(n, 37, 3), mask.reshape(n, 37), b_factors.reshape(n, 37)


def _is_hydrogen(names: np.ndarray) -> np.ndarray:
    """bool [A]: H or D, alone or after a digit; no heavy atom of a standard residue is named so."""
    return np.array([name.lstrip("0123456789")[:1] in ("H", "D", "") for name in names.tolist()], dtype=bool)


def _steps(polymer: list[_Residue], positions: np.ndarray, mask: np.ndarray, *, by_bonds: bool) -> np.ndarray:
    """int64 [n]: how many places each residue should stand after the one before, by number and (if asked) bond."""
    numbers = np.array([residue.seqnum for residue in polymer], dtype=np.int64)
    steps = np.ones(len(polymer), dtype=np.int64)
    steps[1:] = np.maximum(np.diff(numbers), 1)
    if by_bonds and len(polymer) > 1:
        both = mask[:-1, _C] & mask[1:, _N]
        length = np.linalg.norm(positions[1:, _N] - positions[:-1, _C], axis=-1)
        steps[1:][both & (length < PEPTIDE_BOND)] = 1
    return steps


def _seqres_places(
    polymer: list[_Residue],
    letters: str,
    positions: np.ndarray,
    mask: np.ndarray,
    seqres: tuple[str, ...],
    parsed: ParsedStructure,
    warnings: list[str],
) -> np.ndarray | None:
    """SEQRES position of each observed residue, -1 for none; None where the two do not belong together."""
    seqres_letters = "".join(parent_letter(component, parsed.parents) for component in seqres)
    if parsed.has_labels:
        places = np.array([residue.label_seq - 1 for residue in polymer])
        places[places >= len(seqres)] = -1
    else:
        steps = _steps(polymer, positions, mask, by_bonds=True)
        names = [residue.resname for residue in polymer]
        placed = align_to_seqres(seqres, seqres_letters, names, letters, steps, polymer[0].seqnum)
        if placed is None:
            warnings.append(f"chain too long to align to SEQRES ({len(polymer)} residues): observed sequence used")
            return None
        places = placed
    differ = sum(
        p < 0 or (letter != seqres_letters[p] and "X" not in (letter, seqres_letters[p]))
        for p, letter in zip(places.tolist(), letters, strict=True)
    )
    if differ > max(1, MAX_SEQRES_DISAGREEMENT * len(polymer)):
        warnings.append(
            f"SEQRES and ATOM sequences do not align ({differ} of {len(polymer)} observed residues differ): "
            "observed sequence used"
        )
        return None
    missing = [str(residue) for residue, p in zip(polymer, places.tolist(), strict=True) if p < 0]
    if missing:
        warnings.append(f"{len(missing)} residues that are not in SEQRES dropped: {_some(missing)}")
    return places


def _without_caps(seqres: tuple[str, ...], places: np.ndarray) -> tuple[int, int]:
    """SEQRES range without components at the ends that are no amino acids (ACE, NH2) and carry no observed residue."""
    observed = set(places.tolist())
    first, last = 0, len(seqres)
    while first < last and kind(seqres[first]) == "other" and first not in observed:
        first += 1
    while last > first and kind(seqres[last - 1]) == "other" and last - 1 not in observed:
        last -= 1
    return first, last


def _sequence(
    seqres: tuple[str, ...], where: np.ndarray, letters: list[str], parsed: ParsedStructure, warnings: list[str]
) -> str:
    sequence = [parent_letter(component, parsed.parents) for component in seqres]
    differ = []
    for place, letter in zip(where.tolist(), letters, strict=True):
        if letter == "X" or letter == sequence[place]:
            continue
        if sequence[place] != "X":
            differ.append(f"{sequence[place]}{place + 1}{letter}")
        sequence[place] = letter
    if differ:
        warnings.append(f"{len(differ)} residues are not what SEQRES says, observed kept: {_some(differ)}")
    return "".join(sequence)


def _some(items: list[str], limit: int = 5) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
