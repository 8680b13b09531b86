"""Which residues of a model are amino acids, and which of them form one chain."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.files.text import some
from data_prep.structure.atom_site import AtomSite, ParsedStructure
from data_prep.structure.categorical import Categorical, joint_codes
from data_prep.structure.components import FORCE_FIELD_NAMES, LETTER_OF_RESNAME, is_standard, kind

PEPTIDE_BOND = 2.0
"""angstrom: C and N of neighbours nearer than this are bonded (1.33 ideal)."""
NEIGHBOURING_CALPHAS = 4.5
"""angstrom: alpha carbons nearer than this are those of neighbours (3.8 ideal, 2.9 before a cis bond)."""

LONGEST_STEP = 4.0
"""angstrom: how much further apart two alpha carbons can be for each residue between them (3.8 stretched)."""

_CARBOXYL_ENDS = ("OXT", "OT2", "OC2", "O2", "O''")
"""Names of the second oxygen that only the last residue of a molecule has."""

_OF_POLYMERS = frozenset({"amino", "D-amino", "listed", "nucleotide"})


@dataclass(frozen=True)
class Polymer:
    """One molecule: residues under one chain id that belong together."""

    residues: np.ndarray
    """int64 [n], in the order of the chain."""
    remarks: tuple[str, ...] = ()
    """How it was told from what else has its chain id."""


def residue_kinds(parsed: ParsedStructure) -> Categorical:
    """[R], ``components.kind``, where an unknown component with a peptide backbone is an amino acid, one that only
    SEQRES knows is 'listed', and UNK without an alpha carbon is 'other': the name is also given to ligands that nobody
    identified. So is a force field's name without a backbone, which is that of a ligand too.
    """
    atoms = parsed.atoms
    kinds = atoms.resname.map(kind)
    doubtful = atoms.resname.lookup(
        lambda name: name == "UNK" or name in FORCE_FIELD_NAMES or kind(name) == "unknown", bool
    )
    if not doubtful.any():
        return kinds
    found = kinds.list()
    has_atom = np.isfinite(atoms.backbone[..., 0])
    for residue in np.flatnonzero(doubtful).tolist():
        resname = atoms.resname[residue]
        if resname == "UNK" or resname in FORCE_FIELD_NAMES:
            if not has_atom[residue, 1]:
                found[residue] = "other"
        elif resname in parsed.parents or has_atom[residue].all():
            found[residue] = "amino"
        else:
            is_listed = atoms.label_seq[residue] or resname in parsed.seqres(residue)
            found[residue] = "listed" if is_listed else "other"
    return Categorical.of(found)


def split_polymers(parsed: ParsedStructure, kinds: Categorical) -> list[Polymer]:
    """The molecules of a model, in the order of their first residues. ``kinds`` is as of ``residue_kinds``.

    Where label_seq_id tells polymers from the rest, a molecule is what shares its chain id and label_asym_id. Else it
    is what shares its chain id, less its ligands (see ``_without_ligands``) and parted where a molecule ends (see
    ``_molecules``); nucleotides among amino acids are a molecule of their own.
    """
    atoms = parsed.atoms
    if parsed.has_labels:
        residues = np.flatnonzero(atoms.label_seq > 0)
        return [
            Polymer(g) for g in _groups(residues, joint_codes(atoms.chain.code[residues], atoms.segment.code[residues]))
        ]
    residues = np.flatnonzero(kinds.lookup(_OF_POLYMERS.__contains__, bool))
    is_nucleotide = kinds.lookup("nucleotide".__eq__, bool)
    found: list[Polymer] = []
    for chain in _groups(residues, atoms.chain.code[residues]):
        remarks: list[str] = []
        chain = _without_ligands(chain, parsed, remarks)
        nucleotides = is_nucleotide[chain]
        if nucleotides.any() and np.count_nonzero(~nucleotides) > 1:
            if not nucleotides.all():
                remarks.append(f"{nucleotides.sum()} nucleotides under the same chain id parted from it")
            found += _molecules(chain[~nucleotides], parsed, remarks) + _molecules(chain[nucleotides], parsed, [])
        else:
            found += _molecules(chain, parsed, remarks)
    return sorted(found, key=lambda polymer: int(polymer.residues.min()))


def bonded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """bool [...]: whether C of one residue and N of the other are as near as a peptide bond; where one is missing,
    whether the alpha carbons are as near as those of neighbours. ``before`` and ``after`` [..., 3, 3] are as of
    ``AtomSite.backbone``."""
    length = distances(before, after, 2, 0)
    unknown = np.isnan(length)
    if not unknown.any():
        return length < PEPTIDE_BOND
    return np.where(unknown, distances(before, after, 1, 1) < NEIGHBOURING_CALPHAS, length < PEPTIDE_BOND)


def distances(before: np.ndarray, after: np.ndarray, first: int, second: int) -> np.ndarray:
    """float64 [...], angstrom, of two of the atoms of ``AtomSite.backbone``, NaN where one is missing."""
    apart = after[..., second, :] - before[..., first, :]
    return np.sqrt(np.einsum("...i,...i->...", apart, apart))


def _fits(before: np.ndarray, after: np.ndarray, steps: int) -> bool:
    """Whether a chain can lead from one alpha carbon (see ``bonded``) to another in so many residues."""
    return steps > 0 and not np.linalg.norm(after[1] - before[1]) > LONGEST_STEP * steps + 1.0


def _without_ligands(chain: np.ndarray, parsed: ParsedStructure, remarks: list[str]) -> np.ndarray:
    """The residues of a chain (int [n]) without amino acids and nucleotides that are ligands.

    HETATM after the end of the chain (TER; without one, the last ATOM residue) are such, unless they are bonded to it,
    fill a gap in it, or are modified residues that SEQRES or MODRES names and the chain can reach. These take the place
    that the bond or the number gives them.
    """
    atoms = parsed.atoms
    hetero = atoms.hetero[chain]
    if not hetero.any():
        return chain
    is_ended = atoms.chain[int(chain[0])] in parsed.ended_chains
    if is_ended:
        doubtful = hetero & (atoms.ters[chain] > 0)
    else:
        last = np.flatnonzero(~hetero)[-1:]
        doubtful = np.arange(len(chain)) > (last[0] if len(last) else len(chain))
    if not doubtful.any():
        return chain
    members, waiting, kept = chain[~doubtful].tolist(), chain[doubtful].tolist(), []
    while True:
        joined = [residue for residue in waiting if _joins(members, residue, parsed)]
        if not joined:
            break
        kept += joined
        waiting = [residue for residue in waiting if residue not in joined]
    if kept and is_ended:
        remarks.append(f"{len(kept)} HETATM residues after TER belong to the chain: {_labels(sorted(kept), atoms)}")
    if waiting:
        remarks.append(
            f"{len(waiting)} HETATM residues after the end of their chain and not bonded to it taken for ligands: "
            f"{_labels(waiting, atoms)}"
        )
    return np.array(members, dtype=np.int64)


def _joins(members: list[int], residue: int, parsed: ParsedStructure) -> bool:
    """Whether a residue belongs to a chain; if so it takes its place among the ``members``."""
    if not members:
        return False
    atoms = parsed.atoms
    there, new = atoms.backbone[members], atoms.backbone[residue]
    after, before = bonded(there, new), bonded(new, there)
    number, numbers = int(atoms.seqnum[residue]), atoms.seqnum[members]
    if not np.isfinite(new[[0, 2], 0]).all():  # of alpha carbons alone many are near
        after, before = after & (numbers == number - 1), before & (numbers == number + 1)
    if after.any():
        members.insert(int(after.argmax()) + 1, residue)
        return True
    if before.any():
        members.insert(int(before.argmax()), residue)
        return True
    if not np.isfinite(new[1, 0]) or (numbers == number).any():
        return False
    place = int(np.count_nonzero(numbers < number))
    sides = [(i, abs(number - int(numbers[i]))) for i in (place - 1, place) if 0 <= i < len(members)]
    reached = all(_fits(there[i], new, steps) for i, steps in sides)
    resname = atoms.resname[residue]
    is_named = resname in parsed.parents or (resname not in LETTER_OF_RESNAME and resname in parsed.seqres(residue))
    fills = len(sides) == 2 and all(steps == 1 for _, steps in sides)
    if reached and (is_named or fills):
        members.insert(place, residue)
        return True
    return False


def _molecules(chain: np.ndarray, parsed: ParsedStructure, remarks: list[str]) -> list[Polymer]:
    """The residues of one chain id (int [n]) parted where a molecule ends.

    Two residues that are bonded are of one molecule. Others are not, where a sign of an end stands between them:
    another segment id (or label_asym_id); numbers that start again; TER or a carboxyl end, unless what follows can be
    the other side of a gap. A chain that SEQRES can hold, with numbers that rise, is one.
    """
    atoms = parsed.atoms
    number, ters, segment = atoms.seqnum[chain], atoms.ters[chain], atoms.segment.code[chain]
    rises = number[1:] >= number[:-1]
    has_end = np.zeros(len(atoms.start), dtype=bool)
    ends = np.searchsorted(atoms.start, atoms.rows_named(*_CARBOXYL_ENDS), side="right") - 1
    has_end[ends] = atoms.resname.take(ends).lookup(is_standard, bool)
    signs = (ters[1:] != ters[:-1]) | (segment[1:] != segment[:-1]) | ~rises | has_end[chain][:-1]
    if not signs.any() or (rises.all() and len(chain) <= len(parsed.seqres(int(chain[0])))):
        return [Polymer(chain, tuple(remarks))] if len(chain) else []
    backbone, hetero = atoms.backbone[chain], atoms.hetero[chain]
    backwards = bonded(backbone[1:], backbone[:-1]) & (ters[1:] == ters[:-1])  # a chain listed in reverse
    is_open = signs & ~bonded(backbone[:-1], backbone[1:]) & ~backwards
    cuts, why, first = [], [], 0
    for i in np.flatnonzero(is_open).tolist():
        step = int(number[i + 1]) - int(number[i])
        stop = i + 1 + int(np.append(rises[i + 1 :], False).argmin())
        starts_again = step < 0 and bool(np.isin(number[i + 1 : stop + 1], number[first : i + 1]).any())
        is_gap = _fits(backbone[i], backbone[i + 1], step)
        names = atoms.segment[int(chain[i])], atoms.segment[int(chain[i + 1])]
        if names[0] != names[1] and all(names) and not hetero[i : i + 2].any():
            sign = "another segment id begins"
        elif starts_again:
            sign = "the numbers start again"
        elif ters[i] != ters[i + 1] and (has_end[chain[i]] or not is_gap):
            sign = "TER stands"
        elif has_end[chain[i]] and not is_gap:
            sign = "a carboxyl end (OXT) stands"
        else:
            continue
        cuts.append(i + 1)
        why.append(f"{sign} after {atoms.label(int(chain[i]))}")
        first = i + 1
    if not cuts:
        return [Polymer(chain, tuple(remarks))]
    remarks.append(f"{len(cuts) + 1} molecules under one chain id: {some(why)}")
    return [Polymer(part, tuple(remarks)) for part in np.split(chain, cuts)]


def _labels(residues: Sequence[int], atoms: AtomSite) -> str:
    return some([atoms.label(residue) for residue in residues])


def _groups(items: np.ndarray, key: np.ndarray) -> list[np.ndarray]:
    """Items with equal keys together, groups by first appearance."""
    if not len(items):
        return []
    if (key == key[0]).all():
        return [items]
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return [items[group == number] for number in np.argsort(first).tolist()]


def content(atoms: AtomSite) -> str:
    """What a model holds, in words: '8 nucleotides, 3 waters'."""
    counts = Counter(atoms.resname.lookup(kind, object).tolist())
    words = {"nucleotide": "nucleotides", "water": "waters", "D-amino": "D-amino acids", "amino": "amino acids"}
    other = counts["other"] + counts["unknown"]
    parts = [f"{counts[key]} {word}" for key, word in words.items() if counts[key]]
    return ", ".join(parts + ([f"{other} other residues"] if other else []))
