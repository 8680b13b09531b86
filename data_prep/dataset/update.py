"""A finished dataset in place of reading its files again, where they are as they were.

What a file gave is in the dataset: its records in the shards, a row for each chain in the ledger, both with the hash of
the file. Only the files are not read again; clusters and splits are made anew over everything, so that an updated
dataset is the one that a fresh run would write, byte for byte.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.dataset.ingest import NOT_ASKED_FOR, Ingested, IngestSettings
from data_prep.dataset.inputs import name_with_path
from data_prep.dataset.ledger import LedgerRow, read_ledger
from data_prep.dataset.splits import HELD_OUT
from data_prep.dataset.store import DatasetError, Placement, StructureDataset
from data_prep.files.bounded_reading import read_table_bytes
from data_prep.files.checksums import CHECKSUMS, damaged_files, sha256
from data_prep.files.command_line import program
from data_prep.files.journal import differences
from data_prep.structure.assemble import plain_id
from data_prep.structure.structure_bytes import structure_stem

TWIN = "same content as "
REPEATED, ID_TAKEN, ID_IMPOSSIBLE = "repeated sequence: ", "id taken: ", "id cannot be "
"""How the remarks begin that a chain got for the sake of other files, so that they may be others in an update."""


@dataclass(frozen=True)
class Changes:
    """What has become of the files since the dataset was made."""

    to_read: tuple[str, ...]
    n_new: int
    n_changed: int
    n_kept: int
    """Files that are as they were, and are not read again."""
    n_gone: int

    def __str__(self) -> str:
        again = len(self.to_read) - self.n_new - self.n_changed
        counts = ((self.n_new, "new"), (self.n_changed, "changed"), (again, "again"))
        to_read = ", ".join(f"{count} {what}" for count, what in counts if count) or "none"
        return f"files to read: {to_read}; taken over: {self.n_kept}; gone since: {self.n_gone}"


class FinishedDataset:
    """A dataset as it was before its update. Raises ``DatasetError`` where it is none, is damaged or was made by
    another version or with other settings of reading, ``ValueError`` for a ledger that is none.
    """

    def __init__(self, path: Path, root: Path, reading: IngestSettings) -> None:
        self._dataset = StructureDataset(path)
        self._root = root
        anew = "--overwrite makes the dataset anew, from all files"
        for problem in damaged_files(path):
            raise DatasetError(f"{problem}; {anew}")
        description = self._dataset.description
        if description.get("tool") != program():
            raise DatasetError(f"{path}: was written by {description.get('tool')}, this is {program()}; {anew}")
        self.settings = description["settings"]
        self.clustering = "mmseqs" if self.settings["clustering"].startswith("MMseqs2") else "exhaustive"
        different = differences(flat(self.settings["reading"]), flat(as_json(asdict(reading))))
        if different:
            different = different if len(different) < 200 else different[:200] + "..."
            raise DatasetError(f"{path}: was made with other settings ({different}); repeat its options, or {anew}")
        self.ledger = tuple(read_ledger(path / "ledger.csv"))
        self._reading = reading
        self._rows: dict[str, list[LedgerRow]] = {}
        for row in self.ledger:
            self._rows.setdefault(row.file, []).append(row)
        self._ids: dict[str, list[str]] = {}
        files = self._dataset.table["source_file"].to_pylist()
        for record_id, file in zip(self._dataset.ids(), files, strict=True):
            self._ids.setdefault(file, []).append(record_id)
        self._is_unchanged: dict[str, bool] = {}
        self._sums = read_table_bytes(path / CHECKSUMS)

    def placements(self) -> dict[str, Placement]:
        """Where the chains were, by record id."""
        names = ("split", "cluster", "cluster_size", "nearest_train_id", "nearest_train_identity")
        columns = (self._dataset.table[name].to_pylist() for name in names)
        return {name: Placement(*place) for name, *place in zip(self._dataset.ids(), *columns, strict=True)}

    def is_unchanged(self, file: str) -> bool:
        """Whether a file was read, and has the content that it had then."""
        if file not in self._is_unchanged:
            before = {row.sha256 for row in self._rows.get(file, ())}
            try:
                self._is_unchanged[file] = bool(any(before)) and before == {sha256(self._root / file)}
            except OSError:
                self._is_unchanged[file] = False
        return self._is_unchanged[file]

    def changes(self, files: Sequence[str], others: Iterable[LedgerRow], path_in_id: Iterable[str]) -> Changes:
        """What to read of ``files``, beside which are ``others`` that are not to be read."""
        with_path = frozenset(path_in_id)
        to_read = tuple(file for file in files if not self._stands_for(file, file in with_path))
        known = [file for file in to_read if any(row.sha256 for row in self._rows.get(file, ()))]
        there = {*files, *(row.file for row in others)}
        return Changes(
            to_read,
            n_new=sum(file not in self._rows for file in to_read),
            n_changed=sum(not self.is_unchanged(file) for file in known),
            n_kept=len(files) - len(to_read),
            n_gone=len({file for file in self._rows if file} - there),
        )

    def _stands_for(self, file: str, with_path: bool) -> bool:
        """Whether the dataset holds all that reading the file would give: not where a chain was left out for the sake
        of another file's, has another id now, or was asked for and left out, since the ledger has no id of it.
        """
        if not self.is_unchanged(file):
            return False
        name = name_with_path(file) if with_path else structure_stem(file)
        ids = self._ids.get(file, [])
        for record_id, chain in zip(ids, self._dataset.column("chain_id", ids), strict=True):
            if not re.fullmatch(re.escape(plain_id(name, chain)) + r"(\.m\d+)?(-\d+)?", record_id):
                return False
        reasons = [row.reason for row in self._rows[file] if not row.id]
        if self._reading.only_ids is not None and any(reason != NOT_ASKED_FOR for reason in reasons):
            return False
        return not any(reason.startswith((REPEATED, ID_TAKEN, ID_IMPOSSIBLE)) for reason in reasons)

    def is_current(self, changes: Changes, others: Iterable[LedgerRow], split: dict, clustering: str) -> bool:
        """Whether an update would write what is there already."""
        is_same = self.settings["split"] == split and clustering in ("auto", self.clustering)
        return is_same and not changes.to_read and not changes.n_gone and set(others) <= set(self.ledger)

    def results(self, files: Sequence[str], to_read: Iterable[str], read: Iterator[Ingested]) -> Iterator[Ingested]:
        """What each of ``files`` gives, those ``to_read`` by way of ``read``, the others from the dataset."""
        anew = frozenset(to_read)
        for file in files:
            yield next(read) if file in anew else self._kept(file)

    def _kept(self, file: str) -> Ingested:
        records = []
        for record_id in self._ids.get(file, ()):
            record = self._dataset.load(record_id)
            own = tuple(warning for warning in record.warnings if not warning.startswith(TWIN))
            records.append(replace(record, warnings=own))
        reason = {record.id: "; ".join(record.warnings) for record in records}
        rows = tuple(replace(row, reason=reason[row.id]) if row.id else row for row in self._rows[file])
        name = structure_stem(file)
        left_out = {plain_id(name, row.chain): row.reason for row in rows if row.chain and not row.id}
        return Ingested(file, rows[0].sha256, tuple(records), rows, left_out)

    def check_unchanged(self) -> None:
        """Raise ``DatasetError`` where another run has written to the dataset since it was opened."""
        path = self._dataset.path / CHECKSUMS
        if not path.is_file() or read_table_bytes(path) != self._sums:
            raise DatasetError(f"{self._dataset.path}: another run has written it meanwhile; give the command again")


def moved(before: dict[str, Placement], after: dict[str, Placement]) -> tuple[int, int]:
    """Chains that were for training and are held out now, and chains that were held out and are not any more."""
    both = [(before[name].split, after[name].split) for name in before.keys() & after.keys()]
    return (
        sum(old == "train" and new in HELD_OUT for old, new in both),
        sum(old in HELD_OUT and new not in HELD_OUT for old, new in both),
    )


def as_json(settings: dict) -> dict:
    """Settings as they come back from a file: tuples are lists."""
    return json.loads(json.dumps(settings))


def flat(settings: dict) -> dict:
    """The settings of ``reading`` with its filters and limits beside the others, to say which differ."""
    nested = {name: value for name, value in settings.items() if isinstance(value, dict)}
    rest = {name: value for name, value in settings.items() if name not in nested}
    return rest | {name: value for part in nested.values() for name, value in part.items()}
