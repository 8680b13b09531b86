"""Which models of a structure file are read: the first, one by its number, or all of them (NMR)."""

import os
from collections.abc import Sequence
from typing import Literal

from data_prep.structure.structure_bytes import StructureError

ModelChoice = int | Literal["all"] | None
"""A stated number, all, or (None) the first that holds atoms."""


def choose_models(path: str | os.PathLike, numbers: Sequence[int], choice: ModelChoice) -> range | list[int]:
    """Positions of the chosen models among the ``numbers`` of those that hold atoms, in file order.

    Raises ``StructureError`` for a number that is not there.
    """
    if choice == "all":
        return range(len(numbers))
    if choice is None:
        return [0]
    if choice in numbers:
        return [numbers.index(choice)]
    shown = ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
    raise StructureError(path, f"has no model {choice}: its models are {shown}")


def model_note(n_models: int, position: int, choice: ModelChoice) -> list[str]:
    """The warning that a record of one of several models carries; none where the file has one."""
    if n_models == 1:
        return []
    if choice == "all":
        return [f"model {position + 1} of {n_models}"]
    return [f"{n_models} models, the {'first' if choice is None else 'chosen'} one was read"]
