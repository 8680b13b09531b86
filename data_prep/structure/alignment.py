"""Alignment of two sequences with BLOSUM62 and affine gaps (Gotoh 1982): how similar they are, which residues pair.

How similar they are, a local alignment says by its score and its identity (Smith & Waterman 1981); a gap of k residues
costs 11 + k. The identity is that of the best alignment with the most identical pairs: where every score counts 2^16
and every identical pair one more, the best score tells both, without a doubt about which of several alignments is
meant. Scores come from parasail's vectorised kernels where they are installed (Daily 2016, BMC Bioinformatics 17, 81),
else from Biopython: the same numbers, some forty times slower. Which residues pair, an alignment of the whole sequences
says (``aligned_positions``).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from Bio.Align import PairwiseAligner, substitution_matrices

try:
    import parasail
except ImportError:  # no build of it for this platform
    parasail = None

GAP_OPEN = 12
"""Cost of the first residue of a gap."""
GAP_EXTEND = 1
"""Cost of each further residue."""

WHOLE_GAP_OPEN = 10
"""Cost of the first residue of a gap inside an alignment of whole sequences; each further one costs GAP_EXTEND."""


_LETTERS = "ARNDCQEGHILKMFPSTWYVX"
_UNIT = 1 << 16
"""Of the scores that count identical pairs beside: more than the residues of any chain (titin has 34,350)."""
_MAX_INT32_LENGTH = (1 << 31) // (11 * _UNIT) - 1
"""Residues of the shorter sequence up to which such scores fit in 32 bits; 11 is the highest of BLOSUM62."""


def _scores() -> np.ndarray:
    """int64 [21, 21]: BLOSUM62 of ``_LETTERS``."""
    table = substitution_matrices.load("BLOSUM62")
    return np.array([[int(table[a, b]) for b in _LETTERS] for a in _LETTERS])


def _counting_scores() -> np.ndarray:
    """int64 [21, 21]: the same in ``_UNIT``, and one more for an identical pair; X is identical to nothing."""
    return _scores() * _UNIT + np.diag([int(letter != "X") for letter in _LETTERS])


@lru_cache(maxsize=2)
def _aligner(counting: bool) -> PairwiseAligner:
    unit = _UNIT if counting else 1
    aligner = PairwiseAligner()
    aligner.mode = "local"
    table = _counting_scores() if counting else _scores()
    aligner.substitution_matrix = substitution_matrices.Array(_LETTERS, dims=2, data=table.astype(np.float64))
    aligner.open_gap_score, aligner.extend_gap_score = -float(GAP_OPEN * unit), -float(GAP_EXTEND * unit)
    return aligner


@lru_cache(maxsize=1)
def _counting_matrix() -> "parasail.Matrix":
    matrix = parasail.matrix_create(_LETTERS, 0, 0)
    for (i, j), value in np.ndenumerate(_counting_scores()):
        matrix[i, j] = int(value)
    return matrix


def reaching(sequence: str, others: Sequence[str], least: float) -> list[int]:
    """Positions of those ``others`` whose optimal local alignment with ``sequence`` scores ``least`` or more."""
    if parasail is None:
        aligner = _aligner(counting=False)
        return [i for i, other in enumerate(others) if aligner.score(sequence, other) >= least]
    profile, align = parasail.profile_create_16(sequence, parasail.blosum62), parasail.sw_striped_profile_16
    results = (align(profile, other, GAP_OPEN, GAP_EXTEND) for other in others)
    return [i for i, result in enumerate(results) if result.score >= least or result.saturated]


def identity(a: str, b: str) -> float:
    """Identical pairs in the optimal local alignment / length of the shorter sequence; 0 where nothing aligns.

    X is identical to nothing. Of several optimal alignments the one with the most identical pairs counts.
    """
    shorter = min(len(a), len(b))
    if parasail is None or shorter > _MAX_INT32_LENGTH:
        score = int(_aligner(counting=True).score(a, b))
    else:
        score = parasail.sw_striped_32(a, b, GAP_OPEN * _UNIT, GAP_EXTEND * _UNIT, _counting_matrix()).score
    return score % _UNIT / shorter


def aligned_positions(a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of residues of an alignment of two whole sequences, one letter each, BLOSUM62.

    A gap of k residues costs 9 + k, one at an end nothing. Of several optimal alignments Biopython's first one counts.

    Returns:
        int64 [M] and int64 [M]: positions in ``a`` and in ``b``, both increasing; none where nothing aligns.
    """
    blocks = _whole_aligner().align(a, b)[0].aligned if a and b else ((), ())
    none = np.zeros(0, dtype=np.int64)
    first, second = (np.concatenate([none, *(np.arange(*block) for block in side)]) for side in blocks)
    return first, second


@lru_cache(maxsize=1)
def _whole_aligner() -> PairwiseAligner:
    aligner = PairwiseAligner()
    aligner.mode = "global"
    aligner.substitution_matrix = substitution_matrices.Array(_LETTERS, dims=2, data=_scores().astype(np.float64))
    aligner.open_gap_score, aligner.extend_gap_score = -float(WHOLE_GAP_OPEN), -float(GAP_EXTEND)
    aligner.end_gap_score = 0.0
    return aligner
