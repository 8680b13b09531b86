"""Which chain of a prediction is which chain of the truth.

The sequences decide first: the assignment that brings most residues of the same name together is taken. Of equals, as
between the copies of one chain, it is the one that keeps the most distances, distances between chains included: the
objective of the score itself, so that it does not matter how chains are called or ordered. Few assignments are all
tried; more are built up greedily from several starts and then improved by single moves and exchanges until none helps.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data_prep.structure.record import ProteinRecord
from evaluation.lddt_scores import THRESHOLDS, PairBlock, pair_blocks, preserved_thresholds, thousandths
from evaluation.match import MIN_IDENTITY, Correspondence, MatchError, match_residues

_TRY_ALL = 5000  # assignments up to which all are tried
_STARTS = 8  # greedy constructions beyond that

Assignment = tuple[int | None, ...]
"""For each chain of the truth the chain of the prediction, or None."""


@dataclass(frozen=True, eq=False)
class ChainMatch:
    """How the chains and residues of a prediction correspond to those of the truth."""

    assignment: Assignment
    """For each chain of the truth the index of the prediction's chain, or None."""
    correspondences: tuple[Correspondence | None, ...]
    """For each chain of the truth its residues' counterparts, None without a chain."""
    named: bool
    """The user named the chains; otherwise they were found."""


def match_chains(
    truth: Sequence[ProteinRecord],
    prediction: Sequence[ProteinRecord],
    mode: str = "auto",
    min_identity: float = MIN_IDENTITY,
    chain_map: Mapping[str, str] | None = None,
) -> ChainMatch:
    """Assigns the prediction's chains to the truth's.

    Args:
        truth: the chains of the truth.
        prediction: the chains of the prediction.
        mode: how residues are paired, one of ``evaluation.match.MODES``.
        min_identity: ``Correspondence.identity`` below which two chains are not the same protein.
        chain_map: the truth's chain id -> the prediction's, where the user names them. Chains of the truth that it
            leaves out have no counterpart.

    Raises:
        MatchError: no chain of the prediction fits any chain of the truth, or ``chain_map`` names one that is not
            there or does not fit.
    """
    candidates = {
        (t, p): match_residues(true_chain, pred_chain, mode)
        for t, true_chain in enumerate(truth)
        for p, pred_chain in enumerate(prediction)
    }
    fitting = {
        pair: candidate
        for pair, candidate in candidates.items()
        if len(candidate.true_index) and candidate.identity >= min_identity
    }
    if chain_map is not None:
        assignment = _named_assignment(truth, prediction, chain_map)
        for pair in _pairs(assignment):
            if pair not in fitting:
                raise MatchError(_why_not(truth, prediction, {pair: candidates[pair]}, min_identity))
    elif not fitting:
        raise MatchError(_why_not(truth, prediction, candidates, min_identity))
    elif len(candidates) == 1:
        assignment = (0,)
    else:
        assignment = _Search(truth, prediction, fitting).best()
    correspondences = tuple(None if p is None else fitting[t, p] for t, p in enumerate(assignment))
    return ChainMatch(assignment, correspondences, named=chain_map is not None)


class _Search:
    """Finds the assignment with the most residues in common and, of equals, the most distances kept.

    Both are one sum, over the truth's chains and over the pairs of them, whose terms depend on the chains of the
    prediction that stand for them: distances kept count 1, a residue more than all distances together. Every term is
    computed once, from the contacts of the truth alone.
    """

    def __init__(
        self,
        truth: Sequence[ProteinRecord],
        prediction: Sequence[ProteinRecord],
        fitting: Mapping[tuple[int, int], Correspondence],
    ):
        self.n_true, self.n_pred = len(truth), len(prediction)
        self.options = [[p for p in range(self.n_pred) if (t, p) in fitting] for t in range(self.n_true)]
        self._placed = {pair: self._place(truth, prediction, *pair, fitting[pair]) for pair in fitting}
        self._lengths = [len(record) for record in truth]
        self._contacts = _contacts_by_chains(truth)
        self._identical = {pair: correspondence.identical for pair, correspondence in fitting.items()}
        self._residue_weight = 1 + len(THRESHOLDS) * sum(len(c[0]) for c in self._contacts.values())
        self._terms: dict[tuple[int, int, int, int], int] = {}
        self._same_name = {(t, p) for t, p in fitting if truth[t].chain_id == prediction[p].chain_id}

    @staticmethod
    def _place(truth, prediction, t: int, p: int, correspondence: Correspondence) -> np.ndarray:
        """float64 [residues of chain t, 3], thousandths of an angstrom: the alpha carbons of chain p in the places of
        chain t's, nan where there is none, so that no distance to it is kept."""
        positions = np.full((len(truth[t]), 3), np.nan)
        positions[correspondence.true_index] = thousandths(prediction[p].ca_positions[correspondence.pred_index])
        return positions

    def best(self) -> Assignment:
        count = 1
        for options in self.options:
            count *= len(options) + 1
        if count <= _TRY_ALL:
            return max(self._all(), key=self._rank)
        longest = max((t for t in range(self.n_true) if self.options[t]), key=self._lengths.__getitem__)
        starts = [self._improve(self._greedy(longest, p)) for p in self.options[longest][:_STARTS]]
        return max(starts, key=self._rank)

    def _rank(self, assignment: Assignment) -> tuple[int, int, int, tuple[int, ...]]:
        """The sum; of equals the assignment with more chains, then with more chains of the same name, then in the
        order of the files."""
        pairs = _pairs(assignment)
        order = tuple(-(self.n_pred if p is None else p) for p in assignment)
        return (
            self._sum(assignment, range(self.n_true)),
            len(pairs),
            sum(pair in self._same_name for pair in pairs),
            order,
        )

    def _term(self, t1: int, p1: int, t2: int, p2: int) -> int:
        """Distances kept between chains t1 and t2 (t1 <= t2) of the truth when p1 and p2 stand for them; for a chain
        with itself its residues too."""
        key = (t1, p1, t2, p2)
        if key not in self._terms:
            none = np.zeros(0, dtype=np.int64)
            first, second, true_distance = self._contacts.get((t1, t2), (none, none, none))
            apart = self._placed[t1, p1][first] - self._placed[t2, p2][second]
            block = PairBlock(first, second, true_distance, np.sqrt((apart**2).sum(axis=-1)))
            own = self._identical[t1, p1] * self._residue_weight if t1 == t2 else 0
            self._terms[key] = own + int(preserved_thresholds(block.error).sum())
        return self._terms[key]

    def _all(self) -> Iterator[Assignment]:
        def extend(assignment: Assignment) -> Iterator[Assignment]:
            if len(assignment) == self.n_true:
                yield assignment
                return
            yield from extend((*assignment, None))
            for p in self.options[len(assignment)]:
                if p not in assignment:
                    yield from extend((*assignment, p))

        return extend(())

    def _greedy(self, t: int, p: int) -> Assignment:
        """From one pair of chains on, adds the pair that gains most until no chain is left."""
        chosen: list[int | None] = [None] * self.n_true
        gain = {(a, b): self._term(a, b, a, b) for a in range(self.n_true) for b in self.options[a]}
        while True:
            chosen[t] = p
            gain = {(a, b): value for (a, b), value in gain.items() if a != t and b != p}
            if not gain:
                return tuple(chosen)
            for a, b in gain:
                gain[a, b] += self._term(a, b, t, p) if a < t else self._term(t, p, a, b)
            t, p = max(gain, key=lambda pair: (gain[pair], pair in self._same_name))

    def _improve(self, assignment: Assignment) -> Assignment:
        """Moves one chain to a free one or exchanges two, as long as that makes the sum larger."""
        chosen = list(assignment)
        improved = True
        while improved:
            improved = False
            for changes in self._moves(chosen):
                before = self._sum(chosen, changes)
                old = {t: chosen[t] for t in changes}
                for t, p in changes.items():
                    chosen[t] = p
                if self._sum(chosen, changes) > before:
                    improved = True
                else:
                    for t, p in old.items():
                        chosen[t] = p
        return tuple(chosen)

    def _sum(self, chosen: Sequence[int | None], among: Collection[int]) -> int:
        """Terms that involve at least one of the truth's chains ``among``."""
        pairs = _pairs(chosen)
        total = 0
        for t, p in pairs:
            if t in among:
                others = (other for other in pairs if other[0] not in among or other[0] <= t)  # each term once
                total += sum(self._term(*min((t, p), other), *max((t, p), other)) for other in others)
        return total

    def _moves(self, chosen: Sequence[int | None]) -> Iterator[dict[int, int | None]]:
        """Changes of an assignment, each as {chain of the truth: its new counterpart}."""
        for t in range(self.n_true):
            for p in self.options[t]:
                if p not in chosen:
                    yield {t: p}
        for a, b in combinations(range(self.n_true), 2):
            pa, pb = chosen[a], chosen[b]
            if (pa is None or pa in self.options[b]) and (pb is None or pb in self.options[a]) and pa != pb:
                yield {a: pb, b: pa}


def _pairs(assignment: Sequence[int | None]) -> list[tuple[int, int]]:
    return [(t, p) for t, p in enumerate(assignment) if p is not None]


def _contacts_by_chains(truth: Sequence[ProteinRecord]) -> dict[tuple[int, int], tuple[np.ndarray, ...]]:
    """For each two chains a <= b of the truth that touch: residue of a, residue of b (int64 [P], within their
    chains), their distance (float64 [P], thousandths of an angstrom)."""
    chain = np.repeat(np.arange(len(truth)), [len(record) for record in truth])
    within = np.concatenate([np.arange(len(record)) for record in truth])
    positions = np.concatenate([record.ca_positions for record in truth])
    mask = np.concatenate([record.ca_mask for record in truth])
    blocks = list(pair_blocks(positions, positions, mask, chain))
    if not blocks:
        return {}
    first, second = (np.concatenate([getattr(block, end) for block in blocks]) for end in ("first", "second"))
    distance = np.concatenate([block.true_distance for block in blocks])
    code = chain[first] * len(truth) + chain[second]
    order = np.argsort(code, kind="stable")
    codes, starts = np.unique(code[order], return_index=True)
    return {
        divmod(int(one), len(truth)): (within[first[rows]], within[second[rows]], distance[rows])
        for one, rows in zip(codes, np.split(order, starts[1:]), strict=True)
    }


def _named_assignment(
    truth: Sequence[ProteinRecord], prediction: Sequence[ProteinRecord], chain_map: Mapping[str, str]
) -> Assignment:
    """``chain_map`` as indices."""
    index = {record.chain_id: p for p, record in reversed(list(enumerate(prediction)))}
    for whose, records, names in (("truth", truth, chain_map), ("prediction", prediction, chain_map.values())):
        there = [record.chain_id for record in records]
        for name in names:
            if name not in there:
                raise MatchError(f"the {whose} has no chain {name!r}, only {_listed(there)}: correct the chain map")
    return tuple(index[chain_map[record.chain_id]] if record.chain_id in chain_map else None for record in truth)


def _why_not(
    truth: Sequence[ProteinRecord],
    prediction: Sequence[ProteinRecord],
    candidates: Mapping[tuple[int, int], Correspondence],
    min_identity: float,
) -> str:
    """One line on the nearest miss."""
    (t, p), best = max(candidates.items(), key=lambda item: (item[1].identical, item[1].identity))
    chains = f"chain {prediction[p].chain_id!r} of the prediction and {truth[t].chain_id!r} of the truth"
    if not len(best.true_index):
        return f"no residue of {chains} corresponds by {best.mode}: try --match align, or check the pairing"
    return (
        f"sequence identity too low to pair {chains}: {best.identity:.2f} of the shorter one (paired by {best.mode}), "
        f"expected at least {min_identity:g}: is it the same protein? (--min-identity)"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
