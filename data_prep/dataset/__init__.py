"""Protein records to datasets: filters, clusters, splits, shards, the ledger."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.dataset.store import StructureDataset

__all__ = ["StructureDataset"]


def __getattr__(name: str) -> Any:
    """``StructureDataset``, loaded when it is asked for: the table formats behind it take time."""
    if name == "StructureDataset":
        from data_prep.dataset.store import StructureDataset

        return StructureDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
