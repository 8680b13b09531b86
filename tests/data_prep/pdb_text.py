"""Small PDB files written by hand, for the tests of this directory."""

from collections.abc import Iterable

Atom = tuple[str, str, int, str, float]
"""Atom name, residue name, residue number, insertion code, x."""


def atom_line(
    name: str,
    resname: str,
    number: int,
    x: float,
    *,
    chain: str = "A",
    icode: str = " ",
    altloc: str = " ",
    occupancy: float = 1.0,
    record: str = "ATOM",
) -> str:
    """One ATOM record at (x, 0, 0)."""
    return (
        f"{record:<6s}    1  {name:<3s}{altloc}{resname:>3s} {chain}{number:4d}{icode}   "
        f"{x:8.3f}{0:8.3f}{0:8.3f}{occupancy:6.2f}{10:6.2f}          {name[0]:>2s}"
    )


def residue(resname: str, number: int, x: float, **options) -> list[str]:
    """Backbone of one residue, N at x, CA at x + 1, C at x + 2, O at x + 2.5; the next bonded N is at x + 3.3."""
    return [
        atom_line(name, resname, number, x + shift, **options)
        for name, shift in (("N", 0), ("CA", 1), ("C", 2), ("O", 2.5))
    ]


def chain(residues: Iterable[tuple[str, int]], *, bonded: bool = True, **options) -> list[str]:
    """Residues 3.3 A apart, so that C and the next N are bonded (1.3 A) where the numbers are consecutive."""
    lines, x, previous = [], 0.0, None
    for resname, number in residues:
        x += 3.3 if previous is None or (bonded and number - previous <= 1) else 20.0
        lines += residue(resname, number, x, **options)
        previous = number
    return lines


def seqres(names: list[str], chain: str = "A") -> list[str]:
    """SEQRES records."""
    return [
        f"SEQRES {i // 13 + 1:3d} {chain} {len(names):4d}  {' '.join(names[i : i + 13])}"
        for i in range(0, len(names), 13)
    ]


def text(*parts: list[str]) -> bytes:
    """A file of these lines."""
    return ("\n".join([line for part in parts for line in part] + ["END"]) + "\n").encode()
