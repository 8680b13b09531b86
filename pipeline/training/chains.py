"""The chains that a run draws from: a dataset, and beside it, if asked, one of predicted structures."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.structure.record import ProteinRecord
from pipeline.config.schema import DataConfig
from pipeline.training.sampler import sampling_weights


@dataclass(frozen=True)
class ChainSource:
    """Training chains of one dataset."""

    dataset: StructureDataset
    ids: tuple[str, ...]
    predicted: bool
    """Predicted structures do not train the confidence."""


class TrainingChains:
    """Chains of one or two sources in one list, with the probability of each."""

    def __init__(self, sources: list[tuple[ChainSource, float]], by_cluster: bool) -> None:
        """``sources`` with the share of the samples that each gives."""
        self.sources = [source for source, _ in sources]
        self._first = np.cumsum([0, *(len(source.ids) for source in self.sources)])
        lengths = [source.dataset.column("length", source.ids) for source in self.sources]
        self.lengths = np.concatenate(lengths)
        weights = []
        for part, (source, share) in zip(lengths, sources, strict=True):
            clusters = source.dataset.column("cluster_size", source.ids) if by_cluster else None
            weights.append(share * sampling_weights(part, clusters))
        self.weights: np.ndarray = np.concatenate(weights)
        """float64 [chains], sum 1."""

    def _place(self, chain: int) -> tuple[ChainSource, str]:
        number = int(np.searchsorted(self._first, chain, side="right")) - 1
        source = self.sources[number]
        return source, source.ids[chain - self._first[number]]

    def name(self, chain: int) -> str:
        """Id of a chain in its dataset."""
        return self._place(chain)[1]

    def load(self, chain: int) -> tuple[ProteinRecord, bool]:
        """The record of a chain, and whether it is a prediction."""
        source, name = self._place(chain)
        return source.dataset.load(name), source.predicted


def training_chains(dataset: StructureDataset, config: DataConfig) -> TrainingChains:
    """What the configuration says to draw from. Raises DatasetError: nothing to train on."""
    own = ChainSource(dataset, own_ids(dataset, config), predicted=False)
    if not config.extra:
        return TrainingChains([(own, 1.0)], config.cluster_sampling)
    second = StructureDataset(config.extra)
    extra = ChainSource(second, _train_ids(second), predicted=True)
    return TrainingChains([(own, 1 - config.extra_fraction), (extra, config.extra_fraction)], config.cluster_sampling)


def validation_records(dataset: StructureDataset, config: DataConfig, limit: int) -> list[ProteinRecord]:
    """Return the chains to validate on, at most ``limit`` (0: all): held-out ones spread over their clusters
    (``spread_over_clusters``), or the first training chains of an overfit run."""
    if config.overfit:
        names = list(own_ids(dataset, config))
        names = names[:limit] if limit else names
    else:
        names = spread_over_clusters(dataset, dataset.ids("val"), limit)
    return [dataset.load(name) for name in names]


def spread_over_clusters(dataset: StructureDataset, names: Sequence[str], limit: int, draw: int = 0) -> list[str]:
    """Return ``limit`` of the chains (0: all) in their order, one of each cluster before a second one of any.

    Which clusters, and which of their chains, hashes of the sequences decide: neither names nor order matter, and a
    smaller sample is a part of a larger one. Another ``draw`` gives other hashes.
    """
    if not limit or limit >= len(names):
        return list(names)
    sequences, clusters = dataset.column("sequence", names), dataset.column("cluster", names)
    salt = str(draw) if draw else ""
    places = [(hashlib.sha256((salt + sequence).encode()).hexdigest(), i) for i, sequence in enumerate(sequences)]
    taken: Counter[int] = Counter()
    order = []
    for digest, i in sorted(places):
        order.append((taken[clusters[i]], digest, i))
        taken[clusters[i]] += 1
    return [names[i] for i in sorted(i for *_, i in sorted(order)[:limit])]


def own_ids(dataset: StructureDataset, config: DataConfig) -> tuple[str, ...]:
    """Return the training chains of ``dataset`` that a run draws from, in their order.

    Raises DatasetError: there are none, or fewer than ``train_size``.
    """
    ids = _train_ids(dataset)
    if config.train_size > len(ids):
        raise DatasetError(
            f"{dataset.path}: data.train_size = {config.train_size}, and its training split has {len(ids)} chains"
        )
    ids = tuple(spread_over_clusters(dataset, ids, config.train_size, config.train_draw))
    return ids[: config.overfit] if config.overfit else ids


def panel_records(path: str) -> list[ProteinRecord]:
    """All chains of the dataset of a forgetting check; none without a path. Raises DatasetError."""
    if not path:
        return []
    dataset = StructureDataset(path)
    return [dataset.load(name) for name in dataset.ids()]


def _train_ids(dataset: StructureDataset) -> tuple[str, ...]:
    ids = tuple(dataset.ids("train"))
    if not ids:
        raise DatasetError(f"{dataset.path}: no chain in the training split: see the options of pipeline.prepare")
    return ids
