"""All targets of a run: each ends in a row with a status and a reason."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from data_prep.structure.io import StructureError, read_structure
from data_prep.structure.record import ProteinRecord
from evaluation.match import MIN_IDENTITY, MatchError
from evaluation.score import PairScore, TruthError, score_pair
from evaluation.targets import Target

STATUSES: Mapping[str, str] = {
    "scored": "every residue of the truth was compared",
    "partial": "scored, but residues or chains of the truth are missing from the prediction and count as not preserved",
    "failed": "no score; the reason says why",
    "missing": "a truth without a prediction",
    "extra": "a prediction without a truth: ignored",
}
"""What the column ``status`` of scores.csv can say."""


_TARGETS_AT_ONCE = 16  # per message to a process: few, so that progress shows and a stopped run loses little


class WorkerError(RuntimeError):
    """A process of a run with several was lost. One line."""


@dataclass(frozen=True)
class Settings:
    """What the user can choose about the scoring itself."""

    match: str = "auto"
    min_identity: float = MIN_IDENTITY
    chain_map: Mapping[str, str] | None = None
    all_atom: bool = False
    """Also lDDT over all heavy atoms."""
    superposition: bool = False
    """Also TM-score, GDT-TS, GDT-HA and RMSD."""


@dataclass(frozen=True)
class Row:
    """How one target ended."""

    target: str
    status: str
    """One of ``STATUSES``."""
    reason: str = ""
    score: PairScore | None = None
    """Of scored and partial targets."""
    counts: bool = True
    """The target belongs in a mean that takes what is missing as 0. Not so an extra prediction, nor a target whose
    truth is of no use."""
    prediction: str = ""
    truth: str = ""
    prediction_sha256: str = ""
    """Of the file's bytes, where it could be read."""
    truth_sha256: str = ""
    """The same; of the source file when the truth is a record of a dataset."""


def evaluate(targets: Sequence[Target], settings: Settings, jobs: int = 1) -> Iterator[Row]:
    """Scores the targets and yields their rows in their order, one by one.

    Foreseeable trouble with a target is its row, not an exception. With ``jobs`` above 1 as many processes share the
    targets; they are started afresh, so that a script which calls this needs an ``if __name__ == "__main__"``.

    Raises:
        WorkerError: one of the processes was killed.
    """
    if jobs == 1 or len(targets) < 2:
        yield from _evaluate_some(targets, settings)
        return
    size = max(1, min(_TARGETS_AT_ONCE, len(targets) // (2 * jobs)))
    parts = [targets[start : start + size] for start in range(0, len(targets), size)]
    pool = ProcessPoolExecutor(min(jobs, len(parts)), mp_context=get_context("spawn"))
    try:
        for rows in pool.map(_evaluate_list, parts, repeat(settings)):
            yield from rows
    except BrokenProcessPool:
        raise WorkerError(
            f"one of {jobs} processes was killed (out of memory?): scored targets are kept; go on with --resume and "
            "fewer --jobs"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _evaluate_list(targets: Sequence[Target], settings: Settings) -> list[Row]:
    return list(_evaluate_some(targets, settings))


def _evaluate_some(targets: Sequence[Target], settings: Settings) -> Iterator[Row]:
    structures = _Structures()
    for target in targets:
        yield _evaluate_one(target, settings, structures)


def _evaluate_one(target: Target, settings: Settings, structures: "_Structures") -> Row:
    prediction = "" if target.prediction is None else str(target.prediction)
    truth = target.truth_name

    def row(status: str, reason: str, **others) -> Row:
        return Row(target.name, status, reason, prediction=prediction, truth=truth, **others)

    if target.problem:
        return row("failed", target.problem)
    if target.truth is None:
        return row("extra", f"{target.no_truth}: ignored", counts=False)
    if target.prediction is None:
        return row("missing", "no prediction of this name")
    try:
        true_chains = structures.truth(target)
    except (StructureError, TruthError) as error:
        return row("failed", f"truth: {error}", counts=False)
    try:
        pred_chains = read_structure(target.prediction)
    except StructureError as error:
        return row("failed", f"prediction: {error}")
    hashes = {"prediction_sha256": pred_chains[0].source_sha256, "truth_sha256": true_chains[0].source_sha256}
    try:
        score = score_pair(
            true_chains,
            pred_chains,
            settings.match,
            settings.min_identity,
            settings.chain_map,
            all_atom=settings.all_atom,
            superposition=settings.superposition,
        )
    except MatchError as error:
        return row("failed", str(error), counts=not isinstance(error, TruthError), **hashes)
    if score.n_matched == score.n_truth:
        return row("scored", "", score=score, **hashes)
    reason = f"{score.n_truth - score.n_matched} of {score.n_truth} residues of the truth are missing in the prediction"
    return row("partial", reason, score=score, **hashes)


class _Structures:
    """Reads truths, and keeps the last one: it may be that of the next target too."""

    def __init__(self) -> None:
        self._last: tuple[Path | None, Sequence[ProteinRecord]] = None, ()
        self._datasets: dict[Path, object] = {}

    def truth(self, target: Target) -> Sequence[ProteinRecord]:
        """The chains of the truth.

        Raises:
            StructureError: it cannot be read.
            TruthError: the chain or record is not there.
        """
        if target.record_id is not None:
            chains = [self._record(target)]
        else:
            if self._last[0] != target.truth:
                self._last = target.truth, read_structure(target.truth)
            chains = self._last[1]
        if target.true_chain is None:
            return chains
        named = [chain for chain in chains if chain.chain_id == target.true_chain]
        if not named:
            there = ", ".join(repr(chain.chain_id) for chain in chains)
            raise TruthError(f"{target.truth} has no protein chain {target.true_chain!r}, only {there}")
        return named

    def _record(self, target: Target) -> ProteinRecord:
        from data_prep.dataset.store import (  # loads file formats that no other truth needs
            DatasetError,
            StructureDataset,
        )

        try:
            if target.truth not in self._datasets:
                self._datasets[target.truth] = StructureDataset(target.truth)
            return self._datasets[target.truth].load(target.record_id)
        except DatasetError as error:
            raise TruthError(str(error)) from None
