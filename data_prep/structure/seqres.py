"""The observed residues of a chain along its SEQRES: whether it is believed, where they stand, the sequence of both.

mmCIF states the place of every residue (label_seq_id), PDB does not. A plain sequence alignment leaves open which of
several equal residues beside a gap was observed; the author's numbers and the peptide bonds usually tell, so that a
dynamic programme that believes the numbering places them.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.files.text import some
from data_prep.structure.atom_site import AtomSite, ParsedStructure
from data_prep.structure.components import kind, parent_letter
from data_prep.structure.polymers import LONGEST_STEP, bonded, distances

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

    places: np.ndarray | None = None
    differ = len(residues)
    if parsed.has_labels:
        places = atoms.label_seq[residues].astype(np.int64) - 1
        places[(places >= len(seqres)) | np.append(False, np.diff(places) < 1)] = -1
        differ = contradictions(places)
    if places is None or differ:
        code = {name: i for i, name in enumerate(atoms.resname.values)}
        components = np.array([code.get(name, -1) for name in seqres], dtype=np.int64)
        observed, first_number = atoms.resname.code[residues], int(atoms.seqnum[residues[0]])
        aligned = align_to_seqres(components, seqres_letters, observed, letters, _steps(residues, atoms), first_number)
        if places is None and aligned is None:
            warnings.append(f"chain too long to align to SEQRES ({len(residues)} residues): observed sequence used")
            return None
        if aligned is not None and (places is None or contradictions(aligned) < differ):
            if places is not None:
                warnings.append(f"label_seq_id contradicts the sequence at {differ} residues: aligned instead")
            places, differ = aligned, contradictions(aligned)
    assert places is not None
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


MATCH = 4.0
SAME_PARENT = 3.0
MISMATCH = -4.0
MISNUMBERED_NEIGHBOUR = -1.0
"""The next SEQRES position although the numbers (or an open peptide bond) say otherwise."""
JUMP = -3.0
"""Any later SEQRES position that the numbers do not give."""
NOT_IN_SEQRES = -5.0
"""An observed residue without a place."""
MAX_CELLS = 25_000_000
"""Observed times SEQRES residues that fit in memory (5,000 x 5,000)."""


def align_to_seqres(
    seqres: np.ndarray,
    seqres_letters: str,
    observed: np.ndarray,
    observed_letters: str,
    steps: np.ndarray,
    first_number: int,
) -> np.ndarray | None:
    """Place the observed residues along SEQRES, in order.

    ``seqres`` int [m] and ``observed`` int [n] are components: equal numbers for equal ones, -1 in ``seqres`` for those
    that are not observed; the letters are those of their parents. ``steps`` int [n] is how many positions each observed
    residue should stand after the one before it (the first value is not used); ``first_number`` is the author's number
    of the first, which breaks ties. Returns int [n], the SEQRES position from 0 or -1 for a residue without a place;
    None where the two are too long to compare (``MAX_CELLS``).
    """
    n, m = len(observed), len(seqres)
    if n * m > MAX_CELLS:
        return None
    placed = _place_rigidly(seqres, observed, steps, first_number)
    if placed is None:
        placed = _place(_match_scores(seqres, seqres_letters, observed, observed_letters), steps, first_number)
    return placed


def _match_scores(s: np.ndarray, seqres_letters: str, o: np.ndarray, observed_letters: str) -> np.ndarray:
    """float32 [n, m], from the component codes ``s`` int [m] and ``o`` int [n] and their one-letter parents."""
    sl, ol = np.array(list(seqres_letters)), np.array(list(observed_letters))
    score = np.where(ol[:, None] == sl[None, :], SAME_PARENT, MISMATCH).astype(np.float32)
    score[(ol == "X")[:, None] | (sl == "X")[None, :]] = 0.0
    score[o[:, None] == s[None, :]] = MATCH
    return score


def _place_rigidly(s: np.ndarray, o: np.ndarray, steps: np.ndarray, first_number: int) -> np.ndarray | None:
    """The placement that follows the steps throughout, if every residue then matches: the usual case."""
    if (steps[1:] < 1).any():
        return None
    offsets = np.cumsum(steps) - steps[0]
    last_start = len(s) - 1 - int(offsets[-1])

    def fits(start: int) -> bool:
        return 0 <= start <= last_start and bool((s[start + offsets] == o).all())

    if fits(first_number - 1):
        return first_number - 1 + offsets
    starts = np.arange(last_start + 1)
    for i, offset in enumerate(offsets.tolist()):  # few residues are needed to tell a start from the others
        starts = starts[s[starts + offset] == o[i]]
        if len(starts) <= 1:
            break
    start = next((start for start in starts.tolist() if fits(start)), None)
    return None if start is None else start + offsets


def _place(score: np.ndarray, steps: np.ndarray, first_number: int) -> np.ndarray:
    """The best placement: ``best[i]`` is the score so far with the last residue that has a place at position i."""
    n, m = score.shape
    best = score[0].copy()
    if 0 <= first_number - 1 < m:
        best[first_number - 1] += 0.5
    previous = np.full((n, m), -1, dtype=np.int32)  # SEQRES position of the state before, -1 at the start
    placed = np.ones((n, m), dtype=bool)
    start = np.float32(NOT_IN_SEQRES)  # none of the residues before has a place: this one starts afresh
    for j in range(1, n):
        step = max(int(steps[j]), 1)
        running = np.maximum.accumulate(best)
        argument = np.maximum.accumulate(np.where(best == running, np.arange(m), 0))
        options = np.full((3, m), -np.inf, dtype=np.float32)
        options[0, step:] = best[: m - step] if step < m else []
        options[1, 1:] = best[:-1] + (0.0 if step == 1 else MISNUMBERED_NEIGHBOUR)
        options[2, 1:] = running[:-1] + JUMP
        choice = options.argmax(axis=0)
        here = options[choice, np.arange(m)]
        origin = np.where(choice == 0, np.arange(m) - step, np.arange(m) - 1)
        origin[1:] = np.where(choice[1:] == 2, argument[:-1], origin[1:])
        fresh = start > here
        here, origin = np.where(fresh, start, here) + score[j], np.where(fresh, -1, origin)
        skipped = best + NOT_IN_SEQRES
        placed[j] = here >= skipped
        previous[j] = np.where(placed[j], origin, np.arange(m))
        best = np.where(placed[j], here, skipped)
        start = start + NOT_IN_SEQRES
    positions = np.full(n, -1, dtype=np.int64)
    i = int(best.argmax())
    for j in range(n - 1, -1, -1):
        if placed[j, i]:
            positions[j] = i
        i = int(previous[j, i])
        if i < 0:
            break
    return positions
