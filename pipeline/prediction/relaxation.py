"""Relaxation of a prediction: restrained minimisation in the Amber99SB force field, by OpenMM.

As AlphaFold does it (Jumper et al. 2021, suppl. 1.8.6; alphafold/relax): in vacuum, heavy atoms are held where they are
by springs of 10 kcal/mol/angstrom**2; residues that are beyond the violation tolerances afterwards are let go, and the
whole is minimised again, three times at most. Where we differ: bonds to hydrogens are not constrained, since nothing
moves in time here (the same violations in a sixth of the time), and the topology is built from the prediction, whose
residues are whole, so that nothing has to be repaired.

Where a chain is interrupted, by a residue of unknown type or a gap in the numbers, its pieces are chains of their own
with charged ends, whose additional atoms are not written. A residue on its own stays as it is: the force field has no
such residue. Cysteines whose sulfurs are within 3 angstrom are bridged.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from data_prep.files.errors import UserError
from data_prep.structure.residues import ATOM14_NAMES, RESNAMES
from pipeline.prediction.checks import find_violations
from pipeline.prediction.fold import Prediction

if TYPE_CHECKING:
    import openmm
    from openmm import app

FORCE_FIELD = "amber99sb.xml"
STIFFNESS = 10.0
"""kcal/mol/angstrom**2, of the springs that hold heavy atoms."""
ROUNDS = 3
"""Minimisations at most: AlphaFold's RELAX_MAX_OUTER_ITERATIONS."""
TOLERANCE = 10.0
"""kJ/mol/nm, root mean square of the forces at which a minimisation ends: AlphaFold's 2.39 kcal/mol, OpenMM's own."""
PH = 7.0
"""Decides which side chains have a hydrogen more."""

_CA, _C, _O = 1, 2, 3  # atom14 indices
_KILOCALORIE = 4.184  # kJ
_PLATFORM_VARIABLE = "OPENMM_DEFAULT_PLATFORM"  # OpenMM's own


class RelaxationError(UserError):
    """A structure that cannot be relaxed, or no OpenMM; the message is one line."""


@dataclass(frozen=True, eq=False)
class _Atoms:
    """What OpenMM works on: A atoms, hydrogens included."""

    topology: "app.Topology"
    positions: np.ndarray
    """float64 [A, 3], nm."""
    residue: np.ndarray
    """int64 [A], in the prediction."""
    slot: np.ndarray
    """int64 [A], of atom14; -1 for atoms that a prediction does not have."""
    heavy: np.ndarray
    """bool [A]."""


def require_openmm() -> str:
    """OpenMM's version. Raises RelaxationError where it is not installed, or lacks the platform that was asked for."""
    try:
        import openmm
    except ImportError as error:
        raise RelaxationError(f"--relax needs OpenMM ({error}): pip install 'lorta-fold[relax]'") from None
    try:
        _platform()
    except openmm.OpenMMException as error:
        raise RelaxationError(f"{_PLATFORM_VARIABLE}: {error}") from None
    return openmm.__version__


def relax(prediction: Prediction) -> Prediction:
    """The prediction with relaxed coordinates and their violations; confidence is that of the model, unchanged.

    Takes about N**2 for N residues: 3 seconds of one core for 140. OpenMM's CPU platform works with torch's number of
    threads; another one is taken where OpenMM's variable OPENMM_DEFAULT_PLATFORM names it.

    Raises:
        RelaxationError: no two bonded residues, coordinates that the force field cannot start from, or no OpenMM.
    """
    version = require_openmm()
    import openmm

    pieces = list(_pieces(prediction))
    if not pieces:
        raise RelaxationError("no two residues are bonded")
    structure = (prediction.aatype, prediction.residue_index, prediction.chain)
    let_go = np.zeros(len(prediction.aatype), dtype=bool)
    try:
        with _same_random_numbers():
            atoms = _with_hydrogens(prediction, pieces)
            for _ in range(ROUNDS):
                atoms = _minimise(atoms, let_go)
                atom14 = prediction.atom14.copy()
                written = atoms.slot >= 0
                atom14[atoms.residue[written], atoms.slot[written]] = 10 * atoms.positions[written]
                counts, violating = find_violations(atom14, *structure)
                if not violating.any():
                    break
                let_go |= violating
    except (openmm.OpenMMException, ValueError) as error:
        raise RelaxationError(str(error).strip().splitlines()[0].split(".  ")[0]) from error
    except ZeroDivisionError as error:  # a hydrogen has no direction there
        raise RelaxationError("atoms lie in one place") from error
    return replace(prediction, atom14=atom14, geometry=counts, relaxed_by=f"OpenMM {version}")


def alpha_carbon_shift(before: Prediction, after: Prediction) -> float:
    """Root mean square of how far the alpha carbons moved, angstrom; not superposed, as the springs hold them."""
    shift = (after.atom14[:, _CA] - before.atom14[:, _CA])[before.known]
    return float(np.sqrt(np.square(shift).sum(-1).mean()))


def _pieces(prediction: Prediction) -> Iterator[np.ndarray]:
    """Runs of two and more bonded residues, as indices."""
    known, index, chain = prediction.known, prediction.residue_index, prediction.chain
    bonded = known[:-1] & known[1:] & (np.diff(index) == 1) & (np.diff(chain) == 0)
    for piece in np.split(np.arange(len(index)), np.flatnonzero(~bonded) + 1):
        if len(piece) > 1:
            yield piece


def _with_hydrogens(prediction: Prediction, pieces: list[np.ndarray]) -> _Atoms:
    """The pieces as OpenMM's chains."""
    import openmm
    from openmm import app, unit

    topology, points = app.Topology(), []
    for piece in pieces:
        chain = topology.addChain()
        for i in piece.tolist():
            names = ATOM14_NAMES[prediction.aatype[i]]
            residue = topology.addResidue(RESNAMES[prediction.aatype[i]], chain)
            for name in names:
                topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            points.append(prediction.atom14[i, : len(names)])
        topology.addAtom("OXT", app.element.oxygen, residue)
        points.append(_second_oxygen(prediction.atom14[piece[-1]])[None])
    topology.createStandardBonds()
    positions = unit.Quantity([openmm.Vec3(*point) for point in (np.concatenate(points) / 10).tolist()], unit.nanometer)
    topology.createDisulfideBonds(positions)
    modeller = app.Modeller(topology, positions)
    modeller.addHydrogens(app.ForceField(FORCE_FIELD), pH=PH, platform=_platform())
    found = list(modeller.topology.atoms())
    residue = np.concatenate(pieces)[[atom.residue.index for atom in found]]
    slots = [{name: slot for slot, name in enumerate(names)} for names in ATOM14_NAMES]
    return _Atoms(
        topology=modeller.topology,
        positions=np.array(modeller.positions.value_in_unit(unit.nanometer)),
        residue=residue,
        slot=np.array([slots[prediction.aatype[i]].get(atom.name, -1) for i, atom in zip(residue, found, strict=True)]),
        heavy=np.array([atom.element is not app.element.hydrogen for atom in found]),
    )


def _second_oxygen(atom14: np.ndarray) -> np.ndarray:
    """OXT of a last residue [3]: O, turned by half a turn about the axis from CA to C."""
    axis = atom14[_C] - atom14[_CA]
    axis = axis / max(np.linalg.norm(axis), 1e-6)
    bond = atom14[_O] - atom14[_C]
    return atom14[_C] + 2 * (bond @ axis) * axis - bond


def _minimise(atoms: _Atoms, let_go: np.ndarray) -> _Atoms:
    """One minimisation; heavy atoms are held but those of the residues ``let_go`` bool [N]. Raises ValueError."""
    import openmm
    from openmm import app, unit

    system = app.ForceField(FORCE_FIELD).createSystem(atoms.topology)
    springs = openmm.CustomExternalForce("0.5 * k * ((x - x0)^2 + (y - y0)^2 + (z - z0)^2)")
    springs.addGlobalParameter("k", STIFFNESS * _KILOCALORIE * 100)  # per nm**2
    for name in ("x0", "y0", "z0"):
        springs.addPerParticleParameter(name)
    for i in np.flatnonzero(atoms.heavy & ~let_go[atoms.residue]).tolist():
        springs.addParticle(i, atoms.positions[i].tolist())
    system.addForce(springs)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), _platform())
    context.setPositions(atoms.positions)
    openmm.LocalEnergyMinimizer.minimize(context, TOLERANCE, 0, _interruptible())
    state = context.getState(positions=True, energy=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    if not (np.isfinite(energy) and np.isfinite(positions).all()):
        raise ValueError("the energy is not finite")
    return replace(atoms, positions=positions)


def _interruptible() -> "openmm.MinimizationReporter":
    """Brings OpenMM back to Python after each step, where Ctrl-C is seen; costs 4%."""
    import openmm

    class Reporter(openmm.MinimizationReporter):
        def report(self, *_: object) -> bool:
            return False

    return Reporter()


def _platform() -> "openmm.Platform":
    import openmm

    platform = openmm.Platform.getPlatformByName(os.environ.get(_PLATFORM_VARIABLE, "CPU"))
    if platform.getName() == "CPU":
        platform.setPropertyDefaultValue("Threads", str(torch.get_num_threads()))
        platform.setPropertyDefaultValue("DeterministicForces", "true")
    return platform


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """OpenMM starts hydrogens at random places; here at the same ones for the same structure."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)
