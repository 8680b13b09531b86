"""Where the observed residues of a PDB chain stand in its SEQRES: a dynamic programme that believes the numbering.

mmCIF states the place of every residue (label_seq_id), PDB does not. A plain sequence alignment leaves open which of
several equal residues beside a gap was observed; the author's numbers and the peptide bonds usually tell.
"""

import numpy as np

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
