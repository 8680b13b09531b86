"""Ideal covalent geometry: bond lengths and angles, and the distance bounds that follow (Jumper et al. 2021, 1.9.11).

Values are those of R. A. Engh and R. Huber, "Structure quality and target parameters" (International Tables for
Crystallography F, 2006, 18.3), the set that AlphaFold uses, in the notation of crystallography: ``1.520(21)`` is 1.520
with a standard deviation of 0.021.
"""

import re

import numpy as np

from data_prep.structure.residues import ATOM14_NAMES, RESNAMES, VAN_DER_WAALS_RADIUS

PEPTIDE_BOND_LENGTH = {"PRO": (1.341, 0.016), "other": (1.329, 0.014)}
"""C to the next residue's N, angstrom: mean and standard deviation, by the type of the next residue."""

CA_C_N_COSINE = (-0.4473, 0.0311)
"""Cosine of the angle CA-C-N across the peptide bond: mean and standard deviation (116.6 +- 2.0 degrees)."""

C_N_CA_COSINE = (-0.5203, 0.0353)
"""Cosine of the angle C-N-CA across the peptide bond (121.4 +- 2.3 degrees)."""

_BACKBONE = {
    "GLY": "N-CA 1.456(15) CA-C 1.514(16) C-O 1.232(16) N-CA-C 113.1(25) CA-C-O 120.6(18)",
    "PRO": "N-CA 1.468(17) CA-C 1.524(20) C-O 1.228(20) N-CA-C 112.1(26) CA-C-O 120.2(24)",
    "other": "N-CA 1.459(20) CA-C 1.525(26) C-O 1.229(19) N-CA-C 111.0(27) CA-C-O 120.1(21)",
}

_SIDE_CHAIN_BONDS = {
    "ALA": "CA-CB 1.520(21)",
    "ARG": "CA-CB 1.535(22) CB-CG 1.521(27) CG-CD 1.515(25) CD-NE 1.460(17) NE-CZ 1.326(13) CZ-NH1 1.326(13) "
    "CZ-NH2 1.326(13)",
    "ASN": "CA-CB 1.527(26) CB-CG 1.506(23) CG-OD1 1.235(22) CG-ND2 1.324(25)",
    "ASP": "CA-CB 1.535(22) CB-CG 1.513(21) CG-OD1 1.249(23) CG-OD2 1.249(23)",
    "CYS": "CA-CB 1.526(13) CB-SG 1.812(16)",
    "GLN": "CA-CB 1.535(22) CB-CG 1.521(27) CG-CD 1.506(23) CD-OE1 1.235(22) CD-NE2 1.324(25)",
    "GLU": "CA-CB 1.535(22) CB-CG 1.517(19) CG-CD 1.515(15) CD-OE1 1.252(11) CD-OE2 1.252(11)",
    "HIS": "CA-CB 1.535(22) CB-CG 1.492(16) CG-ND1 1.369(15) CG-CD2 1.353(17) ND1-CE1 1.343(25) CD2-NE2 1.415(21) "
    "CE1-NE2 1.322(23)",
    "ILE": "CA-CB 1.544(23) CB-CG1 1.536(28) CB-CG2 1.524(31) CG1-CD1 1.500(69)",
    "LEU": "CA-CB 1.533(23) CB-CG 1.521(29) CG-CD1 1.514(37) CG-CD2 1.514(37)",
    "LYS": "CA-CB 1.535(22) CB-CG 1.521(27) CG-CD 1.520(34) CD-CE 1.508(25) CE-NZ 1.486(25)",
    "MET": "CA-CB 1.535(22) CB-CG 1.509(32) CG-SD 1.807(26) SD-CE 1.774(56)",
    "PHE": "CA-CB 1.535(22) CB-CG 1.509(17) CG-CD1 1.383(15) CG-CD2 1.383(15) CD1-CE1 1.388(20) CD2-CE2 1.388(20) "
    "CE1-CZ 1.369(19) CE2-CZ 1.369(19)",
    "PRO": "CA-CB 1.531(20) CB-CG 1.495(50) CG-CD 1.502(33) CD-N 1.474(14)",
    "SER": "CA-CB 1.525(15) CB-OG 1.418(13)",
    "THR": "CA-CB 1.529(26) CB-OG1 1.428(20) CB-CG2 1.519(33)",
    "TRP": "CA-CB 1.535(22) CB-CG 1.498(18) CG-CD1 1.363(14) CG-CD2 1.432(17) CD1-NE1 1.375(17) NE1-CE2 1.371(13) "
    "CD2-CE2 1.409(12) CD2-CE3 1.399(15) CE2-CZ2 1.393(17) CE3-CZ3 1.380(17) CZ2-CH2 1.369(19) CZ3-CH2 1.396(16)",
    "TYR": "CA-CB 1.535(22) CB-CG 1.512(15) CG-CD1 1.387(13) CG-CD2 1.387(13) CD1-CE1 1.389(15) CD2-CE2 1.389(15) "
    "CE1-CZ 1.381(13) CE2-CZ 1.381(13) CZ-OH 1.374(17)",
    "VAL": "CA-CB 1.543(21) CB-CG1 1.524(21) CB-CG2 1.524(21)",
}

_SIDE_CHAIN_ANGLES = {
    "ALA": "N-CA-CB 110.1(14) CB-CA-C 110.1(15)",
    "ARG": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(22) CB-CG-CD 111.6(26) CG-CD-NE 111.8(21) "
    "CD-NE-CZ 123.6(14) NE-CZ-NH1 120.3(5) NE-CZ-NH2 120.3(5) NH1-CZ-NH2 119.4(11)",
    "ASN": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(22) CB-CG-ND2 116.7(24) CB-CG-OD1 121.6(20) "
    "ND2-CG-OD1 121.9(23)",
    "ASP": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(22) CB-CG-OD1 118.3(9) CB-CG-OD2 118.3(9) "
    "OD1-CG-OD2 123.3(19)",
    "CYS": "N-CA-CB 110.8(15) CB-CA-C 111.5(12) CA-CB-SG 114.2(11)",
    "GLN": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(22) CB-CG-CD 111.6(26) CG-CD-OE1 121.6(20) "
    "CG-CD-NE2 116.7(24) OE1-CD-NE2 121.9(23)",
    "GLU": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(22) CB-CG-CD 114.2(27) CG-CD-OE1 118.3(20) "
    "CG-CD-OE2 118.3(20) OE1-CD-OE2 123.3(12)",
    "HIS": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.6(17) CB-CG-ND1 123.2(25) CB-CG-CD2 130.8(31) "
    "CG-ND1-CE1 108.2(14) ND1-CE1-NE2 109.9(22) CE1-NE2-CD2 106.6(25) NE2-CD2-CG 109.2(19) CD2-CG-ND1 106.0(14)",
    "ILE": "N-CA-CB 110.8(23) CB-CA-C 111.6(20) CA-CB-CG1 111.0(19) CB-CG1-CD1 113.9(28) CA-CB-CG2 110.9(20) "
    "CG1-CB-CG2 111.4(22)",
    "LEU": "N-CA-CB 110.4(20) CB-CA-C 110.2(19) CA-CB-CG 115.3(23) CB-CG-CD1 111.0(17) CB-CG-CD2 111.0(17) "
    "CD1-CG-CD2 110.5(30)",
    "LYS": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(22) CB-CG-CD 111.6(26) CG-CD-CE 111.9(30) "
    "CD-CE-NZ 111.7(23)",
    "MET": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.3(17) CB-CG-SD 112.4(30) CG-SD-CE 100.2(16)",
    "PHE": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.9(24) CB-CG-CD1 120.8(7) CB-CG-CD2 120.8(7) "
    "CD1-CG-CD2 118.3(13) CG-CD1-CE1 120.8(11) CG-CD2-CE2 120.8(11) CD1-CE1-CZ 120.1(12) CD2-CE2-CZ 120.1(12) "
    "CE1-CZ-CE2 120.0(18)",
    "PRO": "N-CA-CB 103.3(12) CB-CA-C 111.7(21) CA-CB-CG 104.8(19) CB-CG-CD 106.5(39) CG-CD-N 103.2(15) "
    "CA-N-CD 111.7(14)",
    "SER": "N-CA-CB 110.5(15) CB-CA-C 110.1(19) CA-CB-OG 111.2(27)",
    "THR": "N-CA-CB 110.3(19) CB-CA-C 111.6(27) CA-CB-OG1 109.0(21) CA-CB-CG2 112.4(14) OG1-CB-CG2 110.0(23)",
    "TRP": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.7(19) CB-CG-CD1 127.0(13) CB-CG-CD2 126.6(13) "
    "CD1-CG-CD2 106.3(8) CG-CD1-NE1 110.1(10) CD1-NE1-CE2 109.0(9) NE1-CE2-CD2 107.3(10) CE2-CD2-CG 107.3(8) "
    "CG-CD2-CE3 133.9(9) NE1-CE2-CZ2 130.4(11) CE3-CD2-CE2 118.7(12) CD2-CE2-CZ2 122.3(12) CE2-CZ2-CH2 117.4(10) "
    "CZ2-CH2-CZ3 121.6(12) CH2-CZ3-CE3 121.2(11) CZ3-CE3-CD2 118.8(13)",
    "TYR": "N-CA-CB 110.6(18) CB-CA-C 110.4(20) CA-CB-CG 113.4(19) CB-CG-CD1 121.0(6) CB-CG-CD2 121.0(6) "
    "CD1-CG-CD2 117.9(11) CG-CD1-CE1 121.3(8) CG-CD2-CE2 121.3(8) CD1-CE1-CZ 119.8(9) CD2-CE2-CZ 119.8(9) "
    "CE1-CZ-CE2 119.8(16) CE1-CZ-OH 120.1(27) CE2-CZ-OH 120.1(27)",
    "VAL": "N-CA-CB 111.5(22) CB-CA-C 111.4(19) CA-CB-CG1 110.9(15) CA-CB-CG2 110.9(15) CG1-CB-CG2 110.9(16)",
}

_ENTRY = re.compile(r"(\S+) (\d+)\.(\d+)\((\d+)\)")
_NO_LIMIT = 1e10


def residue_geometry(name: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """Bonds (angstrom) and bond angles (degrees) of a residue type, by three-letter name.

    Keys are atom names, two for a bond and three for an angle; values are mean and standard deviation.
    """
    tables = (
        _BACKBONE.get(name, _BACKBONE["other"]),
        _SIDE_CHAIN_BONDS.get(name, ""),
        _SIDE_CHAIN_ANGLES.get(name, ""),
    )
    geometry = {}
    for atoms, whole, decimals, deviation in _ENTRY.findall(" ".join(tables)):
        mean = float(f"{whole}.{decimals}")
        geometry[tuple(atoms.split("-"))] = (mean, int(deviation) / 10 ** len(decimals))
    return geometry


def _angle_distance(
    first: tuple[float, float], second: tuple[float, float], angle: tuple[float, float]
) -> tuple[float, float]:
    """Distance of the outer atoms of two bonds that enclose an angle, with the propagated standard deviation."""
    (a, sd_a), (b, sd_b) = first, second
    gamma, sd_gamma = np.radians(angle)
    length = np.sqrt(a**2 + b**2 - 2 * a * b * np.cos(gamma))  # law of cosines
    per_a, per_b = (a - b * np.cos(gamma)) / length, (b - a * np.cos(gamma)) / length
    per_gamma = a * b * np.sin(gamma) / length
    return length, np.sqrt((per_a * sd_a) ** 2 + (per_b * sd_b) ** 2 + (per_gamma * sd_gamma) ** 2)


def atom14_distance_bounds(
    tolerance_factor: float = 12.0, overlap_tolerance: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest allowed distance of two atoms of one residue, float32 [21, 14, 14] each, angstrom.

    Atoms one or two bonds apart: the ideal distance, less and plus ``tolerance_factor`` standard deviations. Others:
    at least the sum of the van der Waals radii less ``overlap_tolerance``, at most 1e10. 0 where an atom is absent and
    on the diagonal.
    """
    lower, upper = np.zeros((2, len(RESNAMES), 14, 14))
    for aatype, (name, atoms) in enumerate(zip(RESNAMES, ATOM14_NAMES, strict=True)):
        count = len(atoms)
        if not count:
            continue
        radius = np.array([VAN_DER_WAALS_RADIUS[atom[0]] for atom in atoms])
        lower[aatype, :count, :count] = radius[:, None] + radius - overlap_tolerance
        upper[aatype, :count, :count] = _NO_LIMIT
        np.fill_diagonal(lower[aatype], 0.0)
        np.fill_diagonal(upper[aatype], 0.0)
        geometry = residue_geometry(name)
        bonds = {frozenset(key): value for key, value in geometry.items() if len(key) == 2}
        distances = dict(bonds)
        for key, value in geometry.items():
            if len(key) == 3:
                a, b, c = key
                distances[frozenset((a, c))] = _angle_distance(
                    bonds[frozenset((a, b))], bonds[frozenset((b, c))], value
                )
        for pair, (mean, deviation) in distances.items():
            i, j = (atoms.index(atom) for atom in pair)
            lower[aatype, i, j] = lower[aatype, j, i] = mean - tolerance_factor * deviation
            upper[aatype, i, j] = upper[aatype, j, i] = mean + tolerance_factor * deviation
    return lower.astype(np.float32), upper.astype(np.float32)
