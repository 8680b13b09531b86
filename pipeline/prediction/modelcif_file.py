"""A prediction as ModelCIF: mmCIF with the categories of the PDB's extension for computed models (Vallat et al. 2023).

Written by python-modelcif, the library of the dictionary's authors; the atoms, where it is slow, by gemmi.
"""

import io
from collections import defaultdict
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

from data_prep.files.release import release
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM_TYPES, RESNAMES
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
    """One model with the confidence of a prediction."""

    def __init__(self, prediction: Prediction, records: list[ProteinRecord], units: list[modelcif.AsymUnit]) -> None:
        super().__init__(assembly=modelcif.Assembly(units, name="Modeled chains"), name=prediction.query.name)
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
        """None: see ``_with_atoms``."""
        return iter(())


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
    modelcif.dumper.write(stream, [system], check=False)  # it looks for the atoms that are not there yet
    return _with_atoms(stream.getvalue(), records, list(entities))


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


def _with_atoms(text: str, records: list[ProteinRecord], sequences: list[str]) -> bytes:
    """Add the atoms of ``records``, whose entities are numbered as their ``sequences``.

    The columns are python-modelcif's and ``auth_atom_id``, about the lack of which biotite warns.
    """
    columns: defaultdict[str, list[str]] = defaultdict(list)
    count = 0
    for record in records:
        residue, atom = np.nonzero(record.atom37_mask)
        x, y, z = record.atom37_positions[residue, atom].T.tolist()
        residue_names = [RESNAMES[aatype] for aatype in record.aatype[residue].tolist()]
        atom_names = [ATOM_TYPES[i] for i in atom.tolist()]
        for name, values in {
            "group_PDB": ["ATOM"] * len(atom),
            "id": [str(count + i) for i in range(1, len(atom) + 1)],
            "type_symbol": [name[0] for name in atom_names],
            "label_atom_id": atom_names,
            "label_alt_id": ["."] * len(atom),
            "label_comp_id": residue_names,
            "label_seq_id": [str(i + 1) for i in residue.tolist()],
            "auth_seq_id": [str(i) for i in record.auth_seq_id[residue].tolist()],
            "pdbx_PDB_ins_code": ["?"] * len(atom),
            "label_asym_id": [record.chain_id] * len(atom),
            "Cartn_x": [f"{value:.3f}" for value in x],
            "Cartn_y": [f"{value:.3f}" for value in y],
            "Cartn_z": [f"{value:.3f}" for value in z],
            "occupancy": ["1.000"] * len(atom),
            "label_entity_id": [str(sequences.index(record.sequence) + 1)] * len(atom),
            "auth_asym_id": [record.chain_id] * len(atom),
            "auth_comp_id": residue_names,
            "B_iso_or_equiv": [f"{value:.3f}" for value in record.b_factors[residue, atom].tolist()],
            "pdbx_PDB_model_num": ["1"] * len(atom),
            "auth_atom_id": atom_names,
        }.items():
            columns[name] += values
        count += len(atom)
    document = cif.read_string(text)
    block = document.sole_block()
    block.init_loop("_atom_site.", list(columns)).set_all_values(list(columns.values()))
    elements = sorted(set(columns["type_symbol"]))
    block.init_loop("_atom_type.", ["symbol"]).set_all_values([elements])
    return document.as_string().encode()


def _plain(text: str) -> str:
    """ASCII without double quotes: python-ihm quotes a text with both kinds as Python does, which CIF does not know."""
    return text.encode("ascii", "replace").decode().replace('"', "'")


def _entity_name(name: str, chains: tuple[str, ...], sequence: str) -> str:
    return name if len(set(chains)) == 1 else f"{name}, chain {chains.index(sequence) + 1}"
