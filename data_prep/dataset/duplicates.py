"""Chains with identical sequences: which one to keep."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ChainQuality:
    """What decides between chains of one sequence."""

    id: str
    sequence: str
    resolution: float | None
    n_observed: int
    """Residues with an alpha carbon."""


def repeated_sequences(chains: Iterable[ChainQuality]) -> dict[str, str]:
    """Id of each chain that repeats the sequence of a better one -> id of that one.

    Better is of lower resolution value (none stated is worst), then with more residues observed, then first by id, so
    that the choice does not depend on the order of the input.
    """

    def order(chain: ChainQuality) -> tuple:
        return (float("inf") if chain.resolution is None else chain.resolution, -chain.n_observed, chain.id)

    best: dict[str, ChainQuality] = {}
    listed = list(chains)
    for chain in listed:
        if chain.sequence not in best or order(chain) < order(best[chain.sequence]):
            best[chain.sequence] = chain
    return {chain.id: best[chain.sequence].id for chain in listed if best[chain.sequence] is not chain}
