"""The observed residues of a chain along its SEQRES: whether it is believed, where they stand, the sequence of both."""

from dataclasses import dataclass

import numpy as np

from data_prep.files.wording import some
from data_prep.structure.atom_site import AtomSite, ParsedStructure
from data_prep.structure.components import kind, parent_letter
from data_prep.structure.polymers import LONGEST_STEP, bonded, distances
from data_prep.structure.seqres_alignment import align_to_seqres

MAX_SEQRES_DISAGREEMENT = 0.1
"""Share of observed residues that may differ from SEQRES or have no place in it before SEQRES is disbelieved."""

SURELY_OPEN = 6.0
"""angstrom: C and N of neighbours, and their alpha carbons, this far apart have something missing between them."""


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
    parsed: ParsedStructure,
    warnings: list[str],
) -> Placed:
    """Place the observed ``residues`` (int [n] of ``parsed.atoms``), given their letters."""
    seqres = parsed.seqres(int(residues[0]))
    seqres_letters = _letters(seqres, parsed)
    places = _seqres_places(residues, letters, seqres, seqres_letters, parsed, warnings) if seqres else None
    if places is None:
        steps = _steps(residues, parsed.atoms, warnings)
        everything = np.arange(len(residues))
        return Placed(letters, (np.cumsum(steps) - steps[0]).astype(np.int32), everything, everything)
    first, last = _without_caps(seqres, places)
    keep = np.flatnonzero(places >= 0)
    where = places[keep] - first
    sequence = _sequence(seqres_letters[first:last], where, _codes(letters)[keep], warnings)
    return Placed(sequence, np.arange(last - first, dtype=np.int32), keep, where)


def _steps(residues: np.ndarray, atoms: AtomSite, warnings: list[str] | None = None) -> np.ndarray:
    """int64 [n]: how many places each residue should stand after the one before: one where they are bonded, else by the
    author's numbers, and where these leave no gap that the coordinates show, as many as it takes to bridge it (with a
    remark among the ``warnings``, if asked for)."""
    numbers, backbone = atoms.seqnum[residues].astype(np.int64), atoms.backbone[residues]
    steps = np.ones(len(numbers), dtype=np.int64)
    np.maximum(numbers[1:] - numbers[:-1], 1, out=steps[1:])
    is_open = ~bonded(backbone[:-1], backbone[1:])
    jumps = np.count_nonzero((steps[1:] > 1) & ~is_open)
    if jumps and warnings is not None:
        warnings.append(f"{jumps} jumps of the numbers between bonded residues: no gaps")
    steps[1:][~is_open] = 1
    if warnings is None or not is_open.any():
        return steps
    apart, alpha = (distances(backbone[:-1], backbone[1:], *ends) for ends in ((2, 0), (1, 1)))
    gap = 1 + np.flatnonzero((steps[1:] == 1) & (apart > SURELY_OPEN) & (alpha > SURELY_OPEN))
    if len(gap):
        steps[gap] = np.maximum(np.ceil((alpha[gap - 1] - 1.0) / LONGEST_STEP), 2).astype(np.int64)
        shown = some([atoms.label(int(residue)) for residue in residues[gap]])
        warnings.append(f"{len(gap)} gaps that the numbers do not show, by C-N distance: before {shown}")
    return steps


def _seqres_places(
    residues: np.ndarray,
    letters: str,
    seqres: tuple[str, ...],
    seqres_letters: str,
    parsed: ParsedStructure,
    warnings: list[str],
) -> np.ndarray | None:
    """SEQRES position of each observed residue, -1 for none; None where the two do not belong together."""
    atoms = parsed.atoms
    stated, codes = _codes(seqres_letters), _codes(letters)

    def contradictions(places: np.ndarray) -> int:
        """Residues without a place or with a letter that SEQRES does not have there."""
        return int(np.count_nonzero((places < 0) | _contradict(codes, stated[places])))

    places, differ = None, len(residues)
    if parsed.has_labels:
        places = atoms.label_seq[residues].astype(np.int64) - 1
        places[(places >= len(seqres)) | np.append(False, np.diff(places) < 1)] = -1
        differ = contradictions(places)
    if places is None or differ:
        code = {name: i for i, name in enumerate(atoms.resname.values)}
        components = np.array([code.get(name, -1) for name in seqres], dtype=np.int64)
        observed, first_number = atoms.resname.code[residues], int(atoms.seqnum[residues[0]])
        aligned = align_to_seqres(components, seqres_letters, observed, letters, _steps(residues, atoms), first_number)
        if aligned is None and places is None:
            warnings.append(f"chain too long to align to SEQRES ({len(residues)} residues): observed sequence used")
            return None
        if aligned is not None and (places is None or contradictions(aligned) < differ):
            if places is not None:
                warnings.append(f"label_seq_id contradicts the sequence at {differ} residues: aligned instead")
            places, differ = aligned, contradictions(aligned)
    missing = places < 0
    if differ > max(1, MAX_SEQRES_DISAGREEMENT * len(residues)):
        warnings.append(
            f"SEQRES and ATOM sequences do not align ({differ} of {len(residues)} observed residues differ): "
            "observed sequence used"
        )
        return None
    if missing.any():
        backbone = atoms.backbone[residues]
        joint = bonded(backbone[:-1], backbone[1:])
        joined = missing & (np.append(joint, False) | np.append(False, joint))
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
