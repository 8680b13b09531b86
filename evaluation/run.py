"""A run: all targets scored, each in a row with a status and a reason; finished ones kept, so that it can go on.

``targets.jsonl`` has every finished target. A target is taken from it (``--resume``) when it was scored, with the same
settings, from files that have the same bytes today.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from data_prep.files.checksums import sha256
from data_prep.files.command_line import release
from data_prep.files.errors import RunError, UserError
from data_prep.files.journal import Journal, JournalError
from data_prep.files.workers import ProcessKilledError, in_processes
from data_prep.structure.io import StructureError, read_structure
from data_prep.structure.record import ProteinRecord
from evaluation.lddt_scores import DEFINITION
from evaluation.match import MIN_IDENTITY, MatchError
from evaluation.residue_table import ResidueTable, Trace
from evaluation.score import PairScore, TruthError, score_pair
from evaluation.targets import Target

if TYPE_CHECKING:
    from data_prep.dataset.store import StructureDataset

JOURNAL: str = "targets.jsonl"
"""Name of the file of finished targets in the directory of ``--out``."""

STATUSES: Mapping[str, str] = {
    "scored": "every residue of the truth was compared",
    "partial": "scored, but residues or chains of the truth are missing from the prediction and count as not preserved",
    "failed": "no score; the reason says why",
    "missing": "a truth without a prediction",
    "extra": "a prediction without a truth: ignored",
}
"""What the column ``status`` of scores.csv can say."""


_TARGETS_AT_ONCE = 16  # per message to a process: few, so that progress shows and a stopped run loses little


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

    @property
    def scored(self) -> PairScore:
        """The score of a target that has one."""
        assert self.score is not None, f"{self.target} has no score"
        return self.score


def run_targets(
    targets: Sequence[Target], settings: Settings, out: Path | None = None, resume: bool = False, jobs: int = 1
) -> tuple[list[Row], int]:
    """Scores the targets, or takes what an earlier run in the same directory found.

    Args:
        targets: what to score; their names differ.
        settings: how.
        out: a directory in which finished targets are kept as the run goes on; None keeps nothing.
        resume: take from ``out`` the targets that were scored with the same settings from the same files.
        jobs: processes.

    Returns:
        The rows in the order of the targets, and how many of them were taken.

    Raises:
        UserError: ``out`` holds a run with other settings, or its journal is damaged.
        RunError: one of the processes was killed.
    """
    rows: dict[str, Row] = {}
    with nullcontext() if out is None else _open_journal(out, settings, resume) as journal:
        written: list[str] = []
        if journal is not None:
            found, written = _found_rows(journal)
            rows = {target.name: row for target in targets if (row := _finished(target, found)) is not None}
        taken = len(rows)
        rest = {target.name: target for target in targets if target.name not in rows}
        terminal = Console(stderr=True)
        scored = track(
            evaluate(list(rest.values()), settings, jobs),
            total=len(rest),
            description="scoring",
            console=terminal,
            transient=True,
            disable=not terminal.is_terminal,
        )
        for row in scored:
            rows[row.target] = row
            if journal is not None:
                journal.append(_entry(rest[row.target], row))
                journal.rows.clear()  # ``rows`` has them
                written.append(row.target)
        if journal is not None and written != [target.name for target in targets]:
            journal.rewrite(_entry(target, rows[target.name]) for target in targets)
    return [rows[target.name] for target in targets], taken


def evaluate(targets: Sequence[Target], settings: Settings, jobs: int = 1) -> Iterator[Row]:
    """Scores the targets and yields their rows as they are done, in their order where ``jobs`` is 1.

    Foreseeable trouble with a target is its row, not an exception. With ``jobs`` above 1 as many processes share the
    targets; they are started afresh, so that a script which calls this needs an ``if __name__ == "__main__"``.

    Raises:
        RunError: one of the processes was killed.
    """
    if jobs == 1 or len(targets) < 2:
        yield from _evaluate_some(targets, settings)
        return
    size = max(1, min(_TARGETS_AT_ONCE, len(targets) // (2 * jobs)))
    parts = [targets[start : start + size] for start in range(0, len(targets), size)]
    try:
        for rows in in_processes(partial(_evaluate_list, settings=settings), parts, jobs):
            yield from rows
    except ProcessKilledError:
        raise RunError(
            f"one of {jobs} processes was killed (out of memory?): scored targets are kept; go on with --resume and "
            "fewer --jobs"
        ) from None


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
        self._last: tuple[Path | None, Sequence[ProteinRecord]] = (None, ())
        self._datasets: dict[Path, StructureDataset] = {}

    def truth(self, target: Target) -> Sequence[ProteinRecord]:
        """The chains of the truth.

        Raises:
            StructureError: it cannot be read.
            TruthError: the chain or record is not there.
        """
        assert target.truth is not None
        chains: Sequence[ProteinRecord]
        if target.record_id is not None:
            chains = [self._record(target.truth, target.record_id)]
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

    def _record(self, dataset: Path, record_id: str) -> ProteinRecord:
        from data_prep.dataset.store import (  # loads file formats that no other truth needs
            DatasetError,
            StructureDataset,
        )

        try:
            if dataset not in self._datasets:
                self._datasets[dataset] = StructureDataset(dataset)
            return self._datasets[dataset].load(record_id)
        except DatasetError as error:
            raise TruthError(str(error)) from None


def _open_journal(directory: Path, settings: Settings, resume: bool) -> Journal:
    """``targets.jsonl``; its first line says how the run scores."""
    header = {"version": release(), "definition": DEFINITION, **asdict(settings)}
    try:
        return Journal(directory / JOURNAL, header).open(resume=resume)
    except JournalError as error:
        raise UserError(f"--resume: {error}: use the same settings, another --out, or leave --resume out") from None


def _found_rows(journal: Journal) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What a journal has by target, the last of each, and the targets in its order."""
    try:
        names = [entry["row"]["target"] for entry in journal.rows]
    except (KeyError, TypeError):
        raise UserError(f"--resume: {journal.path} is damaged: delete it, or leave --resume out") from None
    found = dict(zip(names, journal.rows, strict=True))
    journal.rows.clear()
    return found, names


def _finished(target: Target, found: Mapping[str, dict[str, Any]]) -> Row | None:
    """The row of a target that needs no scoring again."""
    entry = found.get(target.name)
    if entry is None or entry["true_chain"] != target.true_chain or target.prediction is None or target.problem:
        return None
    row = _row(entry["row"])
    if row.score is None or row.prediction_sha256 != _digest(target.prediction):
        return None
    if row.truth_sha256 != _truth_digest(target):
        return None
    return replace(row, prediction=str(target.prediction), truth=target.truth_name)


def _entry(target: Target, row: Row) -> dict[str, Any]:
    score = row.score and vars(row.score) | {name: getattr(row.score, name).columns() for name in ("residues", "trace")}
    return {"true_chain": target.true_chain, "row": vars(row) | {"score": score}}


def _row(entry: dict[str, Any]) -> Row:
    score = entry["score"]
    if score is not None:
        tables = {name: kind.of_columns(score[name]) for name, kind in (("residues", ResidueTable), ("trace", Trace))}
        score = PairScore(**score | tables | {name: tuple(score[name]) for name in ("notes", "warnings")})
    return Row(**entry | {"score": score})


def _digest(path: Path) -> str:
    """Hash of a file's bytes, '' where it cannot be read: scoring it again says why."""
    try:
        return sha256(path)
    except OSError:
        return ""


def _truth_digest(target: Target) -> str:
    if target.truth is None:
        return ""
    if target.record_id is None:
        return _digest(target.truth)
    return _record_digests(target.truth).get(target.record_id, "")


@cache
def _record_digests(dataset: Path) -> dict[str, str]:
    from data_prep.dataset.store import StructureDataset  # loads file formats that no other truth needs

    data = StructureDataset(dataset)
    ids = data.ids()
    return dict(zip(ids, data.column("source_sha256", ids), strict=True))
