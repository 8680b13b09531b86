"""Training and validation chains, by whole clusters, so that no validation chain has a relative in training."""

import hashlib
from collections.abc import Sequence

import numpy as np

from data_prep.clusters import Similarity, clusters
from data_prep.dataset import Placement


class SplitError(ValueError):
    """A split that cannot be made as asked. ``str()`` is one line."""


def split_by_cluster(
    ids: Sequence[str],
    sequences: Sequence[str],
    pairs: Sequence[Similarity],
    *,
    level: float,
    val_fraction: float = 0.1,
    val_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Placement]:
    """Cluster at identity ``level`` and give each chain a split: 'train', 'val' or 'none'.

    Without ``val_ids`` whole clusters are drawn for validation until ``val_fraction`` of the chains is reached, at
    least one if there are two clusters; a cluster that would overshoot is passed over while others may fit. The draw
    depends on ``seed`` and on the sequences alone, neither on names nor on the order of the input.
    With ``val_ids`` (record ids) exactly those are validation chains, and the other members of their clusters are in
    neither split ('none'), so that nothing leaks. Raises ``SplitError`` for unknown ids or nothing left to train on.
    """
    labels = clusters(len(ids), pairs, level)
    sizes = np.bincount(labels)
    if val_ids is not None:
        splits = _by_ids(ids, labels, val_ids)
    else:
        chosen = _draw(sequences, labels, sizes, val_fraction, seed)
        splits = ["val" if label in chosen else "train" for label in labels.tolist()]
    if "train" not in splits:
        raise SplitError("every chain is in a validation cluster: nothing is left to train on")
    nearest = _nearest_training(splits, pairs)
    return {
        ids[i]: Placement(
            split=splits[i],
            cluster=int(labels[i]),
            cluster_size=int(sizes[labels[i]]),
            nearest_train_id=ids[nearest[i][1]] if i in nearest else None,
            nearest_train_identity=nearest[i][0] if i in nearest else None,
        )
        for i in range(len(ids))
    }


def _by_ids(ids: Sequence[str], labels: np.ndarray, val_ids: Sequence[str]) -> list[str]:
    unknown = sorted(set(val_ids) - set(ids))
    if unknown:
        shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        raise SplitError(f"{len(unknown)} validation ids are not in the dataset: {shown}")
    wanted = set(val_ids)
    touched = {label for record_id, label in zip(ids, labels.tolist(), strict=True) if record_id in wanted}
    return [
        "val" if record_id in wanted else "none" if label in touched else "train"
        for record_id, label in zip(ids, labels.tolist(), strict=True)
    ]


def _draw(sequences: Sequence[str], labels: np.ndarray, sizes: np.ndarray, fraction: float, seed: int) -> set[int]:
    """Labels of the clusters drawn for validation."""
    if fraction == 0 or len(sizes) < 2:
        return set()
    key: dict[int, str] = {}
    for label, sequence in zip(labels.tolist(), sequences, strict=True):
        digest = hashlib.sha256(f"{seed}:{sequence}".encode()).hexdigest()
        key[label] = min(key.get(label, digest), digest)
    order = sorted(key, key=key.__getitem__)
    target = fraction * len(labels)
    chosen: set[int] = set()
    count = 0
    for label in order:
        if count + sizes[label] <= target:
            chosen.add(label)
            count += int(sizes[label])
    if not chosen:  # every cluster is larger than the share that was asked for: take the smallest
        chosen.add(min(order, key=lambda label: sizes[label]))
    return chosen


def _nearest_training(splits: Sequence[str], pairs: Sequence[Similarity]) -> dict[int, tuple[float, int]]:
    """Of each validation chain with a similar training chain: the highest identity and that chain."""
    nearest: dict[int, tuple[float, int]] = {}
    for pair in pairs:
        for val, train in ((pair.i, pair.j), (pair.j, pair.i)):
            is_crossing = splits[val] == "val" and splits[train] == "train"
            if is_crossing and pair.identity > nearest.get(val, (-1.0, 0))[0]:
                nearest[val] = (pair.identity, train)
    return nearest
