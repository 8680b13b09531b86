"""Folding from Python: ``from pipeline import load_run``."""

from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from data_prep.files.atomic import write_bytes
from data_prep.structure.record import ProteinRecord
from pipeline.config.device import free_bytes, is_out_of_memory, pick_device
from pipeline.prediction.engine import SHARE, bytes_needed, size_text
from pipeline.prediction.files import format_aligned_error, format_modelcif, format_predicted_pdb
from pipeline.prediction.fold import Prediction, PredictionError, fold_batch
from pipeline.prediction.loading import Loaded, Source, load
from pipeline.prediction.relaxation import relax
from pipeline.prediction.rows import warnings_of
from pipeline.prediction.sequences import InputError, Query, Rejected, safe_name, single_chain
from pipeline.runs.checkpoint import WhichStep


@dataclass(frozen=True, eq=False)
class Structure:
    """A predicted structure. N residues of all chains."""

    prediction: Prediction
    """Everything the model and the checks said."""
    model: str
    """What files say of the model: one line on its weights."""

    def __repr__(self) -> str:
        query = self.prediction.query
        chains = f" in {len(query.chains)} chains" if len(query.chains) > 1 else ""
        return f"Structure({query.name}: {query.length} residues{chains}, mean pLDDT {self.mean_plddt:.1f})"

    @property
    def sequence(self) -> str:
        """One-letter codes as they were folded, ``:`` between chains."""
        return self.prediction.query.sequence

    @property
    def chains(self) -> list[ProteinRecord]:
        """One record per chain: coordinates of all heavy atoms in angstrom, pLDDT as B-factors."""
        return self.prediction.records

    @property
    def ca_positions(self) -> np.ndarray:
        """float32 [N, 3]: alpha carbons, angstrom; 0 for unknown residues."""
        return np.concatenate([chain.ca_positions for chain in self.chains])

    @property
    def plddt(self) -> np.ndarray:
        """float32 [N]: predicted lDDT of each residue, 0 to 100."""
        return self.prediction.plddt

    @property
    def mean_plddt(self) -> float:
        """Over residues with coordinates, 0 to 100."""
        return self.prediction.mean_plddt

    @property
    def pae(self) -> np.ndarray | None:
        """float32 [N, N]: expected error of residue j seen from residue i, angstrom; None without the head."""
        return None if self.prediction.error is None else self.prediction.error.pae

    @property
    def ptm(self) -> float | None:
        """Predicted TM-score, 0 to 1; None without the head."""
        return None if self.prediction.error is None else self.prediction.error.ptm

    @property
    def iptm(self) -> float | None:
        """Predicted TM-score over pairs of different chains; None without the head, or for one chain."""
        return None if self.prediction.error is None else self.prediction.error.iptm

    @property
    def warnings(self) -> list[str]:
        """What to look at before the structure is used; empty where nothing was found."""
        return warnings_of(self.prediction)

    def relax(self) -> "Structure":
        """The structure after restrained minimisation in the Amber force field, as ``pipeline.predict --relax`` does.

        Raises:
            RelaxationError: it cannot be relaxed, or OpenMM is not installed.
        """
        return Structure(relax(self.prediction), self.model)

    def to_pdb(self) -> str:
        """Return the text of a PDB file, as viewers take it. Raises ValueError for more than such a file can hold."""
        return format_predicted_pdb(self.prediction.query.name, self.chains).decode()

    def save(self, path: str | Path) -> Path:
        """Write ``.pdb``, ``.cif`` (ModelCIF) or ``.json`` (aligned error), told by the ending; returns the path.

        Raises:
            ValueError: another ending, no aligned error, or more than a PDB file can hold.
        """
        path = Path(path)
        if path.suffix == ".pdb":
            write_bytes(path, format_predicted_pdb(path.stem, self.chains))
        elif path.suffix == ".cif":
            write_bytes(path, format_modelcif(self.prediction, self.model))
        elif path.suffix == ".json":
            if self.prediction.error is None:
                raise ValueError(f"{path}: this model has no head for aligned errors (heads.pae)")
            write_bytes(path, format_aligned_error(self.prediction.error))
        else:
            raise ValueError(f"{path}: the ending must be .pdb, .cif or .json")
        return path


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model on a device, ready to fold."""

    loaded: Loaded
    device: torch.device

    def __repr__(self) -> str:
        return f"Predictor({self.description}; on {self.device})"

    @property
    def description(self) -> str:
        """One line: which weights."""
        return self.loaded.description

    @overload
    def fold(self, sequence: str, *, name: str = ..., recycles: int | None = ...) -> Structure: ...

    @overload
    def fold(self, sequence: list[str], *, name: str = ..., recycles: int | None = ...) -> list[Structure]: ...

    def fold(
        self, sequence: str | list[str], *, name: str = "prediction", recycles: int | None = None
    ) -> Structure | list[Structure]:
        """Fold one sequence, or a complex of chains with ``:`` between them; or each of a list, with a progress bar.

        Args:
            sequence: one-letter codes, read by the rules of docs/prediction.md.
            name: of the structure, in files; those of a list get a number, from 1 on.
            recycles: passes after the first; None: as many as the model was trained for.

        Raises:
            InputError: a sequence that cannot be folded, or no number of recycles; one line.
            PredictionError: memory ended, or the model gave numbers that are not finite; one line.
        """
        if isinstance(sequence, list):  # all are checked before the first is folded
            queries = [_query(one, f"{name}_{number}", recycles) for number, one in enumerate(sequence, 1)]
            console = Console(stderr=True)
            hidden = not (console.is_terminal or console.is_jupyter)
            return [self._fold(q, recycles) for q in track(queries, "folding", console=console, disable=hidden)]
        return self._fold(_query(sequence, name, recycles), recycles)

    def _fold(self, query: Query, recycles: int | None) -> Structure:
        name, model = query.name, self.loaded.model
        passes = model.config.data.max_recycles if recycles is None else recycles
        length = query.linked_length
        needed, free = bytes_needed(model, self.device, 1, length), int(SHARE * free_bytes(self.device))
        if needed > free:
            what = f"{length} residues need about {size_text(needed)}, and {size_text(free)} are free"
            raise PredictionError(f"{name}: {what} on {self.device}: pipeline.predict folds in smaller pieces")
        try:
            (prediction,) = fold_batch(model, [query], self.device, passes)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise PredictionError(f"{name}: memory of {self.device} ended with {length} residues") from None
        return Structure(prediction, self.description)


def _query(sequence: str, name: str, recycles: int | None) -> Query:
    """Return what is to be folded, checked. Raises InputError."""
    if not isinstance(sequence, str):
        raise InputError(f"{name}: a text of one-letter codes is expected, not {type(sequence).__name__}")
    if recycles is not None and (not isinstance(recycles, int) or recycles < 0):
        raise InputError(f"{name}: recycles are a whole number from 0, not {recycles!r}")
    query = single_chain(safe_name(name) or "prediction", sequence, name)
    if isinstance(query, Rejected):
        raise InputError(f"{name}: {query.reason}")
    return query


def load_run(
    run: str | Path, *, step: WhichStep = "last", weights: str = "", esm_weights: str = "", device: str = "auto"
) -> Predictor:
    """A trained run, or a published model, to fold with.

    Args:
        run: directory of ``pipeline.train``; or ``esmfold_v1``, ``esmfold_v0``, or a file or directory of such a model.
        step: a kept checkpoint of a run, 0: untrained; ``best``: of the best round of validation; ``last``: the newest.
        weights: file or directory of the published model, if it is not where its owners keep it.
        esm_weights: the stem's pretrained weights, if they moved since training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        RunError, StemError, WeightsError, CheckpointError, ConfigError: all ``ValueError``, with one line.
    """
    loaded = load(Source(str(run), step, weights, esm_weights))
    chosen = pick_device(device)
    loaded.model.to(chosen)
    return Predictor(loaded, chosen)
