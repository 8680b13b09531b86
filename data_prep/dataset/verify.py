"""Whether a dataset is what its writer left: checksums, and that index, shards and ledger agree."""

import os
from pathlib import Path

from data_prep.dataset.ledger import read_ledger
from data_prep.dataset.shards import check_storable
from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files.checksums import damaged_files


def problems(path: str | os.PathLike) -> list[str]:
    """Everything that is wrong with a dataset, one line each; empty if it is sound.

    Raises ``DatasetError`` for a directory that is no dataset.
    """
    dataset = StructureDataset(path)
    found = damaged_files(Path(path))
    ids = dataset.ids()
    if len(ids) != dataset.description.get("records"):
        found.append(
            f"{path}: index.parquet has {len(ids)} rows, dataset.json says {dataset.description.get('records')}"
        )
    for record_id in ids:
        found += _record_problems(dataset, record_id)
    try:
        ledger = read_ledger(Path(path) / "ledger.csv")
    except (OSError, ValueError) as error:
        return [*found, str(error)]
    accepted = {row.id for row in ledger if row.status == "accepted"}
    if accepted and accepted != set(ids):
        different = sorted(accepted ^ set(ids))
        found.append(f"{path}: ledger.csv and index.parquet disagree about {len(different)} ids, as {different[0]}")
    return found


def _record_problems(dataset: StructureDataset, record_id: str) -> list[str]:
    try:
        record = dataset.load(record_id)
        check_storable(record)
    except (DatasetError, ValueError, IndexError) as error:
        return [f"{dataset.path}: record {record_id} cannot be loaded ({error})"]
    row, wrong = dataset.row(record_id), []
    if len(record) != row["length"] or int(record.ca_mask.sum()) != row["n_observed"]:
        wrong.append(f"{dataset.path}: record {record_id} has not the length or observed residues of its index row")
    return wrong
