"""The observed residues of a chain along its SEQRES: whether it is believed, where they stand, the sequence of both."""

from dataclasses import dataclass

import numpy as np

from data_prep.atom_site import ParsedStructure
from data_prep.components import kind, parent_letter
from data_prep.polymers import PEPTIDE_BOND
from data_prep.residues import ATOM37_INDEX
from data_prep.seqres_alignment import align_to_seqres
from data_prep.wording import some

MAX_SEQRES_DISAGREEMENT = 0.1
"""Share of observed residues that may differ from SEQRES or have no place in it before SEQRES is disbelieved."""

_N, _C = ATOM37_INDEX["N"], ATOM37_INDEX["C"]


@dataclass(frozen=True)
class Placed:
    """A chain's sequence and where its observed residues stand in it."""

    sequence: str
    """N letters; the letter at an observed residue is what the coordinates are."""
    index: np.ndarray
    """int32 [N], see ``ProteinRecord.residue_index``."""
    keep: np.ndarray
    """int64 [k], which of the n observed residues have a place."""
    where: np.ndarray
    """int64 [k], their places, 0 to N - 1."""


def place_residues(
    residues: np.ndarray,
    letters: str,
    positions: np.ndarray,
    mask: np.ndarray,
    parsed: ParsedStructure,
    warnings: list[str],
) -> Placed:
    """Place the observed ``residues`` (int [n] of ``parsed.atoms``), given their letters and atom37 arrays."""
    seqres = parsed.seqres(int(residues[0]))
    seqres_letters = _letters(seqres, parsed)
    places = (
        _seqres_places(residues, letters, positions, mask, seqres, seqres_letters, parsed, warnings) if seqres else None
    )
    if places is None:
        steps = _steps(parsed.atoms.seqnum[residues])
        everything = np.arange(len(residues))
        return Placed(letters, (np.cumsum(steps) - steps[0]).astype(np.int32), everything, everything)
    first, last = _without_caps(seqres, places)
    keep = np.flatnonzero(places >= 0)
    where = places[keep] - first
    sequence = _sequence(seqres_letters[first:last], where, _codes(letters)[keep], warnings)
    return Placed(sequence, np.arange(last - first, dtype=np.int32), keep, where)


def _steps(numbers: np.ndarray) -> np.ndarray:
    """int64 [n]: how many places each residue should stand after the one before, by the author's numbers."""
    wide = numbers.astype(np.int64)
    steps = np.ones(len(wide), dtype=np.int64)
    np.maximum(wide[1:] - wide[:-1], 1, out=steps[1:])
    return steps


def _bonded(positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """bool [n - 1]: residues whose N is bonded to the C of the one before."""
    length = np.linalg.norm(positions[1:, _N] - positions[:-1, _C], axis=-1)
    return mask[:-1, _C] & mask[1:, _N] & (length < PEPTIDE_BOND)


def _seqres_places(
    residues: np.ndarray,
    letters: str,
    positions: np.ndarray,
    mask: np.ndarray,
    seqres: tuple[str, ...],
    seqres_letters: str,
    parsed: ParsedStructure,
    warnings: list[str],
) -> np.ndarray | None:
    """SEQRES position of each observed residue, -1 for none; None where the two do not belong together."""
    atoms = parsed.atoms
    if parsed.has_labels:
        places = atoms.label_seq[residues].astype(np.int64) - 1
        places[places >= len(seqres)] = -1
    else:
        steps = _steps(atoms.seqnum[residues])
        steps[1:][_bonded(positions, mask)] = 1
        code = {name: i for i, name in enumerate(atoms.resname.values)}
        components = np.array([code.get(name, -1) for name in seqres], dtype=np.int64)
        observed, first_number = atoms.resname.code[residues], int(atoms.seqnum[residues[0]])
        placed = align_to_seqres(components, seqres_letters, observed, letters, steps, first_number)
        if placed is None:
            warnings.append(f"chain too long to align to SEQRES ({len(residues)} residues): observed sequence used")
            return None
        places = placed
    missing = places < 0
    differ = np.count_nonzero(missing | _contradict(_codes(letters), _codes(seqres_letters)[places]))
    if differ > max(1, MAX_SEQRES_DISAGREEMENT * len(residues)):
        warnings.append(
            f"SEQRES and ATOM sequences do not align ({differ} of {len(residues)} observed residues differ): "
            "observed sequence used"
        )
        return None
    if missing.any():
        bonded = _bonded(positions, mask)
        joined = missing & (np.append(bonded, False) | np.append(False, bonded))
        if joined.any():
            shown = some([atoms.label(residue) for residue in residues[joined].tolist()])
            warnings.append(f"SEQRES lacks {joined.sum()} residues of the chain: {shown}; observed sequence used")
            return None
        dropped = [atoms.label(residue) for residue in residues[missing].tolist()]
        warnings.append(f"{len(dropped)} residues that are not in SEQRES dropped: {some(dropped)}")
    return places


def _letters(seqres: tuple[str, ...], parsed: ParsedStructure) -> str:
    """One letter per component, each different one looked up once."""
    letter = {component: parent_letter(component, parsed.parents) for component in set(seqres)}
    return "".join([letter[component] for component in seqres])


def _codes(letters: str) -> np.ndarray:
    """uint8 [n]."""
    return np.frombuffer(letters.encode("ascii"), dtype=np.uint8)


def _contradict(observed: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """bool [n]: letters (as ``_codes``) that differ and are both known."""
    unknown = ord("X")
    return (observed != stated) & (observed != unknown) & (stated != unknown)


def _without_caps(seqres: tuple[str, ...], places: np.ndarray) -> tuple[int, int]:
    """SEQRES range without components at the ends that are no amino acids (ACE, NH2) and carry no observed residue."""
    first, last = 0, len(seqres)
    while first < last and kind(seqres[first]) == "other" and not (places == first).any():
        first += 1
    while last > first and kind(seqres[last - 1]) == "other" and not (places == last - 1).any():
        last -= 1
    return first, last


def _sequence(seqres_letters: str, where: np.ndarray, letters: np.ndarray, warnings: list[str]) -> str:
    """SEQRES with the observed ``letters`` (as ``_codes``) at their places, but for those that are X."""
    sequence = _codes(seqres_letters).copy()
    stated = sequence[where]
    sequence[where] = np.where(letters == ord("X"), stated, letters)
    differ = np.flatnonzero(_contradict(letters, stated)).tolist()
    if differ:
        shown = [f"{chr(stated[i])}{where[i] + 1}{chr(letters[i])}" for i in differ]
        warnings.append(f"{len(differ)} residues are not what SEQRES says, observed kept: {some(shown)}")
    return sequence.tobytes().decode("ascii")
