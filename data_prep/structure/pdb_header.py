"""The header of a PDB file: sequences, modified residues, resolution, method, dates."""

import re
from collections.abc import Iterable

from data_prep.files.dates import is_date
from data_prep.structure.pdb_fields import MONTHS


class PdbHeader:
    """What the records beside the atoms say."""

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
            chain = parts.setdefault(line[10:12].strip(), [])
            chain.append((int(serial) if serial.isdecimal() else len(chain) + 1, line[19:70].split()))
        return {
            chain: tuple(name for _, names in sorted(rows, key=lambda row: row[0]) for name in names)
            for chain, rows in parts.items()
        }

    def parents(self) -> dict[str, str]:
        """MODRES: component -> standard component."""
        pairs = ((line[12:15].strip(), line[24:27].strip()) for line in self.records.get("MODRES", []))
        return {component: parent for component, parent in pairs if component and parent}

    def resolution(self) -> float | None:
        """REMARK 2, angstrom."""
        for line in self.records.get("REMARK", []):
            match = re.search(r"RESOLUTION\.\s+(\d+\.\d*|\.\d+)\s+ANGSTROM", line)
            if match and float(match[1]) > 0:
                return float(match[1])
        return None

    def method(self) -> str | None:
        """EXPDTA; several methods are joined by '; '."""
        words = " ".join(line[10:79].strip() for line in self.records.get("EXPDTA", []))
        methods = [" ".join(part.split()).upper() for part in words.split(";")]
        return "; ".join(part for part in methods if part) or None

    def deposition_date(self) -> str | None:
        """ISO date of HEADER."""
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
    date = f"{1900 + year if year >= 70 else 2000 + year}-{MONTHS.index(match[2]) + 1:02d}-{match[1]}"
    return date if is_date(date) else None
