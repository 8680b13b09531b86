"""A prediction as ModelCIF: mmCIF with the categories of the PDB's extension for computed models (Vallat et al. 2023).

Written by python-modelcif, the library of the dictionary's authors.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import ihm
import modelcif
import modelcif.data
import modelcif.dumper
import modelcif.model
import modelcif.protocol
import modelcif.qa_metric
import numpy as np
from gemmi import cif

from data_prep.record import ProteinRecord
from data_prep.release import release
from data_prep.residues import ATOM_TYPES
from pipeline.prediction.fold import Prediction

RELAXATION = "restrained minimisation in the Amber99SB force field"
DECIMALS = 2
"""Of pLDDT and PAE."""


@dataclass(frozen=True)
class Origin:
    """What the file says of the program and the model that made it."""

    model: str
    """One line: which weights."""


class _LocalPlddt(modelcif.qa_metric.Local, modelcif.qa_metric.PLDDT):
    """Predicted lDDT of the alpha carbons of a residue, 0 to 100"""

    name = "pLDDT"
    software = None


class _MeanPlddt(modelcif.qa_metric.Global, modelcif.qa_metric.PLDDT):
    """Mean of the residues' predicted lDDT, 0 to 100"""

    name = "mean pLDDT"
    software = None


class _Ptm(modelcif.qa_metric.Global, modelcif.qa_metric.PTM):
    """Predicted TM-score, 0 to 1"""

    name = "pTM"
    software = None


class _Iptm(modelcif.qa_metric.Global, modelcif.qa_metric.IpTM):
    """Predicted TM-score over pairs of residues of different chains, 0 to 1"""

    name = "ipTM"
    software = None


class _Model(modelcif.model.AbInitioModel):
    """One model with the atoms and confidence of a prediction."""

    def __init__(self, prediction: Prediction, records: list[ProteinRecord], units: list[modelcif.AsymUnit]) -> None:
        super().__init__(assembly=modelcif.Assembly(units, name="Modeled chains"), name=prediction.query.name)
        self._records, self._units = records, units
        self.qa_metrics.append(_MeanPlddt(round(prediction.mean_plddt, DECIMALS)))
        if prediction.error is not None:
            self.qa_metrics.append(_Ptm(round(prediction.error.ptm, 4)))
            if prediction.error.iptm is not None:
                self.qa_metrics.append(_Iptm(round(prediction.error.iptm, 4)))
        number = np.concatenate([np.arange(1, len(record) + 1) for record in records])
        for i in np.flatnonzero(prediction.known):  # the category is one of residues with atoms
            chain, place, value = prediction.chain[i], number[i], prediction.plddt[i]
            self.qa_metrics.append(_LocalPlddt(units[chain].residue(int(place)), round(float(value), DECIMALS)))

    def get_atoms(self) -> Iterator[modelcif.model.Atom]:
        """Atoms in the order of the chains."""
        for record, unit in zip(self._records, self._units, strict=True):
            positions, b_factors = record.atom37_positions.tolist(), record.b_factors.tolist()
            for i, atom in np.argwhere(record.atom37_mask).tolist():
                name = ATOM_TYPES[atom]
                yield modelcif.model.Atom(
                    asym_unit=unit,
                    seq_id=i + 1,
                    atom_id=name,
                    type_symbol=name[0],
                    x=positions[i][atom][0],
                    y=positions[i][atom][1],
                    z=positions[i][atom][2],
                    biso=b_factors[i][atom],
                    occupancy=1.0,
                )


def format_modelcif(prediction: Prediction, origin: Origin) -> bytes:
    """ModelCIF text of a prediction.

    Chains of the same sequence are one entity. ``label_seq_id`` counts a chain's residues from 1, ``auth_seq_id`` is
    the number in the source, so that its gaps are kept. Residues of unknown type are UNK of the sequence without atoms.
    """
    query, records = prediction.query, prediction.records
    system = modelcif.System(title=f"Predicted structure of {query.name}", id=query.name)
    entities = {
        sequence: modelcif.Entity(
            [ihm.LPeptideAlphabet()["UNK" if letter == "X" else letter] for letter in sequence],
            description=_entity_name(query.name, query.chains, sequence),
        )
        for sequence in dict.fromkeys(query.chains)
    }
    units = [
        modelcif.AsymUnit(
            entities[record.sequence],
            details=f"chain {record.chain_id}",
            id=record.chain_id,
            auth_seq_id_map={i: int(own) for i, own in enumerate(record.auth_seq_id, start=1)},
        )
        for record in records
    ]
    system.entities.extend(entities.values())
    system.asym_units.extend(units)
    software = modelcif.Software(
        name="lorta-fold",
        classification="model building",
        description="folding of protein sequences with an ESM-2 stem and an ESMFold-style trunk",
        location=None,
        version=release(),
    )
    model = _Model(prediction, records, units)
    system.model_groups.append(modelcif.model.ModelGroup([model], name="Predicted structure"))
    protocol = modelcif.protocol.Protocol()
    targets = modelcif.data.DataGroup(list(entities.values()))
    details, relaxed = _plain(origin.model), prediction.relaxed_by
    folded = modelcif.data.Data("coordinates before relaxation") if relaxed else model
    if relaxed:
        system.data.append(folded)
    protocol.steps.append(
        modelcif.protocol.ModelingStep(
            input_data=targets, output_data=folded, name="prediction", details=details, software=software
        )
    )
    if relaxed:
        protocol.steps.append(
            modelcif.protocol.ModelingStep(
                input_data=folded, output_data=model, name="relaxation", details=RELAXATION, software=_program(relaxed)
            )
        )
    system.protocols.append(protocol)
    stream = io.StringIO()
    modelcif.dumper.write(stream, [system])
    return _with_author_names(stream.getvalue())


def _program(text: str) -> modelcif.Software:
    """The program that relaxed, from its name and version."""
    name, version = text.rsplit(" ", 1)
    return modelcif.Software(
        name=name,
        classification="refinement",
        description="molecular mechanics",
        location="https://openmm.org",
        version=version,
    )


def _with_author_names(text: str) -> bytes:
    """Add ``auth_atom_id``, which python-modelcif leaves out and biotite warns about the lack of."""
    document = cif.read_string(text)
    atoms = document.sole_block().find_loop("_atom_site.label_atom_id")
    loop = atoms.get_loop()
    names = list(atoms)
    loop.add_columns(["_atom_site.auth_atom_id"], "?")
    column = document.sole_block().find_loop("_atom_site.auth_atom_id")
    for i, name in enumerate(names):
        column[i] = name
    return document.as_string().encode()


def _plain(text: str) -> str:
    """ASCII without double quotes: python-ihm quotes a text with both kinds as Python does, which CIF does not know."""
    return text.encode("ascii", "replace").decode().replace('"', "'")


def _entity_name(name: str, chains: tuple[str, ...], sequence: str) -> str:
    return name if len(set(chains)) == 1 else f"{name}, chain {chains.index(sequence) + 1}"
