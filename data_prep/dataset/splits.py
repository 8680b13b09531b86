"""Training, validation and test chains, by whole clusters, so that no held-out chain has a relative in training."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dataset.clusters import Similarity, clusters
from data_prep.dataset.store import Placement
from data_prep.files.errors import UserError
from data_prep.files.text import is_date, some

HELD_OUT = ("val", "test")
"""Splits that training must not see relatives of."""


class SplitError(UserError):
    """A split that cannot be made as asked."""


@dataclass(frozen=True)
class SplitSettings:
    """How chains become training, validation and test chains; see ``split_by_cluster``."""

    identity: float = 0.3
    val_fraction: float = 0.1
    val_ids: tuple[str, ...] | None = None
    """If given, these are the validation chains, whatever ``val_fraction``."""
    test_ids: tuple[str, ...] | None = None
    """If given, these are the test chains."""
    val_from: str | None = None
    """ISO date; if given, chains released from this day on are for validation, whatever ``val_fraction``."""
    seed: int = 0
    test_fraction: float = 0.0
    """Share of the chains that is drawn for test, before those for validation; not with ``test_ids``."""

    def __post_init__(self) -> None:
        if not 0 < self.identity <= 1:
            raise ValueError(f"identity is {self.identity}, expected more than 0 and at most 1")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}, expected 0 or more and less than 1")
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction is {self.test_fraction}, expected 0 or more and less than 1")
        if self.test_fraction and self.test_ids is not None:
            raise ValueError("test chains are given by test_ids and by test_fraction: choose one")
        if self.val_from is not None and not is_date(self.val_from):
            raise ValueError(f"val_from is {self.val_from}, expected a date as 2020-05-01")
        if self.val_from is not None and self.val_ids is not None:
            raise ValueError("validation chains are given by val_ids and by val_from: choose one")
        both = sorted(set(self.val_ids or ()) & set(self.test_ids or ()))
        if both:
            raise ValueError(f"{both[0]} is listed for validation and for test")


def split_by_cluster(
    ids: Sequence[str],
    sequences: Sequence[str],
    pairs: Sequence[Similarity],
    settings: SplitSettings,
    *,
    release_dates: Sequence[str | None] | None = None,
    together: Sequence[tuple[str, str]] = (),
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Placement]:
    """Cluster at ``settings.identity`` and give each chain a split: 'train', 'val', 'test' or 'none'.

    ``pairs`` number the different ``sequences`` by first appearance; chains of one sequence share its cluster.
    ``together`` are pairs of ids that share a cluster whatever their sequences (models of one chain). ``left_out``
    says of chains that are not among ``ids`` why, for the error about them.

    - By draw (the default): whole clusters for validation until ``val_fraction`` of the chains is reached, at least
      one if there are two clusters; a cluster that would overshoot is passed over while others may fit. The draw
      depends on ``seed`` and on the sequences alone, neither on names nor on the order of the input.
    - ``val_ids``, ``test_ids``: exactly those, and the other members of their clusters are in no split ('none').
    - ``val_from``: older chains are for training. Chains released from that day on are for validation if no older
      chain is in their cluster, else 'none'; so are chains without a date. The split is by time and by cluster.

    ``test_ids``, or a draw of ``test_fraction``, goes before the others. Raises ``SplitError`` for unknown ids or
    nothing left to train on.
    """
    numbers: dict[str, int] = {}
    number = np.array([numbers.setdefault(sequence, len(numbers)) for sequence in sequences], dtype=np.int64)
    number_of = dict(zip(ids, number.tolist(), strict=True))
    joined = [sorted((number_of[a], number_of[b])) for a, b in together]
    tied = [Similarity(i, j, 1.0) for i, j in joined]
    labels = clusters(len(numbers), [*pairs, *tied], settings.identity)[number]
    sizes = np.bincount(labels)
    splits = _by_ids(ids, labels, {"test": settings.test_ids or (), "val": settings.val_ids or ()}, left_out or {})

    def drawn(name: str, fraction: float, seed: int) -> list[str]:
        free = {label for label, split in zip(labels.tolist(), splits, strict=True) if split == "train"}
        chosen = _draw(sequences, labels, sizes, free, fraction, seed)
        return [name if label in chosen else split for label, split in zip(labels.tolist(), splits, strict=True)]

    if settings.test_fraction:
        splits = drawn("test", settings.test_fraction, settings.seed + 1)  # another draw than that for validation
    if settings.val_from is not None:
        splits = _by_date(splits, labels, release_dates or [None] * len(ids), settings.val_from)
    elif settings.val_ids is None:
        splits = drawn("val", settings.val_fraction, settings.seed)
    if "train" not in splits:
        raise SplitError("every chain is held out or related to one that is: nothing is left to train on")
    nearest = _nearest_training(number.tolist(), splits, pairs)
    placements = {}
    for i, record_id in enumerate(ids):
        near, value = nearest.get(int(number[i]), (None, None)) if splits[i] in HELD_OUT else (None, None)
        placements[record_id] = Placement(
            split=splits[i],
            cluster=int(labels[i]),
            cluster_size=int(sizes[labels[i]]),
            nearest_train_id=None if near is None else ids[near],
            nearest_train_identity=value,
        )
    return placements


def _by_ids(
    ids: Sequence[str], labels: np.ndarray, wanted: dict[str, Sequence[str]], left_out: Mapping[str, str]
) -> list[str]:
    """The splits of named chains, 'none' for their relatives, 'train' for the rest."""
    words = {"test": "test", "val": "validation"}
    named: dict[str, str] = {}
    for split, names in wanted.items():
        unknown = sorted(set(names) - set(ids))
        if unknown:
            shown = some([f"{name} ({left_out[name]})" if name in left_out else name for name in unknown])
            raise SplitError(f"{len(unknown)} {words[split]} ids are not in the dataset: {shown}")
        named |= dict.fromkeys(names, split)
    touched = {label for record_id, label in zip(ids, labels.tolist(), strict=True) if record_id in named}
    return [
        named.get(record_id, "none" if label in touched else "train")
        for record_id, label in zip(ids, labels.tolist(), strict=True)
    ]


def _by_date(splits: Sequence[str], labels: np.ndarray, dates: Sequence[str | None], val_from: str) -> list[str]:
    """Of the chains that are still 'train', which are new and without older relatives, and which have no place."""
    places = list(zip(labels.tolist(), splits, dates, strict=True))
    with_older = {label for label, split, date in places if split == "train" and date is not None and date < val_from}
    return [
        split
        if split != "train"
        else "none"
        if date is None or (date >= val_from and label in with_older)
        else "val"
        if date >= val_from
        else "train"
        for label, split, date in places
    ]


def _draw(
    sequences: Sequence[str], labels: np.ndarray, sizes: np.ndarray, free: set[int], fraction: float, seed: int
) -> set[int]:
    """Labels of the clusters drawn for validation, of those that are ``free``."""
    if fraction == 0 or len(free) < 2:
        return set()
    key: dict[int, str] = {}
    for label, sequence in zip(labels.tolist(), sequences, strict=True):
        if label in free:
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


def _nearest_training(
    number: Sequence[int], splits: Sequence[str], pairs: Sequence[Similarity]
) -> dict[int, tuple[int, float]]:
    """By sequence of a held-out chain: the first training chain of highest identity, and that identity.

    ``number`` is the sequence of each chain. One sequence never has chains both in training and held out.
    """
    first_train: dict[int, int] = {}
    for i, (sequence, split) in enumerate(zip(number, splits, strict=True)):
        if split == "train":
            first_train.setdefault(sequence, i)
    held_out = {sequence for sequence, split in zip(number, splits, strict=True) if split in HELD_OUT}
    nearest: dict[int, tuple[int, float]] = {}
    for pair in pairs:
        for here, there in ((pair.i, pair.j), (pair.j, pair.i)):
            if here in held_out and there in first_train and pair.identity > nearest.get(here, (0, -1.0))[1]:
                nearest[here] = (first_train[there], pair.identity)
    return nearest
