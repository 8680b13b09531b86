"""PDB text to ``ParsedStructure`` (format version 3.3, wwPDB 2012, and what older and foreign writers made of it).

The columns are cut here and not by a parser library: the ones measured turn ``********`` or a blank into 0.0, refuse
pre-1996 files whose columns 73-80 carry the entry id, or stop at a line that is only foreign.
"""

import re
from collections.abc import Iterable

import numpy as np

from data_prep.atom_site import AtomSite, ParsedStructure, plausible
from data_prep.pdb_fields import HYBRID36_DIGITS, MONTHS
from data_prep.structure_bytes import StructureError

MAX_DAMAGED_FRACTION = 0.02
"""Share of damaged ATOM records above which a file is refused as a whole."""

_WIDTH = 80
_DECIMAL_BYTES = np.isin(np.arange(256), list(b" +-.0123456789"))
_COORDINATE = re.compile(rb" *[-+]?(\d+\.?\d*|\.\d+) *")


def parse_pdb(path: str, data: bytes, model: int | None = None) -> ParsedStructure:
    """Parse PDB text; ``model`` is a number stated in a MODEL record, None is the first model.

    Raises ``StructureError`` without ATOM records, for a model that is not there, for text in other than fixed
    columns, and where more than ``MAX_DAMAGED_FRACTION`` of the ATOM records are damaged.
    """
    lines = data.splitlines()
    chosen, numbers = _choose_model(path, lines, model)
    atom_lines: list[bytes] = []
    segment: list[int] = []
    ters: dict[bytes, int] = {}
    for line in chosen:
        if line.startswith((b"ATOM", b"HETATM")):
            atom_lines.append(line)
            segment.append(ters.get(line[21:22], 0))
        elif line.startswith(b"TER") and line[3:6].strip() == b"":
            # A bare "TER" ends the chain of the atom before it.
            chain = line[21:22] or (atom_lines[-1][21:22] if atom_lines else b" ")
            ters[chain] = ters.get(chain, 0) + 1
    if not atom_lines:
        raise StructureError(path, "no ATOM records")
    tabs = sum(b"\t" in line for line in atom_lines)
    if tabs > len(atom_lines) / 2:
        raise StructureError(path, f"not fixed-column PDB: tabs in {tabs} of {len(atom_lines)} ATOM records")

    warnings = []
    last_line = next((line for line in reversed(lines) if line.strip()), b"")
    if last_line is atom_lines[-1] and len(last_line) < 54:
        warnings.append(f"the file ends inside an ATOM record, which was dropped: {_shown(last_line)}")
        atom_lines.pop()
        segment.pop()
        if not atom_lines:
            raise StructureError(path, "no complete ATOM record: the file is truncated")
    atoms, damage = _atom_site(atom_lines, segment)
    if len(damage) > MAX_DAMAGED_FRACTION * len(atom_lines) and len(damage) > 1:
        raise StructureError(
            path, f"damaged ATOM records: {len(damage)} of {len(atom_lines)}, for example {_shown(damage[0])}"
        )
    if not len(atoms):
        raise StructureError(path, f"no sound ATOM record, for example {_shown(damage[0])}")
    if damage:
        warnings.append(f"{len(damage)} damaged ATOM records dropped, for example {_shown(damage[0])}")
    if len(numbers) > 1:
        warnings.append(f"{len(numbers)} models, the {'first' if model is None else 'chosen'} one was read")
    model_number = numbers[0] if model is None and numbers else (model or 1)
    header = _Header(lines)
    return ParsedStructure(
        atoms=atoms,
        sequences=header.sequences(),
        parents=header.parents(),
        n_models=max(len(numbers), 1),
        model_number=model_number,
        resolution=header.resolution(),
        method=header.method(),
        deposition_date=header.deposition_date(),
        release_date=header.release_date(),
        warnings=tuple(warnings),
    )


def _choose_model(path: str, lines: list[bytes], model: int | None) -> tuple[list[bytes], list[int]]:
    """Lines of the chosen model, and the number of each model in file order (their order where none is stated)."""
    starts = [i for i, line in enumerate(lines) if line[:6].rstrip() == b"MODEL"]
    if not starts:
        if model not in (None, 1):
            raise StructureError(path, f"has no model {model}: it has no MODEL records")
        return lines, []
    numbers = []
    for order, start in enumerate(starts, start=1):
        text = lines[start][6:].strip()
        numbers.append(int(text) if text.isdigit() else order)
    if model is None:
        index = 0
    elif model in numbers:
        index = numbers.index(model)
    else:
        shown = ", ".join(map(str, numbers[:10])) + (" ..." if len(numbers) > 10 else "")
        raise StructureError(path, f"has no model {model}: its models are {shown}")
    end = starts[index + 1] if index + 1 < len(starts) else len(lines)
    part = lines[starts[index] : end]
    closing = next((i for i, line in enumerate(part) if line.startswith(b"ENDMDL")), len(part))
    return part[:closing], numbers


def _shown(line: bytes) -> str:
    return '"' + ascii(line[:66].decode("latin-1").rstrip())[1:-1] + '"'


def _atom_site(lines: list[bytes], segment: list[int]) -> tuple[AtomSite, list[bytes]]:
    """Columns of the sound ATOM records, and the damaged records."""
    table = np.array([line[:_WIDTH].ljust(_WIDTH) for line in lines], dtype=f"S{_WIDTH}")
    table = table.view(np.uint8).reshape(len(lines), _WIDTH)
    # Latin-1 or control bytes inside a record are damage; in headers they are nobody's concern.
    sound = ((table[:, :54] >= 32) & (table[:, :54] < 127)).all(axis=1)

    def column(start: int, stop: int) -> np.ndarray:
        return np.ascontiguousarray(table[:, start:stop]).view(f"S{stop - start}")[:, 0]

    xyz, stated = _numbers([column(30, 38), column(38, 46), column(46, 54)], np.nan)
    seqnum, numbered = _residue_numbers(column(22, 26))
    sound &= stated.all(axis=1) & numbered & plausible(xyz)
    keep = np.flatnonzero(sound)
    damage = [lines[i] for i in np.flatnonzero(~sound)]
    rest, _ = _numbers([column(54, 60)[keep]], 1.0)
    b_factor, _ = _numbers([column(60, 66)[keep]], 0.0)

    def text(start: int, stop: int) -> np.ndarray:
        return np.char.strip(column(start, stop)[keep].astype(f"U{stop - start}"))

    return AtomSite(
        name=text(12, 16),
        altloc=text(16, 17),
        resname=text(17, 20),
        chain=text(21, 22),
        segment=np.array(segment)[keep].astype(str),
        seqnum=seqnum[keep],
        icode=text(26, 27),
        label_seq=np.zeros(len(keep), dtype=np.int32),
        hetero=table[keep, 0] == ord("H"),
        xyz=xyz[keep],
        occupancy=rest[:, 0].astype(np.float32),
        b_factor=b_factor[:, 0].astype(np.float32),
    ), damage


def _numbers(columns: list[np.ndarray], default: float) -> tuple[np.ndarray, np.ndarray]:
    """float64 [A, len(columns)] and which of them are decimal numbers; ``default`` where not."""
    stacked = np.stack(columns, axis=1)
    if _DECIMAL_BYTES[stacked.view(np.uint8)].all():  # else "nan", "inf", "1e5" and "1_0" would be numbers too
        try:
            return stacked.astype(np.float64), np.ones(stacked.shape, dtype=bool)
        except ValueError:
            pass
    stated = np.array([[_COORDINATE.fullmatch(cell) is not None for cell in row] for row in stacked.tolist()])
    stated = stated.reshape(stacked.shape)
    return np.where(stated, np.where(stated, stacked, b"0").astype(np.float64), default), stated


def _residue_numbers(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int32 [A] and which are numbers; hybrid-36 (A000 = 10000, Grosse-Kunstleve, cctbx) is understood."""
    unique, inverse = np.unique(column, return_inverse=True)
    values = [_residue_number(cell.decode("latin-1").strip()) for cell in unique.tolist()]
    numbers = np.array([0 if value is None else value for value in values], dtype=np.int32)
    return numbers[inverse], np.array([value is not None for value in values])[inverse]


def _residue_number(text: str) -> int | None:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"[A-Z][0-9A-Z]{3}|[a-z][0-9a-z]{3}", text):
        value = 0
        for digit in text.upper():
            value = value * 36 + HYBRID36_DIGITS.index(digit)
        upper = value - 10 * 36**3 + 10_000
        return upper if text[0].isupper() else upper + 26 * 36**3
    return None


class _Header:
    """The records before the atoms, by name."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        wanted = (b"HEADER", b"EXPDTA", b"REVDAT", b"REMARK   2", b"SEQRES", b"MODRES")
        self.records: dict[str, list[str]] = {}
        for line in lines:
            if line.startswith(wanted):
                text = line.decode("latin-1")
                self.records.setdefault(text[:6], []).append(text)

    def sequences(self) -> dict[str, tuple[str, ...]]:
        """SEQRES component ids by chain id, in the order of the serial numbers."""
        parts: dict[str, list[tuple[int, list[str]]]] = {}
        for line in self.records.get("SEQRES", []):
            serial = line[7:10].strip()
            chain = parts.setdefault(line[11:12].strip(), [])
            chain.append((int(serial) if serial.isdigit() else len(chain) + 1, line[19:70].split()))
        return {
            chain: tuple(name for _, names in sorted(rows, key=lambda row: row[0]) for name in names)
            for chain, rows in parts.items()
        }

    def parents(self) -> dict[str, str]:
        """MODRES: component -> standard component."""
        pairs = ((line[12:15].strip(), line[24:27].strip()) for line in self.records.get("MODRES", []))
        return {component: parent for component, parent in pairs if component and parent}

    def resolution(self) -> float | None:
        for line in self.records.get("REMARK", []):
            match = re.search(r"RESOLUTION\.\s+(\d+\.\d*|\.\d+)\s+ANGSTROM", line)
            if match and float(match[1]) > 0:
                return float(match[1])
        return None

    def method(self) -> str | None:
        words = " ".join(line[10:79].strip() for line in self.records.get("EXPDTA", []))
        methods = [" ".join(part.split()).upper() for part in words.split(";")]
        return "; ".join(part for part in methods if part) or None

    def deposition_date(self) -> str | None:
        return next((_iso_date(line[50:59]) for line in self.records.get("HEADER", [])), None)

    def release_date(self) -> str | None:
        """The date of modification 1, which is the first release."""
        for line in self.records.get("REVDAT", []):
            if line[7:10].strip() == "1" and line[10:12].strip() == "" and (date := _iso_date(line[13:22])):
                return date
        return None


def _iso_date(text: str) -> str | None:
    """'06-MAR-06' to '2006-03-06'; years from 70 on are of the 20th century (the PDB began in 1971)."""
    match = re.fullmatch(r"(\d\d)-([A-Z]{3})-(\d\d)", text.strip().upper())
    if match is None or match[2] not in MONTHS:
        return None
    year = int(match[3])
    return f"{1900 + year if year >= 70 else 2000 + year}-{MONTHS.index(match[2]) + 1:02d}-{match[1]}"
