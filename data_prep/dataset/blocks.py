"""Blocks: the files of the input in portions whose results are kept on disk, so that no file is read twice.

A work directory belongs to one set of files and settings (its fingerprint). Each block of ``FILES_PER_BLOCK`` files
leaves a shard with its records and then, in one step, a JSON file with everything else; a block is done when the JSON
file is there. Processes, interrupted runs and machines that share a file system may fill one work directory in any
order: the blocks do not depend on who made them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path

from data_prep.dataset.ingest import Ingested, IngestSettings, ingest_file
from data_prep.dataset.ledger import LedgerRow
from data_prep.dataset.shards import ShardReader, save_shard
from data_prep.files.atomic import write_text
from data_prep.files.command_line import release
from data_prep.files.errors import UserError
from data_prep.files.workers import in_processes
from data_prep.structure.record import ProteinRecord

FILES_PER_BLOCK = 32
"""Reading so many takes about as long as starting a process."""

_HEADER = (
    *("id", "chain_id", "sequence", "resolution", "method", "deposition_date", "release_date"),
    *("source_file", "source_sha256", "model_number", "warnings"),
)


class WorkError(UserError):
    """A work directory that does not fit this run."""


@dataclass(frozen=True)
class Blocks:
    """The portions of an input and the directory that holds their results."""

    root: Path
    files: tuple[str, ...]
    """Relative to ``root``, in order."""
    settings: IngestSettings
    path: Path
    """The work directory."""

    def __len__(self) -> int:
        return -(-len(self.files) // FILES_PER_BLOCK)

    def open(self, *, restart: bool = False) -> None:
        """Make the work directory, or go on with what is in it.

        Raises ``WorkError`` where it is none, and where it holds the work of other files or settings, unless
        ``restart`` discards that.
        """
        note, wanted = self.path / "work.json", json.dumps({"fingerprint": self.fingerprint()})
        if note.exists():
            if note.read_text() == wanted:
                return
            if not restart:
                raise WorkError(
                    f"{self.path}: holds unfinished work on other files or with other settings; repeat that run, "
                    "remove the directory, or discard it with --overwrite"
                )
            shutil.rmtree(self.path)
        elif self.path.is_dir() and any(not path.name.endswith(".partial") for path in self.path.iterdir()):
            raise WorkError(f"{self.path}: has no work.json, so it is no work directory; remove it")
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(note, wanted)

    def fingerprint(self) -> str:
        """Hash of what the results depend on: program, settings, files with size and time."""
        listing = [(file, *_size_and_time(self.root / file)) for file in self.files]
        content = [release(), FILES_PER_BLOCK, asdict(self.settings), listing]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not done."""
        return [number for number in range(len(self)) if not self._done(number).exists()]

    def make(self, numbers: Sequence[int], jobs: int = 1) -> Iterator[int]:
        """Make blocks in up to ``jobs`` processes; yields the number of files of each as it is done.

        Raises ``OSError`` where one cannot be written, ``ProcessKilledError``.
        """
        return in_processes(partial(_make_block, self), numbers, jobs)

    def results(self) -> Iterator[Ingested]:
        """What every file gave, in the order of the files. All blocks must be done."""
        for number in range(len(self)):
            try:
                yield from self._load(number)
            except (OSError, ValueError, KeyError, TypeError) as error:
                name = self._done(number)
                raise WorkError(f"{name}: damaged ({error}); remove it, and its files are read again") from None

    def remove(self) -> None:
        """Delete the work directory."""
        shutil.rmtree(self.path)

    def _done(self, number: int) -> Path:
        return self.path / f"{number:06d}.json"

    def _shard(self, number: int) -> Path:
        return self.path / f"{number:06d}.safetensors"

    def _make(self, number: int) -> int:
        files = self.files[number * FILES_PER_BLOCK : (number + 1) * FILES_PER_BLOCK]
        results = [ingest_file(self.root, file, self.settings) for file in files]
        records = [record for result in results for record in result.records]
        if records:
            save_shard(self._shard(number), records)
        content = [
            {
                "file": result.file,
                "sha256": result.sha256,
                "rows": [astuple(row) for row in result.rows],
                "left_out": result.left_out,
                "records": [
                    {name: getattr(record, name) for name in _HEADER} | {"n_atoms": int(record.atom37_mask.sum())}
                    for record in result.records
                ],
            }
            for result in results
        ]
        write_text(self._done(number), json.dumps(content))
        return len(files)

    def _load(self, number: int) -> Iterator[Ingested]:
        reader: ShardReader | None = None
        residue = atom = 0
        for entry in json.loads(self._done(number).read_bytes()):
            records = []
            for header in entry["records"]:
                reader = reader or ShardReader(self._shard(number))
                n_residues, n_atoms = len(header["sequence"]), header.pop("n_atoms")
                arrays = reader.arrays(slice(residue, residue + n_residues), slice(atom, atom + n_atoms))
                residue, atom = residue + n_residues, atom + n_atoms
                records.append(ProteinRecord(**header | {"warnings": tuple(header["warnings"])}, **arrays))
            rows = tuple(LedgerRow(*row) for row in entry["rows"])
            yield Ingested(entry["file"], entry["sha256"], tuple(records), rows, entry["left_out"])


def _size_and_time(path: Path) -> tuple[int, int] | tuple[None, None]:
    """None of a file that has gone since it was found; reading it will say so."""
    try:
        entry = os.stat(path)
    except OSError:
        return None, None
    return entry.st_size, entry.st_mtime_ns


def _make_block(blocks: Blocks, number: int) -> int:
    return blocks._make(number)
