"""Protein records to datasets: filters, clusters, splits, shards, the ledger."""

from data_prep.dataset.store import StructureDataset

__all__ = ["StructureDataset"]
