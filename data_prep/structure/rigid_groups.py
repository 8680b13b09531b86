"""Idealised residues: where each atom lies in the rigid group that carries it (Jumper et al. 2021, suppl. 1.8.4).

A residue has 8 rigid groups: backbone, pre-omega, phi, psi, chi1 to chi4. Pre-omega carries no atom, and phi only
hydrogens. Group 0 sits on the alpha carbon with C on the x axis and N in the xy plane; every further group turns
about its own x axis by its torsion angle.
"""

import numpy as np

from data_prep.structure.residues import ATOM14_NAMES, ATOM37_INDEX, CHI_MASK, CHI_PATHS, CHI_PI_PERIODIC, RESNAMES

N_GROUPS = 8
PSI_GROUP = 3
CHI1_GROUP = 4

# Atom, rigid group, and position in the frame of that group (angstrom), in atom14 order. These are AlphaFold's
# constants: local coordinates of an idealised residue at torsion angle zero, to three decimals.
_IDEAL_ATOMS = """
ALA
    N   0 -0.525  1.363  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.526  0.000  0.000
    O   3  0.627  1.062  0.000
    CB  0 -0.529 -0.774 -1.205
ARG
    N   0 -0.524  1.362  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.525  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.524 -0.778 -1.209
    CG  4  0.616  1.390  0.000
    CD  5  0.564  1.414  0.000
    NE  6  0.539  1.357  0.000
    CZ  7  0.758  1.093  0.000
    NH1 7  0.206  2.301  0.000
    NH2 7  2.078  0.978  0.000
ASN
    N   0 -0.536  1.357  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.526  0.000  0.000
    O   3  0.625  1.062  0.000
    CB  0 -0.531 -0.787 -1.200
    CG  4  0.584  1.399  0.000
    OD1 5  0.633  1.059  0.000
    ND2 5  0.593 -1.188  0.001
ASP
    N   0 -0.525  1.362  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.527  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.526 -0.778 -1.208
    CG  4  0.593  1.398  0.000
    OD1 5  0.610  1.091  0.000
    OD2 5  0.592 -1.101 -0.003
CYS
    N   0 -0.522  1.362  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.524  0.000  0.000
    O   3  0.625  1.062  0.000
    CB  0 -0.519 -0.773 -1.212
    SG  4  0.728  1.653  0.000
GLN
    N   0 -0.526  1.361  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.526  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.525 -0.779 -1.207
    CG  4  0.615  1.393  0.000
    CD  5  0.587  1.399  0.000
    OE1 6  0.634  1.060  0.000
    NE2 6  0.593 -1.189 -0.001
GLU
    N   0 -0.528  1.361  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.526  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.526 -0.781 -1.207
    CG  4  0.615  1.392  0.000
    CD  5  0.600  1.397  0.000
    OE1 6  0.607  1.095  0.000
    OE2 6  0.589 -1.104 -0.001
GLY
    N   0 -0.572  1.337  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.517  0.000  0.000
    O   3  0.626  1.062  0.000
HIS
    N   0 -0.527  1.360  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.525  0.000  0.000
    O   3  0.625  1.063  0.000
    CB  0 -0.525 -0.778 -1.208
    CG  4  0.600  1.370  0.000
    ND1 5  0.744  1.160  0.000
    CD2 5  0.889 -1.021  0.003
    CE1 5  2.030  0.851  0.002
    NE2 5  2.145 -0.466  0.004
ILE
    N   0 -0.493  1.373  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.527  0.000  0.000
    O   3  0.627  1.062  0.000
    CB  0 -0.536 -0.793 -1.213
    CG1 4  0.534  1.437  0.000
    CG2 4  0.540 -0.785 -1.199
    CD1 5  0.619  1.391  0.000
LEU
    N   0 -0.520  1.363  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.525  0.000  0.000
    O   3  0.625  1.063  0.000
    CB  0 -0.522 -0.773 -1.214
    CG  4  0.678  1.371  0.000
    CD1 5  0.530  1.430  0.000
    CD2 5  0.535 -0.774  1.200
LYS
    N   0 -0.526  1.362  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.526  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.524 -0.778 -1.208
    CG  4  0.619  1.390  0.000
    CD  5  0.559  1.417  0.000
    CE  6  0.560  1.416  0.000
    NZ  7  0.554  1.387  0.000
MET
    N   0 -0.521  1.364  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.525  0.000  0.000
    O   3  0.625  1.062  0.000
    CB  0 -0.523 -0.776 -1.210
    CG  4  0.613  1.391  0.000
    SD  5  0.703  1.695  0.000
    CE  6  0.320  1.786  0.000
PHE
    N   0 -0.518  1.363  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.524  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.525 -0.776 -1.212
    CG  4  0.607  1.377  0.000
    CD1 5  0.709  1.195  0.000
    CD2 5  0.706 -1.196  0.000
    CE1 5  2.102  1.198  0.000
    CE2 5  2.098 -1.201  0.000
    CZ  5  2.794 -0.003 -0.001
PRO
    N   0 -0.566  1.351  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.527  0.000  0.000
    O   3  0.621  1.066  0.000
    CB  0 -0.546 -0.611 -1.293
    CG  4  0.382  1.445  0.000
    CD  5  0.477  1.424  0.000
SER
    N   0 -0.529  1.360  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.525  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.518 -0.777 -1.211
    OG  4  0.503  1.325  0.000
THR
    N   0 -0.517  1.364  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.526  0.000  0.000
    O   3  0.626  1.062  0.000
    CB  0 -0.516 -0.793 -1.215
    OG1 4  0.472  1.353  0.000
    CG2 4  0.550 -0.718 -1.228
TRP
    N   0 -0.521  1.363  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.525  0.000  0.000
    O   3  0.627  1.062  0.000
    CB  0 -0.523 -0.776 -1.212
    CG  4  0.609  1.370  0.000
    CD1 5  0.824  1.091  0.000
    CD2 5  0.854 -1.148 -0.005
    NE1 5  2.140  0.690 -0.004
    CE2 5  2.186 -0.678 -0.007
    CE3 5  0.622 -2.530 -0.007
    CZ2 5  3.283 -1.543 -0.011
    CZ3 5  1.715 -3.389 -0.011
    CH2 5  3.028 -2.890 -0.013
TYR
    N   0 -0.522  1.362  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.524  0.000  0.000
    O   3  0.627  1.062  0.000
    CB  0 -0.522 -0.776 -1.213
    CG  4  0.607  1.382  0.000
    CD1 5  0.716  1.195  0.000
    CD2 5  0.713 -1.194 -0.001
    CE1 5  2.107  1.200 -0.002
    CE2 5  2.104 -1.201 -0.003
    CZ  5  2.791 -0.001 -0.003
    OH  5  4.168 -0.002 -0.005
VAL
    N   0 -0.494  1.373  0.000
    CA  0  0.000  0.000  0.000
    C   0  1.527  0.000  0.000
    O   3  0.627  1.062  0.000
    CB  0 -0.533 -0.795 -1.213
    CG1 4  0.540  1.429  0.000
    CG2 4  0.533 -0.776  1.203
"""


def _parse_ideal_atoms() -> tuple[np.ndarray, np.ndarray]:
    groups = np.zeros((len(RESNAMES), 14), dtype=np.int64)
    positions = np.zeros((len(RESNAMES), 14, 3), dtype=np.float64)
    aatype, count = -1, 0
    for fields in map(str.split, _IDEAL_ATOMS.strip().splitlines()):
        if len(fields) == 1:
            aatype, count = RESNAMES.index(fields[0]), 0
            continue
        if ATOM14_NAMES[aatype][count] != fields[0]:
            raise AssertionError(
                f"{RESNAMES[aatype]}: {fields[0]} stands where atom14 has {ATOM14_NAMES[aatype][count]}"
            )
        groups[aatype, count] = int(fields[1])
        positions[aatype, count] = [float(value) for value in fields[2:]]
        count += 1
    return groups, positions


ATOM14_TO_RIGID_GROUP, IDEAL_ATOM14_POSITIONS = _parse_ideal_atoms()
"""``ATOM14_TO_RIGID_GROUP`` int64 [21, 14]: the group that carries the atom. ``IDEAL_ATOM14_POSITIONS`` float64
[21, 14, 3]: the atom in the frame of that group, angstrom. Zeros for absent atoms."""


def _frame(x_axis: np.ndarray, xy_plane: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Homogeneous matrix [4, 4] with orthonormal axes from two directions."""
    x = x_axis / np.linalg.norm(x_axis)
    y = xy_plane - x * (x @ xy_plane)
    y = y / np.linalg.norm(y)
    frame = np.eye(4)
    frame[:3, :3] = np.stack((x, y, np.cross(x, y)), axis=-1)
    frame[:3, 3] = origin
    return frame


def _default_frames() -> np.ndarray:
    """Frame of each group in the frame of the group before it, at torsion angle zero (suppl. Alg. 24, lines 2-6).

    Phi, psi and chi1 hang on the backbone group, chi2 to chi4 on the chi before.
    """
    frames = np.zeros((len(RESNAMES), N_GROUPS, 4, 4))
    frames[:, 0] = np.eye(4)
    for aatype, (name, atoms) in enumerate(zip(RESNAMES, ATOM14_NAMES, strict=True)):
        if not atoms:
            continue
        ideal = dict(zip(atoms, IDEAL_ATOM14_POSITIONS[aatype], strict=False))
        n, ca, c = ideal["N"], ideal["CA"], ideal["C"]
        frames[aatype, 1] = np.eye(4)
        frames[aatype, 2] = _frame(n - ca, np.array([1.0, 0.0, 0.0]), n)
        frames[aatype, PSI_GROUP] = _frame(c - ca, ca - n, c)
        path = CHI_PATHS.get(name, "").split()
        for chi in range(len(path) - 3):
            axis_end = ideal[path[chi + 2]]
            if chi == 0:
                frames[aatype, CHI1_GROUP] = _frame(axis_end - ca, n - ca, axis_end)
            else:  # the frame before has its origin on the axis and its x axis towards it from the atom before
                frames[aatype, CHI1_GROUP + chi] = _frame(axis_end, np.array([-1.0, 0.0, 0.0]), axis_end)
    return frames


DEFAULT_GROUP_FRAMES: np.ndarray = _default_frames()
"""float64 [21, 8, 4, 4]; all zeros for a chi that the residue lacks, as in AlphaFold. Deviation: the backbone group of
the unknown residue is the identity (AlphaFold: zeros), so that its frame is the predicted one."""


def _group_atoms() -> tuple[np.ndarray, np.ndarray]:
    atoms = np.zeros((len(RESNAMES), N_GROUPS, 3), dtype=np.int64)
    atoms[:, 0] = [ATOM37_INDEX[atom] for atom in ("C", "CA", "N")]
    atoms[:, PSI_GROUP] = [ATOM37_INDEX[atom] for atom in ("CA", "C", "O")]
    for aatype, name in enumerate(RESNAMES):
        path = [ATOM37_INDEX[atom] for atom in CHI_PATHS.get(name, "").split()]
        for chi in range(len(path) - 3):
            atoms[aatype, CHI1_GROUP + chi] = path[chi + 1 : chi + 4]
    exists = np.zeros((len(RESNAMES), N_GROUPS), dtype=bool)
    exists[:, 0] = True
    exists[:-1, PSI_GROUP] = True
    exists[:, CHI1_GROUP:] = CHI_MASK
    return atoms, exists


GROUP_FRAME_ATOMS, GROUP_EXISTS = _group_atoms()
"""``GROUP_FRAME_ATOMS`` int64 [21, 8, 3]: the atom37 atoms that define a group's frame in a given structure: one on the
negative x axis, the origin, one in the xy plane. (For the backbone the x axis then points to CA from C; the frame is
turned by 180 degrees about y.) ``GROUP_EXISTS`` bool [21, 8]: groups that atoms define, never pre-omega and phi, and of
the unknown residue the backbone alone (AlphaFold counts its psi, for which it has no prediction)."""

GROUP_IS_AMBIGUOUS: np.ndarray = np.concatenate(
    (np.zeros((len(RESNAMES), CHI1_GROUP), dtype=bool), CHI_PI_PERIODIC), axis=-1
)
"""bool [21, 8]: groups whose frame turns by 180 degrees about x when interchangeable atoms swap their names."""
